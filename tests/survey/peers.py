"""Peers: the same network exported and run by other tools, beside zoo, in one run of alternating rounds.

    python tests/survey/peers.py runs/eln-1/bundle --imgsz 192,256

The bundle has been exported (`zoo export --precision fp32,int8`). Packages that zoo does not need
(`segmentation_models_pytorch`, `optimum` with `optimum-onnx`) are measured where they are installed; a peer
that fails has a row with its reason. The results are `docs/results/peers.json` and `peers.md`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import openvino
import torch
from torch import Tensor, nn

from zoo.bundle.bundle import load_config, write_json
from zoo.bundle.weights import load_bundle
from zoo.data.open import open_source
from zoo.machine import cpu_model
from zoo.predictors.backends import version_of, versions
from zoo.predictors.eager import Normalized
from zoo.predictors.load import load_predictor
from zoo.preprocess import resize_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Images = NDArray[np.uint8]
    Run = Callable[[Images], NDArray[Any]]
    Record = dict[str, Any]
    Pair = tuple[float, float]

ROUNDS = 15
IMAGES = 16
"""Number of images on which masks are compared."""

RESULTS = Path(__file__).parents[2] / "docs/results"
PACKAGES = ("timm", "segmentation-models-pytorch", "optimum", "optimum-onnx", "transformers", "onnx")
INPUT, OUTPUT = "image", "mask"
BENCHMARK_APP = "import sys; from openvino.tools.benchmark.main import main; sys.exit(main())"
"""What the command `benchmark_app` runs."""


class Masks(nn.Module):
    """What a user would export: uint8 images in, uint8 masks out, nothing prepared for the export."""

    def __init__(self, scores: nn.Module) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, H, W) masks of (B, H, W, 3) images."""
        found: Tensor = self.scores(image.permute(0, 3, 1, 2).float()).argmax(dim=1)
        return found.to(torch.uint8)


class Scaled(nn.Module):
    """A network of `segmentation_models_pytorch` on images from 0 to 255."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K, H, W) logits."""
        logits: Tensor = self.network(images / 127.5 - 1)
        return logits


def by_torch(model: nn.Module, images: Images) -> NDArray[Any]:
    """Return masks by PyTorch."""
    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(images)))


def by_ort(path: Path) -> Run:
    """Return a plain session of ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})[0]  # type: ignore[no-any-return]


def by_openvino(model: Any) -> Run:
    """Return a model compiled by OpenVINO, for latency."""
    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    return lambda images: request.infer([images])[0].copy()  # type: ignore[no-any-return]


def exported(model: nn.Module, sample: Tensor, path: Path, *, dynamo: bool) -> Path:
    """Return an ONNX file by `torch.onnx.export`, of the size of a sample.

    With the sizes dynamic, it did not finish in minutes for networks with TensorFlow's padding.
    """
    names: Record = {"input_names": [INPUT], "output_names": [OUTPUT]}
    torch.onnx.export(model, (sample,), path, dynamo=dynamo, verbose=False, **names)
    return path


def by_optimum(model: nn.Module, sample: Tensor, path: Path) -> Run:
    """Return the file that `optimum` exports; it must be told what transformers' own models know."""
    convert = importlib.import_module("optimum.exporters.onnx.convert")
    configs = importlib.import_module("optimum.exporters.onnx.config")
    inputs = importlib.import_module("optimum.utils.input_generators")
    normalized = importlib.import_module("optimum.utils.normalized_config")
    transformers = importlib.import_module("transformers")

    class Pictures(inputs.DummyInputGenerator):  # type: ignore[name-defined,misc]
        SUPPORTED_INPUT_NAMES = (INPUT,)

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def generate(self, *_: Any, **__: Any) -> Tensor:
            return sample

    class Config(configs.OnnxConfig):  # type: ignore[name-defined,misc]
        NORMALIZED_CONFIG_CLASS = normalized.NormalizedConfig
        DUMMY_INPUT_GENERATOR_CLASSES = (Pictures,)
        inputs = {INPUT: {0: "b", 1: "h", 2: "w"}}  # noqa: RUF012 - the library's properties
        outputs = {OUTPUT: {0: "b", 1: "h", 2: "w"}}  # noqa: RUF012

    model.config = transformers.PretrainedConfig()  # type: ignore[assignment]
    config = Config(model.config, task="semantic-segmentation")
    convert.export(model, config, path, opset=18)
    return by_ort(path)


def smp_network(classes: int, encoder: str) -> nn.Module:
    """Return the same architecture by `segmentation_models_pytorch`, with random weights."""
    smp = importlib.import_module("segmentation_models_pytorch")
    network = smp.DeepLabV3Plus(
        encoder_name=f"tu-{encoder}",
        encoder_weights=None,
        encoder_output_stride=16,
        decoder_channels=64,
        decoder_atrous_rates=(6, 12, 18),
        classes=classes,
    )
    return Masks(Scaled(network)).eval()


def builders(bundle: Path, folder: Path, size: tuple[int, int]) -> dict[str, Callable[[], Run]]:
    """Return what builds each peer for images of a size, by name."""
    deployable, config = load_bundle(bundle)
    model = Masks(Normalized(deployable, config.preprocessing)).eval()
    blank = torch.zeros(1, *size, 3, dtype=torch.uint8)
    encoder = deployable.config.networks[0].encoder
    own = {
        f"{backend} {precision} (zoo)": partial(_zoo, bundle, backend, precision)
        for backend in ("ort", "openvino")
        for precision in ("fp32", "int8")
    }

    def of_torch(*, dynamo: bool) -> Path:
        path = folder / f"plain{dynamo:d}.onnx"
        return path if path.is_file() else exported(model, blank, path, dynamo=dynamo)

    def of_smp(made: nn.Module) -> Path:
        return exported(made, blank, folder / "smp.onnx", dynamo=True)

    smp: dict[str, nn.Module] = {}

    def smp_eager() -> Run:
        torch.manual_seed(0)
        smp["model"] = smp_network(len(config.classes.names), encoder)
        return partial(by_torch, smp["model"])

    return {
        "eager": lambda: partial(by_torch, model),
        "eager (zoo)": partial(_zoo, bundle, "eager", None),
        **own,
        "torch.compile": lambda: partial(by_torch, torch.compile(model, dynamic=False)),
        "torch.onnx + ORT": lambda: by_ort(of_torch(dynamo=True)),
        "torch.onnx (TorchScript) + ORT": lambda: by_ort(of_torch(dynamo=False)),
        "optimum + ORT": lambda: by_optimum(model, blank, folder / "optimum.onnx"),
        "openvino.convert_model": lambda: by_openvino(_converted(model, blank, folder)),
        "torch.onnx + OpenVINO": lambda: by_openvino(str(of_torch(dynamo=True))),
        "smp eager": smp_eager,
        "smp torch.onnx + ORT": lambda: by_ort(of_smp(smp["model"])),
    }


def _zoo(bundle: Path, backend: str, precision: Any) -> Run:
    return load_predictor(bundle, backend=backend, threads=1, precision=precision).run


def _converted(model: nn.Module, sample: Tensor, folder: Path) -> Any:
    """Return a model converted by OpenVINO from PyTorch, also saved for `benchmark_app`."""
    converted = openvino.convert_model(model, example_input=sample, input=[-1, -1, -1, 3])
    openvino.save_model(converted, folder / "converted.xml", compress_to_fp16=False)
    return converted


def built(
    makers: dict[str, Callable[[], Run]], image: Images
) -> tuple[dict[str, Run], dict[str, str], dict[str, float]]:
    """Return the peers that run, why the others do not, and the processor time to build each."""
    runs, failed, seconds = {}, {}, {}
    for name, make in makers.items():
        sys.stdout.write(f"building {name}\n")
        begin = time.process_time()
        try:
            run = make()
            run(image)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            sys.stdout.write(f"  {failed[name]}\n")
        else:
            runs[name], seconds[name] = run, time.process_time() - begin
    return runs, failed, seconds


def timed(runs: dict[str, Run], image: Images, rounds: int) -> dict[str, list[Pair]]:
    """Return processor and wall seconds of each peer in each round; the first round is not counted."""
    found: dict[str, list[Pair]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run(image)
            if number:
                found[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return found


def benchmark_app(xml: Path, size: tuple[int, int], seconds: int) -> float:
    """Return the median latency in milliseconds that OpenVINO's `benchmark_app` reports."""
    shape = f"[1,{size[0]},{size[1]},3]"
    command = [sys.executable, "-c", BENCHMARK_APP, "-m", xml, "-shape", shape]
    command += [
        "-nthreads",
        "1",
        "-nstreams",
        "1",
        "-nireq",
        "1",
        "-api",
        "sync",
        "-t",
        str(seconds),
        "-hint",
        "none",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=environment
    )
    found = re.search(r"Median:\s+([\d.]+) ms", done.stdout)
    if found is None:
        raise RuntimeError((done.stdout + done.stderr)[-300:])
    return float(found[1])


def figures_of(base: Sequence[Pair], pairs: Sequence[Pair]) -> Record:
    """Return the medians of a peer, and of its speed-up over another in each round."""
    found = {}
    for index, kind in enumerate(("cpu", "wall")):
        found[f"{kind}_ms"] = 1000 * median(pair[index] for pair in pairs)
        found[f"{kind}_ratio"] = median(a[index] / b[index] for a, b in zip(base, pairs, strict=True))
    return found


def measured(bundle: Path, size: tuple[int, int], rounds: int) -> Record:
    """Return all figures."""
    config = load_config(bundle)
    source = open_source(config.data_spec)
    images = np.stack([resize_image(source.read_image(id_), size) for id_ in source.ids("val")[:IMAGES]])
    with tempfile.TemporaryDirectory(prefix="zoo-peers-") as folder:
        runs, failed, build = built(builders(bundle, Path(folder), size), images[:1])
        masks = {name: np.concatenate([run(each[None]) for each in images]) for name, run in runs.items()}
        before = os.getloadavg()[0]
        seconds = timed(runs, images[:1], rounds)
        load = [before, os.getloadavg()[0]]
        converted = "openvino.convert_model" in runs
        of_app = benchmark_app(Path(folder) / "converted.xml", size, 8) if converted else None
    peers = {}
    for name, pairs in seconds.items():
        base = "smp eager" if name.startswith("smp") else "eager"
        agreement = float((masks[name] == masks[base]).mean())
        peers[name] = figures_of(seconds[base], pairs) | {"agreement": agreement, "build_s": build[name]}
    return {
        "machine": cpu_model(),
        "model": f"{config.method}, {config.deployable.networks[0].encoder}",
        "versions": versions() | {name: version_of(name) for name in PACKAGES},
        "imgsz": list(size),
        "rounds": rounds,
        "load": load,
        "peers": peers,
        "benchmark_app_ms": of_app,
        "failed": failed,
    }


def page(found: Record) -> str:
    """Return the page of results."""
    known = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    height, width = found["imgsz"]
    low, high = sorted(found["load"])
    lines = [
        f"""# Peers

`python tests/survey/peers.py runs/NAME/bundle --imgsz {height},{width}`: one trained network
({found["model"]}), exported and run by other tools and by `zoo`, in one process with one thread, batch 1,
{height}x{width}, {found["rounds"]} rounds in which all take turns. {found["machine"]}.
{known}. [JSON](peers.json)

**The machine was shared with other work** (load average {low:.1f} to {high:.1f} on {os.cpu_count()} cores):
compare ratios, first those of processor time, in which waiting does not count. *Speed-up* is over plain eager
PyTorch in the same round (median). *Agreement* is the share of pixels with eager's class on {IMAGES} `val`
images. `smp` has the same architecture with random weights: its rows are compared with its own eager run.
*Build* is the processor time to export and load; `zoo`'s files existed. Files of `torch.onnx` and `optimum`
are for images of this size, those of `zoo` and `openvino.convert_model` for any.

| | processor ms | speed-up, processor | speed-up, wall | agreement | build s |
|---|--:|--:|--:|--:|--:|"""
    ]
    for name, row in found["peers"].items():
        cells = (
            f"{row['cpu_ms']:.1f}",
            f"{row['cpu_ratio']:.2f}x",
            f"{row['wall_ratio']:.2f}x",
            f"{row['agreement']:.3%}",
            f"{row['build_s']:.1f}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if found["benchmark_app_ms"] is not None:
        own = found["peers"]["openvino.convert_model"]["wall_ms"]
        lines += [
            "",
            f"""OpenVINO's `benchmark_app` on the model of `openvino.convert_model`, right after:
{found["benchmark_app_ms"]:.1f} ms (median, wall); the same model in the rounds above: {own:.1f} ms.""",
        ]
    if found["failed"]:
        lines += ["", "## Not measured", ""]
        lines += [f"- {name}: {reason}" for name, reason in found["failed"].items()]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure peers and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--imgsz", default="192,256", metavar="H,W")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    asked = parser.parse_args()
    height, width = map(int, asked.imgsz.split(","))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found = measured(asked.bundle, (height, width), asked.rounds)
    write_json(asked.out / "peers.json", found)
    (asked.out / "peers.md").write_text(page(found))


if __name__ == "__main__":
    main()
