"""ONNX Runtime backend on NVIDIA GPUs, with CUDA graphs.

Inputs and outputs are bound to memory of PyTorch (IO binding), and all work runs on a stream of PyTorch. One
session captures a graph for each shape, identified by `gpu_graph_id`, as ONNX Runtime's own
`transformers.io_binding_helper` does. Since single graphs cannot be freed, a shape is captured on its second
run, so that many images of different sizes use none.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch

from zoo.errors import BundleError
from zoo.predictors.artifact import INPUT_NAME
from zoo.predictors.bound import BoundPredictor, Opened, new_stream
from zoo.predictors.runtimes.ort import ORT_ERRORS, PROVIDERS, limits_of, metadata_of, open_session, run_error
from zoo.predictors.session import Session, forked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from zoo.predictors.artifact import Shape
    from zoo.predictors.bound import Buffers
    from zoo.predictors.limits import Limits

log = logging.getLogger(__name__)

BINDING_ERRORS: tuple[type[Exception], ...] = (RuntimeError, *ORT_ERRORS)
MAX_GRAPHS = 16
NO_GRAPH = -1
REFUSAL = "graph capture"
"""Part of ONNX Runtime's message for a model that cannot be captured."""


class Runtime(NamedTuple):
    """A session, and the ids of graphs that are still free."""

    session: onnxruntime.InferenceSession
    cuda_graph: bool
    graphs: Iterator[int]


class OrtCudaPredictor(BoundPredictor):
    """An exported ONNX file on a GPU.

    Args:
        path: path of the file; the bundle is not needed.
        device: `cuda` or `cuda:N`; `cpu` works the same way without stream and graphs.
        cuda_graph: whether to replay CUDA graphs instead of launching each kernel.

    Raises:
        BundleError: a file that cannot be loaded, or a GPU that is not available.
    """

    backend = "ort"

    def __init__(self, path: Path, device: str = "cuda", *, cuda_graph: bool = True) -> None:
        if device != "cpu" and not torch.cuda.is_available():
            open_session(path, device)  # raises what is missing
            raise BundleError(f"device {device} cannot be used: PyTorch finds no NVIDIA GPU; run on the CPU")
        stream = new_stream(device)
        wanted = cuda_graph and stream is not None
        session = Session(path, partial(open_on, path, device, stream, cuda_graph=wanted), alone=True)
        with session.use() as opened:
            runtime: Runtime = opened.runtime
            super().__init__(path, metadata_of(runtime.session, path), device, stream, session)
            self.cuda_graph = runtime.cuda_graph
            self._limits = limits_of(runtime.session, self.metadata, run_options(NO_GRAPH, wait=True))
            if self.metadata.smallest is None and max(self._limits.low[1:]) > 1:
                session.forget(opened)  # runs of smaller images have failed

    @property
    def description(self) -> str:
        """Return ONNX Runtime's version, the active provider and whether CUDA graphs are used."""
        graph = ", CUDA graphs" if self.cuda_graph else ""
        return f"ONNX Runtime {onnxruntime.__version__} {PROVIDERS[self.device.type]}, IO binding{graph}"

    @property
    def limits(self) -> Limits:
        """Return the shapes that the file accepts."""
        return self._limits

    def bind(self, runtime: Runtime, shape: Shape, buffers: Buffers) -> Callable[[], None]:
        """Return the launch function of one shape."""
        session, _, graphs = runtime
        binding = session.io_binding()
        binding.bind_input(INPUT_NAME, *_place(buffers.image))
        for name, output in buffers.outputs.items():
            binding.bind_output(name, *_place(output))
        options, runs = run_options(NO_GRAPH), count()

        def launch() -> None:
            nonlocal options
            if next(runs) == 1:
                options = run_options(next(graphs, NO_GRAPH))
            try:
                session.run_with_iobinding(binding, options)
            except BINDING_ERRORS as error:
                raise run_error((*shape, self.format.channels), error) from error

        return launch


def open_on(path: Path, device: str, stream: torch.cuda.Stream | None, *, cuda_graph: bool) -> Opened:
    """Return a session that runs on a device, on a stream.

    Args:
        path: path of an ONNX file.
        device: `cuda` or `cuda:N`; `cpu` has no stream.
        stream: stream of PyTorch.
        cuda_graph: whether to capture graphs; a model that does not allow it is opened without.

    Raises:
        BundleError: a file that cannot be loaded, or a device that is not available, e.g. in a forked
            process.
    """
    if stream is not None and torch.cuda._is_in_bad_fork():
        raise forked("a model on a GPU")
    options = {} if stream is None else {"user_compute_stream": str(stream.cuda_stream)}
    try:
        session = open_session(path, device, cuda={**options, "enable_cuda_graph": f"{cuda_graph:d}"})
    except BundleError as error:
        if not cuda_graph or REFUSAL not in str(error):
            raise
        log.warning("running without CUDA graphs: %s", error)
        return open_on(path, device, stream, cuda_graph=False)
    graphs = range(MAX_GRAPHS if cuda_graph else 0)
    return Opened(Runtime(session, cuda_graph, iter(graphs)), OrderedDict())


def run_options(graph: int, *, wait: bool = False) -> onnxruntime.RunOptions:
    """Return the options of runs that capture or replay a graph.

    Args:
        graph: id of the graph; `NO_GRAPH` for none.
        wait: whether to wait for the GPU; otherwise, PyTorch's stream orders the work.
    """
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    options.add_run_config_entry("disable_synchronize_execution_providers", f"{not wait:d}")
    return options


def _place(tensor: Tensor) -> tuple[str, int, type[np.generic], list[int], int]:
    """Return device, element type, sizes and address of a tensor, as arguments of ONNX Runtime's binding."""
    element_type = getattr(np, str(tensor.dtype).removeprefix("torch."))
    return tensor.device.type, tensor.device.index or 0, element_type, list(tensor.shape), tensor.data_ptr()
