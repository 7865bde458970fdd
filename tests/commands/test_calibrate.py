from __future__ import annotations

import json
from typing import TYPE_CHECKING

from zoo.bundle.bundle import load_config
from zoo.bundle.manifest import MANIFEST_NAME, FileEntry
from zoo.data.shapes import ShapesSource

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.commands.conftest import Zoo


def few_shapes(monkeypatch: pytest.MonkeyPatch, count: int = 4) -> None:
    """Let `shapes` have few validation images."""
    every = ShapesSource.ids
    monkeypatch.setattr(ShapesSource, "ids", lambda self, split: every(self, split)[:count])


def test_the_calibration_is_stored_with_the_images_it_was_fitted_on(
    zoo: Zoo, shapes_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_shapes(monkeypatch)
    config = FileEntry.of(shapes_bundle / "config.json")
    manifest = {"files": {"config.json": config.model_dump()}}
    (shapes_bundle / MANIFEST_NAME).write_text(json.dumps(manifest))
    before = load_config(shapes_bundle)
    result = zoo("calibrate", shapes_bundle, "--half", "--score", "entropy", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found["fitted"]["images"]) == list(ShapesSource().ids("val")[::2])
    assert (found["score"], found["fitted"]["data"], found["fitted"]["split"]) == ("entropy", "shapes", "val")
    stored = load_config(shapes_bundle)
    assert stored.reliability is not None
    assert stored.reliability.chosen.score == "entropy"
    assert stored.model_copy(update={"reliability": None}) == before
    listed = json.loads((shapes_bundle / MANIFEST_NAME).read_bytes())["files"]["config.json"]
    assert listed == FileEntry.of(shapes_bundle / "config.json").model_dump()


def test_the_table_names_what_it_was_fitted_on(
    zoo: Zoo, shapes_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_shapes(monkeypatch)
    output = zoo("calibrate", shapes_bundle, "--split", "train").stdout
    assert "output reliability: temperature" in output
    assert "pixels of 4 train images of shapes" in output
