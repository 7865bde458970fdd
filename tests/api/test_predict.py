"""`zoo.predict`: masks of many images, returned or written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.errors import BundleError, InvalidImageError, ZooError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RANDOM = np.random.default_rng(5)
SIZES = ((48, 80), (20, 30), (48, 80), (61, 17))
IMAGES: list[NDArray[np.uint8]] = [RANDOM.integers(256, size=(*size, 3), dtype=np.uint8) for size in SIZES]


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> zoo.Model:
    return zoo.load(tiny_bundle, device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the images."""
    (tmp_path / "new").mkdir()
    for index, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / "new" / f"{index}.png")
    return tmp_path / "new"


def same(masks: list[Any], model: zoo.Model) -> bool:
    return all(np.array_equal(mask, model(image)) for mask, image in zip(masks, IMAGES, strict=True))


def test_masks_come_in_the_order_of_their_images(model: zoo.Model, tiny_bundle: Path, folder: Path) -> None:
    assert same(zoo.predict(model, IMAGES, batch=2), model)
    assert same(zoo.predict(tiny_bundle, IMAGES, device="cpu"), model)
    mixed = [IMAGES[0], Image.fromarray(IMAGES[1]), folder / "2.png", str(folder / "3.png")]
    assert same(zoo.predict(model, mixed), model)


def test_a_folder_a_pattern_and_a_batch_are_several_images(model: zoo.Model, folder: Path) -> None:
    assert same(zoo.predict(model, folder), model)
    assert same(zoo.predict(model, f"{folder}/*.png"), model)
    batch = np.stack([IMAGES[0], IMAGES[2]])
    assert [mask.tolist() for mask in zoo.predict(model, batch)] == [model(each).tolist() for each in batch]
    assert len(zoo.predict(model, IMAGES[0])) == 1
    assert zoo.predict(model, []) == []


def test_progress_counts_every_image(model: zoo.Model) -> None:
    seen: list[tuple[int, int]] = []
    zoo.predict(model, IMAGES, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_image_that_cannot_be_read_is_an_error(model: zoo.Model, folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    with pytest.raises(InvalidImageError, match=r"broken.png"):
        zoo.predict(model, folder)
    with pytest.raises(ZooError, match="does not exist"):
        zoo.predict(model, folder / "gone.png")


def test_with_out_the_files_are_those_of_the_command(tiny_bundle: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = zoo.predict(tiny_bundle, folder, out=out, overlay=True, outputs=["confidence"], device="cpu")
    assert (found.predicted, found.kept, found.errors) == (4, 0, [])
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        "predictions.jsonl",
        *(f"{index}{suffix}" for index in range(4) for suffix in (".png", ".overlay.png", ".confidence.png")),
    }
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len([line for line in lines if "mask" in line]) == 4
    again = zoo.predict(tiny_bundle, folder, out=out, overlay=True, outputs=["confidence"], device="cpu")
    assert (again.predicted, again.kept) == (0, 4)


def test_what_cannot_be_written_is_said_first(model: zoo.Model, tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"got out='\S+out' with a loaded model, expected its path"):
        zoo.predict(model, "shapes", out=tmp_path / "out")  # type: ignore[call-overload]
    with pytest.raises(BundleError, match="got output 'depth', expected some of"):
        zoo.predict(tiny_bundle, "shapes", out=tmp_path / "out", outputs=["depth"])
