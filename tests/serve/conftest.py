"""Bundles that are quick to make and to measure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from tests.bundles import metadata_of
from zoo.bundle.bundle import CONFIG_NAME, BundleConfig
from zoo.classes import Classes
from zoo.data.shapes import NAMES
from zoo.export.graph.to_onnx import export_onnx
from zoo.models.config import NetworkConfig, StudentConfig
from zoo.models.deployable import Deployable
from zoo.predictors.artifact import INPUT_NAME, METADATA_KEY, ArtifactMetadata
from zoo.predictors.backends import versions
from zoo.predictors.eager import EagerPredictor
from zoo.preprocess import Preprocessing
from zoo.serve.bench.benchmark import benchmark
from zoo.serve.bench.machine import describe_machine
from zoo.serve.bench.measurement import Accuracy, Report, Row, Settings, Speedup, Throughput, Times

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Measure = Callable[..., Report]
    ExportPixels = Callable[..., tuple[Path, EagerPredictor]]
    MakeRow = Callable[..., Row]
    MakeReport = Callable[..., Report]


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Return a function that measures models in little time, on eager and what is always measured along.

    It takes settings by name, and `say` for what is to be told.
    """
    for name, little in {
        "timing.WARMUP_SECONDS": 0.0,
        "timing.WARMUP_RUNS": 2,
        "contender.IMAGES": 4,
    }.items():
        monkeypatch.setattr(f"zoo.serve.bench.{name}", little)

    def run(*models: Path, say: Callable[[str], None] = lambda _: None, **changes: Any) -> Report:
        quick = {"backends": ("eager",), "threads": 1, "seconds": 0.01, "min_runs": 10, "images": 0}
        return benchmark(models, Settings(**{**quick, **changes}), say)

    return run


@pytest.fixture
def shapes_bundle(bundle_copy: Path) -> Path:
    """Return a bundle with the class names of `shapes`."""
    name_classes(bundle_copy)
    return bundle_copy


@pytest.fixture
def shapes_onnx_bundle(onnx_bundle: Path) -> Path:
    """Return `onnx_bundle` with the class names of `shapes`."""
    name_classes(onnx_bundle)
    model = onnx.load(onnx_bundle / "model.onnx")
    [entry] = model.metadata_props
    entry.value = json.dumps(json.loads(entry.value) | {"names": NAMES})
    onnx.save(model, onnx_bundle / "model.onnx")
    return onnx_bundle


@pytest.fixture
def make_row() -> MakeRow:
    """Return a function that makes the row of a backend with this p50; fields by name."""

    def make(backend: str, p50: float, **changes: Any) -> Row:
        row = Row(
            model="runs/eln/bundle",
            backend=backend,
            precision="fp32",
            runtime="somewhere",
            artifact_bytes=161_600_000,
            data="shapes",
            imgsz=(512, 384),
            batch=1,
            scenarios=("SingleStream", "Offline"),
            end_to_end_ms=make_times(p50),
            throughput=Throughput(images_per_s=1000 / p50, queries=120, seconds=3, pipelined=False),
            speedup=Speedup(ratio=400 / p50, low=380 / p50, high=420 / p50),
            speedup_amp=Speedup(ratio=240 / p50, low=230 / p50, high=250 / p50),
            agreement=0.9999999,
            accuracy=Accuracy(miou=0.7121, delta=-0.0052, pixel_accuracy=0.93, images=64, available=1449),
        )
        return row.updated(**changes)

    return make


@pytest.fixture
def make_gpu_row(make_row: MakeRow) -> MakeRow:
    """Return a function that makes the row of a backend whose parts were timed on a GPU."""

    def make(backend: str, p50: float, **changes: Any) -> Row:
        parts = {"gpu_compute": 0.8 * p50, "h2d": 0.1 * p50, "d2h": 0.05 * p50, "latency": 0.95 * p50}
        times = {f"{part}_ms": make_times(milliseconds) for part, milliseconds in parts.items()}
        fields = {
            "enqueue_ms": make_times(0.1),
            "bytes_h2d": 512 * 384 * 3,
            "bytes_d2h": 512 * 384,
            "device_memory_bytes": 1_200_000_000,
            "cuda_graph": True,
        }
        return make_row(backend, p50, **times, **{**fields, **changes})

    return make


@pytest.fixture
def make_report() -> MakeReport:
    """Return a function that makes the report of rows, on a machine that does nothing else."""

    def make(*rows: Row, settings: Settings | None = None) -> Report:
        return Report(
            timestamp="2026-11-21T10:00:00+00:00",
            command="zoo benchmark runs/eln",
            machine=describe_machine() | {"load": 0.0, "load_after": 0.5},
            versions=versions(),
            settings=settings or Settings(threads=2),
            rows=rows,
        )

    return make


def make_times(p50: float) -> Times:
    return Times(n=120, min=p50 * 0.9, mean=p50 * 1.1, p50=p50, p90=p50 * 1.2, p99=None, rounds=(p50,) * 10)


def name_classes(bundle: Path) -> None:
    path = bundle / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"names": NAMES}))


@pytest.fixture
def onnx_bundle(bundle_copy: Path) -> Path:
    """Return a bundle whose `model.onnx` says class 1 where red is bright, unlike the network beside it."""
    metadata = metadata_of(bundle_copy)
    constants = {"zero": 0, "one": 1, "last": 3}
    nodes = [
        *(
            helper.make_node(
                "Constant", [], [name], value=helper.make_tensor(name, TensorProto.INT64, [1], [value])
            )
            for name, value in constants.items()
        ),
        helper.make_node(
            "Constant", [], ["bright"], value=helper.make_tensor("bright", TensorProto.UINT8, [], [127])
        ),
        helper.make_node("Slice", [INPUT_NAME, "zero", "one", "last"], ["red"]),
        helper.make_node("Squeeze", ["red", "last"], ["plane"]),
        helper.make_node("Greater", ["plane", "bright"], ["is_bright"]),
        helper.make_node("Cast", ["is_bright"], ["mask"], to=TensorProto.UINT8),
    ]
    image = helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["b", "h", "w", 3])
    mask = helper.make_tensor_value_info("mask", TensorProto.UINT8, ["b", "h", "w"])
    model = helper.make_model(
        helper.make_graph(nodes, "bright", [image], [mask]), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    helper.set_model_props(model, {METADATA_KEY: metadata.model_dump_json()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, bundle_copy / "model.onnx")
    return bundle_copy


class Pixels(Deployable):
    """As little as can be exported."""

    config = StudentConfig(network=NetworkConfig(num_classes=3))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, stride=4, padding=1)

    def decoder_logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.conv(images)
        return logits


def export_pixels(folder: Path, output: str) -> tuple[Path, EagerPredictor]:
    """Return an exported file of a tiny network, and the network itself."""
    classes = Classes.of(("sky", "road", "car"))
    preprocessing = Preprocessing(imgsz=(64, 64))
    metadata = ArtifactMetadata(
        names=classes.names,
        palette=classes.palette,
        preprocessing=preprocessing,
        precision="fp32",
        output=output,
        weights_sha256="0" * 64,
    )
    network = Pixels().eval()
    export_onnx(network, metadata, folder / "model.onnx")
    config = BundleConfig(
        deployable=network.config,
        method="supervised",
        names=classes.names,
        palette=classes.palette,
        preprocessing=preprocessing,
        recipe={},
    )
    return folder / "model.onnx", EagerPredictor(network, config)


@pytest.fixture(name="export_pixels")
def _export_pixels() -> ExportPixels:
    """Return `export_pixels`."""
    return export_pixels
