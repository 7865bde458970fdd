from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from zoo.bundle.manifest import read_manifest, sha256
from zoo.card.card import refresh_card
from zoo.cli import app
from zoo.errors import BundleError
from zoo.export.manifest import Artifact, update_manifest
from zoo.export.options import ExportOptions
from zoo.export.parity.accuracy import Accuracy, Change
from zoo.export.parity.compare import Difference, Parity
from zoo.export.parity.tolerance import GATES
from zoo.export.pipeline import export_bundle
from zoo.export.verify import verify_bundle
from zoo.serve.bench.measurement import Report, Row, Settings, Speedup, Throughput, Times
from zoo.serve.bench.report.page import write_report

if TYPE_CHECKING:
    from pathlib import Path


def artifact(bundle: Path, agreement: float | None = 0.9995, weights: str | None = None) -> Artifact:
    """Return what an export says of a file of a bundle, which is written."""
    (bundle / "model.fp16.onnx").write_bytes(b"0" * 2_000_000)
    change = Change(name="mIoU", reference=0.6, artifact=0.599, low=-0.004, high=0.002)
    difference = Difference(shape=(1, 64, 64), agreement=agreement or 0, differing=3, margin=0.001)
    accuracy = Accuracy(data="shapes", images=12, agreement=0.99, miou=change, classes=())
    parity = Parity(
        gate=GATES["fp16"], images="val", runtime="ORT", differences=(difference,), accuracy=accuracy
    )
    return Artifact(
        name="model.fp16.onnx",
        precision="fp16",
        bytes=2_000_000,
        parity=None if agreement is None else parity,
        facts={"metadata": {"weights_sha256": weights or sha256(bundle / "model.safetensors")}},
    )


def benchmark(*models: str, device: str = "cpu", quick: bool = False) -> Report:
    """Return a report of eager and of an ONNX file that is twice as fast, for each model."""
    rows = []
    for model in models:
        for backend, precision, p50 in (("eager", None, 10.0), ("ort", "fp16", 5.0)):
            times = Times(n=100, min=p50 - 1, mean=p50, p50=p50, p90=p50 + 1, p99=None, rounds=(p50,))
            rows.append(
                Row(
                    model=model,
                    backend=backend,
                    precision=precision,
                    data="shapes",
                    imgsz=(64, 64),
                    batch=1,
                    end_to_end_ms=times,
                    throughput=Throughput(images_per_s=1000 / p50, queries=100, seconds=1, pipelined=False),
                    speedup=Speedup(ratio=10 / p50, low=1, high=2),
                )
            )
        rows.append(Row(model=model, backend="trt", reason="no GPU"))
    return Report(
        timestamp="2026-11-21T16:00:00+00:00",
        command="zoo bench",
        machine={
            "cpu": "A fast one",
            "cores": 2,
            "system": "Linux",
            "load": 0.1,
            "gpu": {"name": "NVIDIA H100"} if device == "cuda" else None,
        },
        versions={"torch": "2.15"},
        settings=Settings(device=device, threads=2, quick=quick),
        rows=tuple(rows),
    )


def write_benchmark(bundle: Path, *models: str, **changes: Any) -> None:
    write_report(benchmark(*(models or (str(bundle),)), **changes), bundle / "benchmark")


def test_a_refreshed_card_tells_what_was_exported(bundle_copy: Path) -> None:
    update_manifest(bundle_copy, {"model.fp16.onnx": artifact(bundle_copy).entry({})})
    refresh_card(bundle_copy)
    card = (bundle_copy / "README.md").read_text()
    assert "| model.fp16.onnx | fp16 | 2.0 | 0.999500 | -0.10 [-0.40, +0.20] |" in card
    assert [
        finding.name for finding in verify_bundle(bundle_copy) if "README" in finding.name and finding.faults
    ] == []


def test_a_file_that_was_not_compared_is_said_to_be(bundle_copy: Path) -> None:
    update_manifest(bundle_copy, {"model.fp16.onnx": artifact(bundle_copy, agreement=None).entry({})})
    refresh_card(bundle_copy)
    assert "| model.fp16.onnx | fp16 | 2.0 | not compared |" in (bundle_copy / "README.md").read_text()


def test_a_file_of_other_weights_is_not_told(bundle_copy: Path) -> None:
    update_manifest(bundle_copy, {"model.fp16.onnx": artifact(bundle_copy, weights="0" * 64).entry({})})
    refresh_card(bundle_copy)
    assert "## Exported files" not in (bundle_copy / "README.md").read_text()


def test_a_refreshed_card_tells_latency_machine_and_time(bundle_copy: Path) -> None:
    write_benchmark(bundle_copy)
    refresh_card(bundle_copy)
    card = (bundle_copy / "README.md").read_text()
    assert "| eager | \N{EN DASH} | 1 | 64x64 | 10.00 | 11.00 | 100.0 | 1.00 |" in card
    assert "| ort | fp16 | 1 | 64x64 | 5.00 | 6.00 | 200.0 | 2.00 |" in card
    assert "on 2 threads of A fast one (2 cores), 2026-11-21" in card
    assert "trt" not in card.split("## Latency")[1].split("##")[0]
    assert "first look" not in card


def test_a_latency_on_a_gpu_names_it_and_a_quick_one_says_so(bundle_copy: Path) -> None:
    write_benchmark(bundle_copy, device="cuda", quick=True)
    refresh_card(bundle_copy)
    card = (bundle_copy / "README.md").read_text()
    assert "on NVIDIA H100, 2026-11-21" in card
    assert "A first look: few runs." in card


def test_figures_of_several_models_are_not_told_as_those_of_one(bundle_copy: Path) -> None:
    write_benchmark(bundle_copy, "a", "b")
    refresh_card(bundle_copy)
    assert "## Latency" not in (bundle_copy / "README.md").read_text()


def test_the_manifest_follows_the_card_and_the_benchmark(bundle_copy: Path) -> None:
    update_manifest(bundle_copy, {})
    before = read_manifest(bundle_copy)
    write_benchmark(bundle_copy)
    refresh_card(bundle_copy)
    assert all(not finding.faults for finding in verify_bundle(bundle_copy))
    after = read_manifest(bundle_copy)
    assert "benchmark/benchmark.json" in after.files
    assert after.files["model.safetensors"] == before.files["model.safetensors"]


def test_without_a_manifest_none_is_made(bundle_copy: Path) -> None:
    refresh_card(bundle_copy)
    assert not (bundle_copy / "manifest.json").exists()


def test_a_stated_license_stays_and_other_words_do_not(bundle_copy: Path) -> None:
    (bundle_copy / "README.md").write_text("---\nlicense: cc-by-4.0\ntags: [mine]\n---\n\nMy words\n")
    refresh_card(bundle_copy)
    card = ModelCard.load(bundle_copy / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert "mine" not in card.data.tags
    assert "My words" not in card.text


def test_a_card_whose_metadata_are_broken_is_an_error_of_one_line(bundle_copy: Path) -> None:
    (bundle_copy / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(BundleError, match=r"README\.md does not begin with valid YAML: correct it") as caught:
        refresh_card(bundle_copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "{}"])
def test_a_benchmark_that_is_none_is_an_error_of_one_line(text: str, bundle_copy: Path) -> None:
    (bundle_copy / "benchmark").mkdir()
    (bundle_copy / "benchmark" / "benchmark.json").write_text(text)
    with pytest.raises(BundleError, match=r"benchmark\.json is not a benchmark: delete it"):
        refresh_card(bundle_copy)


def test_a_picture_is_shown_if_the_bundle_holds_one(bundle_copy: Path) -> None:
    refresh_card(bundle_copy)
    assert "preview.png" not in (bundle_copy / "README.md").read_text()
    (bundle_copy / "preview.png").write_bytes(b"png")
    refresh_card(bundle_copy)
    assert "](preview.png)" in (bundle_copy / "README.md").read_text()


def test_a_card_is_written_at_once_or_not_at_all(bundle_copy: Path) -> None:
    stored = json.loads((bundle_copy / "config.json").read_text())
    recipe = {"data": {"spec": "/data/\udcff"}}  # a path that is not UTF-8
    (bundle_copy / "config.json").write_text(json.dumps(stored | {"recipe": recipe}))
    before = (bundle_copy / "README.md").read_bytes()
    with pytest.raises((UnicodeEncodeError, BundleError)):
        refresh_card(bundle_copy)
    assert (bundle_copy / "README.md").read_bytes() == before
    assert not list(bundle_copy.glob(".*"))


@pytest.mark.slow
def test_an_export_leaves_a_card_of_its_files_that_the_manifest_knows(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    export_bundle(folder, ExportOptions(precision=("fp32",)))
    assert "| model.onnx | fp32 |" in (folder / "README.md").read_text()
    assert all(not finding.faults for finding in verify_bundle(folder))


@pytest.mark.slow
def test_a_benchmark_leaves_a_card_of_its_latencies(bundle_copy: Path) -> None:
    update_manifest(bundle_copy, {})
    options = ("--quick", "--backends", "eager", "--device", "cpu", "--images", "0", "--threads", "1")
    result = CliRunner().invoke(app, ["bench", str(bundle_copy), *options])
    assert result.exit_code == 0, result.output
    card = (bundle_copy / "README.md").read_text()
    assert "\n| eager | " in card.split("## Latency")[1]
    assert "A first look: few runs." in card
    assert all(not finding.faults for finding in verify_bundle(bundle_copy))
