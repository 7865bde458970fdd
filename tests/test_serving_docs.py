"""docs/serving.md: its blocks run against a real server, its commands and links exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from PIL import Image
from typer.main import get_group

from zoo.cli import app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    WriteOnnx = Callable[..., Path]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "serving.md"
TEXT = PAGE.read_text(encoding="utf-8")
SHOWN, SHOWN_GRPC = "localhost:8000", "localhost:8001"
BIN = Path(sys.executable).parent


class Place(NamedTuple):
    """A folder with the files that the page names, and a server."""

    folder: Path
    address: str
    grpc: str

    def run(self, *command: str, text: str) -> subprocess.CompletedProcess[str]:
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [*command, text.replace(SHOWN, self.address).replace(SHOWN_GRPC, self.grpc)],
            cwd=self.folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(write_onnx: WriteOnnx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("serving")
    write_onnx(folder / "model.onnx")
    pixels = np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.jpg")
    ports = ["--port", "0", "--grpc-port", "0"]
    command = [str(BIN / "zoo"), "serve", "model=model.onnx", *ports, "--threads", "1"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = {}
        for line in server.stdout:
            kind, _, address = line.strip().partition(" at ")
            lines[kind] = address.removeprefix("http://")
            if kind == "ready":
                break
        yield Place(folder, lines["ready"], lines["gRPC"])
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("sh"))
def test_a_block_for_the_shell_runs(place: Place, block: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl is installed")
    result = place.run("bash", "-euo", "pipefail", "-c", text=block)
    assert result.returncode == 0, result.stderr + result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"))
def test_a_block_of_python_runs(place: Place, block: str) -> None:
    result = place.run(sys.executable, "-c", text=block)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_mask_of_the_first_example_is_of_the_size_of_the_image(place: Place) -> None:
    (place.folder / "mask.png").unlink(missing_ok=True)
    begin = time.monotonic()
    assert place.run("bash", "-c", text=blocks("sh")[0]).returncode == 0
    assert time.monotonic() - begin < 10
    with Image.open(place.folder / "mask.png") as mask:
        assert (mask.mode, mask.size) == ("P", (64, 48))
        assert set(np.unique(np.asarray(mask))) == {0, 1}


def test_there_are_blocks_to_run() -> None:
    assert len(blocks("sh")) >= 5
    assert len(blocks("python")) >= 4


def test_the_commands_of_the_page_have_these_options() -> None:
    commands = get_group(app).commands
    lines = [line for block in blocks("console") for line in block.splitlines()]
    used = [shlex.split(line.removeprefix("$ zoo ")) for line in lines if line.startswith("$ zoo ")]
    assert len(used) >= 4
    for name, *arguments in used:
        commands[name].make_context(name, arguments)


def test_the_files_that_the_page_links_to_are_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert "kubernetes/deployment.yaml" in links
    for link in links:
        assert link.startswith("https://") or (PAGE.parent / link).exists(), link


def test_each_manifest_is_named() -> None:
    for path in (PAGE.parent / "kubernetes").glob("*.yaml"):
        assert f"(kubernetes/{path.name})" in TEXT
