"""Many images on a Ray cluster: the same files and the same journal as without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from zoo.predict.journal import NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Zoo = Callable[..., Result]
    WriteOnnx = Callable[..., Path]

pytestmark = pytest.mark.slow


def lines(out: str) -> dict[str, dict[str, Any]]:
    """Return the journal without what takes another time each run."""
    found = [json.loads(line) for line in (Path(out) / NAME).read_text().splitlines()[1:]]
    timeless = [{key: value for key, value in line.items() if key not in ("seconds", "ms")} for line in found]
    return {line["input"]: line for line in timeless}


def test_a_cluster_writes_the_same_masks_and_journal_and_goes_on(zoo: Zoo, write_onnx: WriteOnnx) -> None:
    pytest.importorskip("ray")
    write_onnx(Path("model.onnx"))
    random = np.random.default_rng(0)
    Path("in").mkdir()
    for index in range(70):
        Image.fromarray(random.integers(256, size=(40, 50, 3), dtype=np.uint8)).save(f"in/{index}.png")
    Path("in/broken.jpg").write_bytes(b"no image")
    plain = zoo("predict", "model.onnx", "in", "--out", "plain", "--overlay", "--json")
    spread = zoo("predict", "model.onnx", "in", "--out", "spread", "--overlay", "--json", "--ray")
    assert plain.exit_code == spread.exit_code == 1, spread.output
    told = json.loads(spread.stdout)
    assert (told["predicted"], len(told["errors"])) == (70, 1)
    assert {path.name for path in Path("plain").glob("*.png")} == {
        path.name for path in Path("spread").glob("*.png")
    }
    for path in Path("plain").glob("*.png"):
        assert path.read_bytes() == (Path("spread") / path.name).read_bytes()
    assert lines("spread") == lines("plain")
    again = json.loads(zoo("predict", "model.onnx", "in", "--out", "spread", "--overlay", "--json").stdout)
    assert (again["kept"], again["predicted"]) == (70, 0)
