from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zoo.api.benchmark import QUICK, default_folder
from zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Zoo = Callable[..., Result]

FILES = ["benchmark.html", "benchmark.json", "benchmark.md", "benchmark.png"]
SHORT = ("--quick", "--threads", "1", "--images", "2")


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a quick look be quicker still."""
    monkeypatch.setitem(QUICK, "seconds", 0.05)
    for name, little in {"timing.WARMUP_SECONDS": 0.0, "contender.IMAGES": 2}.items():
        monkeypatch.setattr(f"zoo.serve.bench.{name}", little)


def test_a_quick_look_writes_its_report_into_the_bundle(zoo: Zoo, shapes_bundle: Path) -> None:
    result = zoo("bench", shapes_bundle, "--backends", "eager,trt", *SHORT)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (shapes_bundle / "benchmark").iterdir()) == FILES
    assert "not measured: trt:" in result.stdout
    assert "Rough figures from few runs and images (--quick)" in result.stdout
    report = json.loads((shapes_bundle / "benchmark/benchmark.json").read_text())
    assert report["settings"]["min_runs"] == 20
    assert report["settings"]["threads"] == 1
    assert report["rows"][0]["accuracy"]["images"] == report["settings"]["images"] == 2
    assert re.search(r"eager-amp\W", result.stdout)


def test_a_second_model_is_compared_with_the_first(zoo: Zoo, shapes_bundle: Path) -> None:
    other = shutil.copytree(shapes_bundle, shapes_bundle.with_name("other"))
    options = ("--backends", "eager", *SHORT)
    result = zoo("bench", shapes_bundle, other, *options)
    assert result.exit_code == 0, result.output
    assert re.search(r"eager\W+1\W+64x64\W+[\d.]+\W+[\d.]+ \([\d.]+x\)", result.stdout), result.stdout
    assert "with the speed-up over the first model in brackets" in result.stdout
    assert sorted(path.name for path in Path("benchmark").glob("[!.]*")) == FILES


def test_the_json_is_the_report(zoo: Zoo, shapes_bundle: Path) -> None:
    options = ("--backends", "eager", *SHORT, "--imgsz", "32,48", "--report", "here", "--json")
    result = zoo("benchmark", shapes_bundle, *options)
    found = json.loads(result.stdout)
    assert found == json.loads(Path("here/benchmark.json").read_text())
    assert found["rows"][0]["imgsz"] == [32, 48]


@pytest.mark.parametrize("options", [(), ("--quick",)])
def test_a_report_that_cannot_be_written_is_an_error_before_the_work(
    zoo: Zoo, shapes_bundle: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.serve.bench.benchmark.benchmark", lambda *_: pytest.fail("it was measured"))
    Path("file").touch()
    result = zoo("bench", shapes_bundle, *options, "--report", "file")
    assert isinstance(result.exception, ZooError)
    assert "file cannot be written (Not a directory), expected a folder" in str(result.exception)
    (shapes_bundle / "benchmark").touch()
    assert "benchmark cannot be written" in str(zoo("bench", shapes_bundle, *options).exception)


def test_help_names_bench_and_the_long_name_works(zoo: Zoo) -> None:
    names = [line.split()[0] for line in zoo("--help").stdout.split("Commands:")[1].splitlines() if line]
    assert "bench" in names
    assert "benchmark" not in names
    assert zoo("benchmark", "--help").exit_code == 0


def test_no_backend_at_all_is_an_error(zoo: Zoo, shapes_bundle: Path) -> None:
    result = zoo("bench", shapes_bundle, "--backends", "trt", *SHORT)
    assert isinstance(result.exception, ZooError)
    assert "no backend can run on this machine (trt:" in str(result.exception)
    assert not (shapes_bundle / "benchmark").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--backends", "eager,tensorflow"),
            "'tensorflow' is not a backend, expected some of eager,eager-amp,",
        ),
        (("--backends", "ort:int4"), "has an unknown precision, expected ort:fp32"),
        (("--images", "-1"), "greater than or equal to 0"),
        (("--backends", ","), "is not a list of backends"),
        (("--batch", "1,x"), "is not a list of batch sizes"),
        (("--batch", "0"), "is not a list of batch sizes"),
        (("--imgsz", "big"), "is not H,W"),
    ],
)
def test_a_bad_option_is_a_usage_error(
    zoo: Zoo, shapes_bundle: Path, options: tuple[str, str], message: str
) -> None:
    result = zoo("bench", shapes_bundle, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_what_is_compared_with_trtexec_needs_a_gpu(zoo: Zoo, shapes_bundle: Path) -> None:
    result = zoo("bench", shapes_bundle, "--match-trtexec", "--device", "cpu")
    assert isinstance(result.exception, ZooError)
    assert "the device is cpu: leave it out or use --device cuda" in str(result.exception)


def test_reports_go_to_the_bundle_or_for_several_models_here(tiny_bundle: Path) -> None:
    assert default_folder([tiny_bundle]) == tiny_bundle / "benchmark"
    assert default_folder([tiny_bundle / "engines" / "x.engine"]) == tiny_bundle / "benchmark"
    assert default_folder([Path("alone/model.onnx")]) == Path("alone/benchmark")
    assert default_folder([tiny_bundle, tiny_bundle]) == Path("benchmark")
