from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.api.predict import predict as predict_in_python
from zoo.bundle.bundle import load_config
from zoo.bundle.manifest import MANIFEST_NAME, FileEntry
from zoo.data.shapes import NAMES, ShapesSource
from zoo.errors import BundleError, ZooError

if TYPE_CHECKING:
    from pathlib import Path

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
    assert (stored.reliability.measured["images"], stored.reliability.measured["split"]) == (2, "val")
    assert "Measured on 2 other `val` images of shapes" in (shapes_bundle / "README.md").read_text()
    listed = json.loads((shapes_bundle / MANIFEST_NAME).read_bytes())["files"]["config.json"]
    assert listed == FileEntry.of(shapes_bundle / "config.json").model_dump()


def test_the_table_names_what_it_was_fitted_on(
    zoo: Zoo, shapes_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_shapes(monkeypatch)
    output = zoo("calibrate", shapes_bundle).stdout
    assert re.search(r"output reliability: (temperature|softmax)\n", output)
    assert re.search(r"measured on the other: temperature 0\.\d{4}, softmax 0\.\d{4}", output)
    assert "pixels of 4 val images of shapes" in output
    assert "Not measured on other images" in (shapes_bundle / "README.md").read_text()


def test_images_of_the_calibration_are_left_out_of_the_evaluation(
    zoo: Zoo, shapes_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few_shapes(monkeypatch)
    zoo("calibrate", shapes_bundle, "--half")
    options = (
        "--reliability",
        "--protocol",
        "whole,half",
        "--corrupt",
        "dark:2",
        "--report",
        tmp_path / "report",
    )
    result = zoo("evaluate", shapes_bundle, *options, "--json")
    assert result.exit_code == 0, result.output
    whole, half = json.loads(result.stdout)
    found = whole["reliability"]
    assert (whole["images"], found["images"], found["left_out"]) == (4, 2, 2)
    assert (whole["data"], found["calibrated"]["images"]) == ("shapes with dark:2", 2)
    assert list(found["scores"]) == ["uncalibrated", "temperature", "softmax", "entropy"]
    assert list(found["scores"]["entropy"]["ece_by_class"]) == list(NAMES)
    assert half["reliability"]["pixels"] == found["pixels"] / 4
    assert (tmp_path / "report/reliability.half.png").stat().st_size > 10_000
    shown = zoo("evaluate", shapes_bundle, "--reliability").stdout
    assert "2 images that it was fitted on are left out" in shown


def test_pixels_below_a_reliability_are_unknown_and_the_journal_has_its_mean(
    zoo: Zoo, shapes_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_shapes(monkeypatch)
    Image.fromarray(ShapesSource().read_image("val/0000")).save("photo.png")
    predict = "predict", shapes_bundle, "photo.png"
    refused = zoo(*predict, "--unknown-below", 0.5)
    assert isinstance(refused.exception, BundleError)
    assert "reliability needs a calibrated model" in str(refused.exception)
    zoo("calibrate", shapes_bundle, "--score", "entropy")
    zoo(*predict, "--output", "reliability")
    plain, values = (np.array(Image.open(f"predictions/photo{end}")) for end in (".png", ".reliability.png"))
    below = float(np.median(values) + 1) / 255
    found = json.loads(zoo(*predict, "--unknown-below", below, "--overlay", "--json").stdout)
    assert (found["kept"], found["predicted"]) == (0, 1)
    image = found["images"][0]
    unknown = np.array(Image.open("predictions/photo.png"))
    assert np.array_equal(unknown, np.where(values < 255 * below, 255, plain))
    assert 0 < image["areas"]["unknown"] == pytest.approx((unknown == 255).mean())
    assert image["reliability_mean"] == pytest.approx(values.mean() / 255, abs=1e-4)
    assert image["reliability_lowest_decile"] == pytest.approx(np.percentile(values, 10) / 255, abs=1e-4)
    assert json.loads(zoo(*predict, "--unknown-below", below, "--json").stdout)["predicted"] == 0
    [returned] = predict_in_python(shapes_bundle, "photo.png", unknown_below=below)
    assert np.array_equal(returned, unknown)


def test_what_reliability_is_not_defined_for_is_one_line(
    zoo: Zoo, shapes_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_shapes(monkeypatch)
    with pytest.raises(BundleError, match="reliability needs a calibrated model"):
        predict_in_python(shapes_bundle, "shapes", unknown_below=0.5)
    zoo("calibrate", shapes_bundle, "--half")
    with pytest.raises(BundleError, match=r"got unknown_below 60, expected a reliability from 0 to 1"):
        predict_in_python(shapes_bundle, "shapes", unknown_below=60)
    with pytest.raises(BundleError, match="got reliability with tiles"):
        predict_in_python(shapes_bundle, "shapes", unknown_below=0.5, tile=64)
    tiles = zoo("predict", shapes_bundle, "shapes", "--unknown-below", 0.5, "--tile", 64)
    assert isinstance(tiles.exception, BundleError)
    assert "got reliability with tiles" in str(tiles.exception)
    ray = zoo("predict", shapes_bundle, "shapes", "--unknown-below", 0.5, "--ray")
    assert ray.exit_code == 2
    blended = zoo("evaluate", shapes_bundle, "--reliability", "--tile", 64)
    assert isinstance(blended.exception, ZooError)
    assert "got protocol tile-64-0.25, which resizes or averages logits" in str(blended.exception)


def test_a_calibration_on_all_scored_images_is_refused(
    zoo: Zoo, shapes_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_shapes(monkeypatch)
    zoo("calibrate", shapes_bundle)
    result = zoo("evaluate", shapes_bundle, "--reliability")
    assert isinstance(result.exception, ZooError)
    assert "fitted on all 4 images of split val of shapes" in str(result.exception)
    assert "uncalibrated" not in result.stdout


def test_images_that_the_model_has_learned_are_refused(zoo: Zoo, shapes_bundle: Path) -> None:
    before = (shapes_bundle / "config.json").read_bytes()
    result = zoo("calibrate", shapes_bundle, "--split", "train")
    assert isinstance(result.exception, BundleError)
    assert "got the train split of shapes, which the model has learned" in str(result.exception)
    assert (shapes_bundle / "config.json").read_bytes() == before


def test_a_localizer_is_compared_with_the_cheaper_score_in_words(
    zoo: Zoo, localized_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few_shapes(monkeypatch)
    bundle = shutil.copytree(localized_bundle, tmp_path / "bundle")
    shown = " ".join(zoo("calibrate", bundle, "--half", "--score", "localizer").stdout.split())
    assert re.search(
        r"ELN's localizer is (not )?better than (temperature|softmax|entropy), AURC [+-]0\.\d{4} \(", shown
    )
    assert re.search(r"it takes \d+\.\d\dx the time of the plain mask, \w+ \d+\.\d\dx", shown)
    assert re.search(r"zoo calibrate \S+ --score (temperature|softmax|entropy|localizer)", shown)
    result = zoo("evaluate", bundle, "--reliability", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["reliability"]
    assert list(found["scores"]) == ["uncalibrated", "temperature", "softmax", "entropy", "localizer"]
    assert found["advice"]["rival"] in {"temperature", "softmax", "entropy"}
    Image.fromarray(ShapesSource().read_image("val/0000")).save("photo.png")
    zoo("predict", bundle, "photo.png", "--output", "reliability")
    assert len(np.unique(np.array(Image.open("predictions/photo.reliability.png")))) > 10


def test_only_a_run_has_a_localizer_to_keep(zoo: Zoo, shapes_bundle: Path) -> None:
    before = (shapes_bundle / "config.json").read_bytes()
    result = zoo("calibrate", shapes_bundle, "--keep-localizer")
    assert isinstance(result.exception, BundleError)
    assert "--keep-localizer needs the folder of a run" in str(result.exception)
    assert (shapes_bundle / "config.json").read_bytes() == before
