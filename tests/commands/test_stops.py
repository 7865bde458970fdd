"""`zoo predict` in processes of their own that are killed, interrupted or out of space."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from zoo.images import read_rgb
from zoo.predict.journal import NAME, Journal
from zoo.predictors.load import load_predictor

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Zoo = Callable[..., Result]
    WriteOnnx = Callable[..., Path]


@pytest.fixture
def model(zoo: Zoo, write_onnx: WriteOnnx) -> Path:  # noqa: ARG001 - in its empty folder
    return write_onnx(Path("model.onnx"))


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path))


def lines(out: Path = Path("predictions")) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / NAME).read_text().splitlines()]


def leftovers(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.name.endswith(".tmp")]


def start(*arguments: object, setup: str = "") -> subprocess.Popen[str]:
    """Start `zoo` in a process of its own."""
    # a process that is started in the background of a shell, as these tests may be, inherits a deaf ear
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"import sys\n{listen}\n{setup}\nfrom zoo.cli import main\nmain()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_many(model: Path, count: int) -> subprocess.Popen[str]:
    """Start a prediction of many images and wait until some are done."""
    path = Path("in/0000.png")
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)).save(path)
    for index in range(1, count):
        os.link(path, f"in/{index:04}.png")
    process = start("predict", model, "in", "--batch", 1)
    journal = Path("predictions") / NAME
    until = time.monotonic() + 30
    while not journal.is_file() or journal.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.001)
    return process


def test_a_run_that_was_killed_goes_on_where_it_was(zoo: Zoo, model: Path) -> None:
    process = start_many(model, 2500)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    found = json.loads(zoo("predict", model, "in", "--json").stdout)
    assert 4 <= found["kept"] < 2500
    assert found["kept"] + found["predicted"] == len(found["images"]) == 2500
    assert len(lines()) == 2501
    expected = load_predictor(model).predict(read_rgb(Path("in/0000.png")))
    assert all(np.array_equal(pixels(path), expected) for path in Path("predictions").glob("*.png"))


KILLED = """
import os, pathlib
replace, names = pathlib.Path.replace, []
def until_killed(self, target):
    names.append(str(target).endswith(".png"))
    if sum(names) == 2 and {before}:
        os._exit(9)
    replace(self, target)
    if sum(names) == 2:
        os._exit(9)
pathlib.Path.replace = until_killed
"""
"""Kills a process where its second mask gets its name."""


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("others", [True, False])
def test_a_run_that_was_killed_is_not_refused_for_its_own_masks(
    zoo: Zoo, model: Path, shapes_bundle: Path, before: bool, others: bool
) -> None:
    Path("in").mkdir()
    random = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(random.integers(0, 256, (64, 48, 3), np.uint8)).save(f"in/{index}.png")
    if others:  # masks of another model, which are replaced
        zoo("predict", shapes_bundle, "in", "--overlay")
    process = start("predict", model, "in", "--batch", 1, setup=KILLED.format(before=before))
    process.communicate(timeout=60)
    assert process.returncode == 9
    for predicted in ({1, 2}, {0}):
        result = zoo("predict", model, "in", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["predicted"] in predicted
    predictor = load_predictor(model)
    for index in range(3):
        expected = predictor.predict(read_rgb(Path(f"in/{index}.png")))
        assert np.array_equal(pixels(Path(f"predictions/{index}.png")), expected)
    assert leftovers(Path("predictions")) == []


def test_an_interrupt_just_after_a_line_was_written_does_not_write_it_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> float:
        raise KeyboardInterrupt

    with Journal(tmp_path, {"sha256": ""}) as journal:
        journal.start()
        for record in ({"mask": "0.png"}, {"input": "1.png", "error": "no image"}):
            with monkeypatch.context() as patch:
                patch.setattr("zoo.predict.journal.time.monotonic", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    journal.add(record)
            journal.add(record)
    assert [line.get("input") for line in lines(tmp_path)[1:]] == [None, "1.png"]


def test_ctrl_c_ends_in_one_line_and_leaves_whole_files(zoo: Zoo, model: Path) -> None:
    process = start_many(model, 2500)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    [line] = said.splitlines()
    assert line.startswith("stopped: ")
    assert line.endswith(" of 2,500 images are left; run the same command to resume")
    left, made = int(line.split()[1].replace(",", "")), len(lines()) - 1
    assert abs(2500 - left - made) <= 1  # a signal may come between a line and its count
    assert leftovers(Path("predictions")) == []
    expected = load_predictor(model).predict(read_rgb(Path("in/0000.png")))
    masks = list(Path("predictions").glob("*.png"))
    assert len(masks) >= made  # a mask that was written last may have no line yet: it is made anew
    assert all(np.array_equal(pixels(path), expected) for path in masks)
    assert json.loads(zoo("predict", model, "in", "--json").stdout)["predicted"] == 2500 - made


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of file sizes")
def test_a_full_disk_ends_in_one_line_and_leaves_nothing_half_written(zoo: Zoo, model: Path) -> None:
    Path("in").mkdir()
    random = np.random.default_rng(0)
    for index in range(2):
        Image.new("RGB", (64, 64)).save(f"in/{index}.png")
    Image.fromarray(random.integers(0, 256, (300, 300, 3), np.uint8)).resize((640, 640)).save("in/2.png")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    _, said = start("predict", model, "in", "--batch", 1, setup=limit).communicate(timeout=30)
    [line] = said.splitlines()
    assert line == (
        "error: predictions cannot be written to (File too large) after 2 of 3 images: make room there and "
        "run the same command again, it resumes from here"
    )
    assert sorted(path.name for path in Path("predictions").glob("*.png")) == ["0.png", "1.png"]
    assert leftovers(Path("predictions")) == []
    assert len(lines()) == 3
    found = json.loads(zoo("predict", model, "in", "--json").stdout)
    assert (found["kept"], found["predicted"]) == (2, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of file sizes")
def test_a_line_that_does_not_fit_on_the_disk_is_not_left_there(tmp_path: Path) -> None:
    program = (
        "import resource, sys, pathlib\n"
        "from zoo.predict.journal import Journal\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "with Journal(pathlib.Path(sys.argv[1]), {'sha256': ''}) as journal:\n"
        "    journal.start()\n"
        "    for index in range(9):\n"
        "        journal.add({'mask': f'{index}.png', 'input': 'x' * 50})\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False
    )
    assert "OSError: [Errno 27] File too large" in result.stderr
    assert 2 < len(lines(tmp_path)) < 9  # each of them whole
