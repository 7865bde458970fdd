from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.errors import DatasetError
from zoo.export.parity.images import COUNT, parity_images

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = {"data": {"spec": "shapes"}}


def test_the_recipes_validation_images_are_taken_without_a_word() -> None:
    said: list[str] = []
    images = parity_images(None, RECIPE, said.append)
    assert images.origin == f"{COUNT} val images of shapes"
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in images.images)
    assert not said


@pytest.mark.parametrize("recipe", [{}, {"data": {"spec": "/nowhere/voc"}}])
def test_built_in_images_in_their_place_come_with_a_warning(recipe: dict[str, object]) -> None:
    said: list[str] = []
    assert parity_images(None, recipe, said.append).origin == f"{COUNT} val images of shapes"
    assert len(said) == 1
    assert "warning: no images of the model's training data" in said[0]


def test_a_folder_of_images_is_read_at_even_distances(tmp_path: Path) -> None:
    for number in range(40):
        Image.new("L", (6, 5), number).save(tmp_path / f"{number:02d}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    images = parity_images(str(tmp_path), RECIPE, pytest.fail)
    assert [int(image[0, 0, 0]) for image in images.images] == list(range(2, 40, 5))
    assert images.images[0].shape == (5, 6, 3)
    assert images.origin == f"8 images of {tmp_path}"


def test_images_that_were_asked_for_have_no_stand_in(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected"):
        parity_images(str(tmp_path / "missing"), RECIPE, pytest.fail)
