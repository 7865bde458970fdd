"""TensorRT engines built from ONNX files.

`tensorrt` tunes on this machine's GPU and builds for it alone. `tensorrt_rtx` builds for a list of compute
capabilities on any machine, and compiles the rest when the engine first runs.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from zoo.bundle.manifest import sha256
from zoo.errors import BundleError, ExportError
from zoo.predictors.artifact import INPUT_NAME, EngineInfo, Profile, read_engine_info
from zoo.predictors.runtimes.trt_api import TensorRt, load_tensorrt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.predictors.artifact import ArtifactMetadata

    Say = Callable[[str], None]

DEFAULT_SM = (86, 89, 120)  # GeForce RTX 30, 40 and 50, and their workstation siblings
TURING = 75  # would slow later GPUs down in a shared engine
MIN_SIDE = 32
QUARTERS = 4


class Target(NamedTuple):
    """Target of one engine."""

    sm: tuple[int, ...] = ()
    """Compute capabilities, for TensorRT-RTX."""
    gpu: str = ""
    """Name of this machine's GPU, for TensorRT."""

    @property
    def label(self) -> str:
        """Return the target's part of the engine's name."""
        return f"sm{'-'.join(map(str, self.sm))}" if self.sm else re.sub(r"[^A-Za-z0-9]+", "-", self.gpu)


def load_builder(sm: tuple[int, ...]) -> TensorRt:
    """Return the package to build with: `tensorrt` if it is installed, `tensorrt_rtx` if `sm` is given.

    Raises:
        ExportError: none is installed, or not the one that `sm` needs.
    """
    if not sm:
        return load_tensorrt()
    try:
        return load_tensorrt("rtx")
    except ExportError as error:
        raise ExportError(
            f"--sm needs TensorRT-RTX: {error}; tensorrt builds for the GPU of this machine, without --sm"
        ) from error


def build_targets(api: TensorRt, sm: tuple[int, ...]) -> tuple[Target, ...]:
    """Return the targets of the engines to build; SM 75 gets its own engine.

    Args:
        api: package returned by `load_builder`.
        sm: requested compute capabilities; empty for the default.

    Raises:
        ExportError: a compute capability is not supported, or `tensorrt` has no GPU.
    """
    if api.flavor == "trt":
        if not torch.cuda.is_available():
            raise ExportError(
                f"{api.name} builds on the GPU that will run the engine, but PyTorch finds no GPU: export "
                f"there, or pip install 'semiseg-zoo[rtx]' to build for RTX GPUs on this machine"
            )
        return (Target(gpu=torch.cuda.get_device_name()),)
    names = re.findall(r"SM(\d+)", " ".join(api.module.ComputeCapability.__members__))
    supported = sorted(map(int, names))
    wanted = sorted(set(sm or DEFAULT_SM))
    if unknown := [number for number in wanted if number not in supported]:
        raise ExportError(
            f"--sm {unknown[0]} is not supported by {api.name}, expected some of "
            f"{', '.join(map(str, supported))}; data center GPUs such as SM 90 and 100 need tensorrt: "
            f"pip install 'semiseg-zoo[trt]' on the machine that has one"
        )
    groups = [number for number in wanted if number == TURING], [n for n in wanted if n != TURING]
    return tuple(Target(sm=tuple(group)) for group in groups if group)


def make_profile(imgsz: tuple[int, int], batch: tuple[int, int, int]) -> Profile:
    """Return the optimization profile of an engine: shapes up to `imgsz`, optimal at it.

    Args:
        imgsz: height and width that images are resized to fit into.
        batch: minimum, optimal and maximum batch.
    """
    height, width = imgsz
    low, usual, high = batch
    return Profile(
        min=(low, min(MIN_SIDE, height), min(MIN_SIDE, width)),
        opt=(usual, height, width),
        max=(high, height, width),
    )


def plan_engine(
    api: TensorRt, onnx: Path, metadata: ArtifactMetadata, target: Target, profile: Profile
) -> EngineInfo:
    """Return the facts of an engine to be built, without its size and build time.

    Args:
        api: package returned by `load_builder`.
        onnx: ONNX file; the engine has its precision, because networks are strongly typed.
        metadata: metadata of `onnx`.
        target: target from `build_targets`.
        profile: shapes that the engine accepts.
    """
    return EngineInfo(
        metadata=metadata,
        onnx_sha256=sha256(onnx),
        flavor=api.flavor,
        version=api.version,
        sm=target.sm,
        gpu=target.gpu,
        profile=profile,
        build_seconds=0,
        bytes=0,
    )


def is_built(engine: Path, planned: EngineInfo) -> bool:
    """Return whether an existing engine is the one that would be built."""
    try:
        info = read_engine_info(engine)
    except BundleError:
        return False
    unknown = {"build_seconds": 0, "bytes": 0}
    return (
        engine.is_file()
        and engine.stat().st_size == info.bytes
        and info.model_copy(update=unknown) == planned
    )


def build_engine(
    api: TensorRt, onnx: Path, planned: EngineInfo, say: Say = lambda _: None
) -> tuple[bytes, EngineInfo]:
    """Return an engine and its facts.

    Args:
        api: package returned by `load_builder`.
        onnx: ONNX file, whose hash is in `planned`.
        planned: facts from `plan_engine`.
        say: called with lines about the progress.

    Raises:
        ExportError: TensorRT refused the graph or the options; the message has its reasons.
    """
    start = time.perf_counter()
    api.logger.errors.clear()
    try:
        plan = _build(api, onnx, planned, say)
    except (RuntimeError, TypeError, ValueError) as error:  # from the bindings: a null pointer, a bad value
        raise _refusal(api, onnx, str(error)) from error
    seconds = round(time.perf_counter() - start, 2)
    return plan, planned.model_copy(update={"build_seconds": seconds, "bytes": len(plan)})


def engine_name(info: EngineInfo) -> str:
    """Return the file name of an engine, which includes its target."""
    label = Target(info.sm, info.gpu).label
    return f"model.{info.metadata.precision}.{info.flavor}{info.version}.{label}.engine"


def _build(api: TensorRt, onnx: Path, planned: EngineInfo, say: Say) -> bytes:
    builder = api.module.Builder(api.logger)
    network = builder.create_network(_strongly_typed(api))
    parser = api.module.OnnxParser(network, api.logger)
    if not parser.parse_from_file(str(onnx)):
        reasons = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
        raise _refusal(api, onnx, *reasons)
    config = builder.create_builder_config()
    config.progress_monitor = monitor = _monitor(api, say)
    if planned.sm:
        _set_targets(api, config, planned.sm)
    profile = planned.profile
    shapes = builder.create_optimization_profile()
    low, usual, high = ((*shape, 3) for shape in (profile.min, profile.opt, profile.max))
    shapes.set_shape(INPUT_NAME, low, usual, high)
    if config.add_optimization_profile(shapes) < 0:
        raise _refusal(api, onnx, f"profile {profile.min} to {profile.max}")
    plan = builder.build_serialized_network(network, config)
    del monitor  # the configuration holds no reference to it
    if plan is None:
        raise _refusal(api, onnx)
    return bytes(plan)


def _monitor(api: TensorRt, say: Say) -> Any:
    """Return a progress monitor that reports at each quarter of TensorRT's outermost phase."""
    base: Any = api.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            steps = self.steps.get(phase_name, 0)
            if steps >= QUARTERS and (step + 1) % (steps // QUARTERS) == 0:
                say(f"{api.name}: {phase_name}: {step + 1} of {steps}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _set_targets(api: TensorRt, config: Any, sm: tuple[int, ...]) -> None:
    config.num_compute_capabilities = len(sm)
    for index, number in enumerate(sm):
        if not config.set_compute_capability(getattr(api.module.ComputeCapability, f"SM{number}"), index):
            raise ExportError(f"{api.name} refused SM {number}: {api.drain()}")


def _strongly_typed(api: TensorRt) -> int:
    """Return the flag for strongly typed networks; later versions have no other kind."""
    flag = getattr(api.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _refusal(api: TensorRt, onnx: Path, *reasons: str) -> ExportError:
    return ExportError(
        f"{api.name} refused {onnx.name} ({api.drain(*reasons)}): "
        f"the ONNX file itself passed; use it with ONNX Runtime, or try --precision fp32"
    )
