from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.bundle.bundle import CONFIG_NAME
from zoo.data.shapes import NAMES, ShapesSource
from zoo.errors import BundleError, ZooError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    Zoo = Callable[..., Result]


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Return a folder of four validation images of `shapes`."""
    source, folder = ShapesSource(), tmp_path / "few"
    for name in ("images", "masks"):
        (folder / "val" / name).mkdir(parents=True)
    for number, id_ in enumerate(source.ids("val")[:4]):
        Image.fromarray(source.read_image(id_)).save(folder / f"val/images/{number}.png")
        Image.fromarray(source.read_mask(id_)).save(folder / f"val/masks/{number}.png")
    (folder / "data.toml").write_text(f"names = {json.dumps(NAMES)}\n")
    return folder


def test_the_json_holds_all_that_was_measured(zoo: Zoo, shapes_bundle: Path, few: Path) -> None:
    result = zoo("evaluate", shapes_bundle, "--data", few, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["model"] == str(shapes_bundle)
    assert (found["images"], found["split"], found["protocol"], found["backend"]) == (
        4,
        "val",
        "whole",
        "eager",
    )
    assert list(found["iou"]) == list(NAMES)
    present = [iou for iou in found["iou"].values() if iou is not None]
    assert found["miou"] == pytest.approx(np.mean(present))


def test_the_table_has_a_line_for_each_class_and_the_mean(zoo: Zoo, shapes_bundle: Path, few: Path) -> None:
    output = zoo("evaluate", shapes_bundle, "--data", few, "--protocol", "slide").stdout
    assert all(name in output for name in (*NAMES, "mean", "pixel accuracy", "protocol slide"))


def test_the_default_data_are_those_of_the_training(zoo: Zoo, shapes_bundle: Path) -> None:
    found = json.loads(zoo("evaluate", shapes_bundle, "--json").stdout)
    assert (found["data"], found["images"]) == ("shapes", 96)


def test_without_known_data_the_option_is_asked_for(zoo: Zoo, shapes_bundle: Path) -> None:
    path = shapes_bundle / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": {}}))
    result = zoo("evaluate", shapes_bundle)
    assert isinstance(result.exception, BundleError)
    assert "does not record its training data: select some with --data SPEC" in str(result.exception)


def test_an_unknown_protocol_is_a_usage_error(zoo: Zoo, shapes_bundle: Path) -> None:
    assert zoo("evaluate", shapes_bundle, "--protocol", "crop").exit_code == 2


def test_several_protocols_stand_side_by_side(
    zoo: Zoo, shapes_bundle: Path, few: Path, tmp_path: Path
) -> None:
    names = ["whole", "half", "slide"]
    result = zoo(
        "evaluate", shapes_bundle, "--data", few, "--protocol", ",".join(names), "--report", tmp_path / "r"
    )
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in (*names, "boundary mIoU", "s4gan on cityscapes"))
    written = json.loads((tmp_path / "r" / "metrics.json").read_bytes())
    assert [each["protocol"] for each in written] == names
    for each in written:
        assert each["boundary_iou"].keys() == each["iou"].keys()
        with Image.open(tmp_path / "r" / f"confusion.{each['protocol']}.png") as picture:
            assert min(picture.size) > 300


def test_a_figure_is_told_with_its_network_preset_and_list(zoo: Zoo, shapes_bundle: Path, few: Path) -> None:
    path = shapes_bundle / CONFIG_NAME
    config = json.loads(path.read_text())
    config["recipe"] = {"preset": "default"}
    config["provenance"] = {"partition": {"digest": "0123456789ab"}}
    path.write_text(json.dumps(config))
    found = json.loads(zoo("evaluate", shapes_bundle, "--data", few, "--json").stdout)
    assert [found[key] for key in ("method", "preset", "network", "partition")] == [
        "supervised",
        "default",
        "student",
        "0123456789ab",
    ]


def test_a_report_that_cannot_be_written_is_an_error_before_the_work(
    zoo: Zoo, shapes_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.predictors.load.load_predictor", lambda *_, **__: pytest.fail("it was loaded"))
    result = zoo("evaluate", shapes_bundle, "--report", shapes_bundle / CONFIG_NAME)
    assert isinstance(result.exception, ZooError)
    assert "config.json cannot be written (Not a directory), expected a folder" in str(result.exception)


def test_a_choice_that_there_is_not_is_told_without_the_name_of_a_library(zoo: Zoo) -> None:
    for arguments in (
        ("evaluate", "--split", "x"),
        ("data", "prepare", "x", "."),
        ("train", "eln", "--device=x"),
    ):
        result = zoo(*arguments)
        assert result.exit_code == 2
        assert ": 'x' is not one of '" in result.stderr
        assert "Value error" not in result.stderr


def test_tiles_are_a_protocol_alone_or_beside_others(zoo: Zoo, shapes_bundle: Path, few: Path) -> None:
    alone = zoo("evaluate", shapes_bundle, "--data", few, "--tile", "64", "--overlap", "0.5", "--json")
    assert alone.exit_code == 0, alone.output
    assert json.loads(alone.stdout)["protocol"] == "tile-64-0.5"
    arguments = ("--data", few, "--protocol", "original", "--tile", "512", "--json")
    original, tiles = json.loads(zoo("evaluate", shapes_bundle, *arguments).stdout)
    assert (original["protocol"], tiles["protocol"]) == ("original", "tile-512-0.25")
    assert original["iou"] == tiles["iou"]  # images that fit are one tile
