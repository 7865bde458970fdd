from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from zoo.cli import app
from zoo.commands.load_test import QUICK
from zoo.errors import ZooError
from zoo.serve.load import run

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    MakeServer = Callable[..., Any]
    WriteOnnx = Callable[..., Path]
    Zoo = Callable[..., Result]
    Pixels = np.ndarray[Any, np.dtype[np.uint8]]

SHORT = ("--quick", "--clients", "1,2", "--rates", "50", "--bound-ms", "50", "--seconds", "0.1")


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """Return a function that runs `zoo` in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a quick look be quicker still, and every rate above 50 be lost."""
    monkeypatch.setitem(QUICK, "search_requests", 10)
    monkeypatch.setattr(run, "WARM_UP", run.Budget(0.05, 2))
    monkeypatch.setattr("zoo.serve.load.run.PRECISION", 1.0)


def test_a_server_gets_its_tables_and_its_report(
    zoo: Zoo, make_server: MakeServer, tmp_path: Path, pixels: Pixels
) -> None:
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    server = make_server(0.002)
    result = zoo("load-test", server.url + "/", *SHORT, "--images", tmp_path)
    assert result.exit_code == 0, result.output
    for part in (
        f"eln at {server.url}, closed loop",
        "2 clients",
        "Open loop: arrivals at random times",
        "Where the time goes",
        "Goodput: ",
        "By the server's own clock, 1 client:",
        "Rough figures from few requests (--quick)",
        "Wrote benchmark/load.html, benchmark/load.json",
    ):
        assert part in result.stdout, part
    report = json.loads(Path("benchmark/load.json").read_text())
    assert report["server"]["images"] == "1 PNG of 96 x 64"
    assert report["settings"]["clients"] == [1, 2]
    assert report["settings"]["search_seconds"] == 0.1


def test_the_json_is_the_report_and_the_bare_model_is_in_it(
    zoo: Zoo, make_server: MakeServer, write_onnx: WriteOnnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_API_KEY", "secret")
    server = make_server(0.002, key="secret")
    model = write_onnx(tmp_path / "model.onnx")
    options = ("--imgsz", "32,48", "--route", "oip", "--model", model, "--report", "here", "--json")
    result = zoo("load-test", server.url, *SHORT, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads(Path("here/load.json").read_text())
    assert found["bare"]["backend"] == "ort"
    assert found["server"]["images"] == "16 tensors of 48 x 32"
    assert "secret" not in Path("here/load.html").read_text() + result.output


def test_a_report_that_cannot_be_written_is_an_error_before_the_work(zoo: Zoo) -> None:
    Path("file").touch()
    result = zoo("load-test", "http://127.0.0.1:9", *SHORT, "--report", "file")
    assert isinstance(result.exception, ZooError)
    assert "file cannot be written (Not a directory), expected a folder" in str(result.exception)


def test_a_server_that_cannot_be_reached_is_one_line(zoo: Zoo) -> None:
    result = zoo("load-test", "http://127.0.0.1:9", *SHORT)
    assert result.exit_code == 1
    assert isinstance(result.exception, ZooError)
    assert "http://127.0.0.1:9 cannot be reached" in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not Path("benchmark").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("http://host", "--clients", "1,x"), "'1,x' is not a list of positive numbers"),
        (("http://host", "--clients", "0"), "is not a list of positive numbers, expected e.g. 1,8,32"),
        (("http://host", "--rates", "nan"), "is not a list of positive numbers, expected e.g. 20,40"),
        (("http://host", "--bound-ms", "0"), "--bound-ms"),
        (("http://host", "--images", "photos", "--imgsz", "32"), "leave one of them out"),
        (("model.onnx",), "model.onnx is not a server, expected http://host:port: zoo bench measures models"),
    ],
)
def test_an_option_that_does_not_fit_is_a_usage_error(
    zoo: Zoo, arguments: tuple[str, ...], message: str
) -> None:
    result = zoo("load-test", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", "").split())


def test_bench_sends_a_server_to_the_load_test(zoo: Zoo) -> None:
    result = zoo("bench", "http://host:8000")
    assert result.exit_code == 2
    assert "zoo load-test http://host:8000 measures servers" in " ".join(
        result.stderr.replace("│", "").split()
    )
