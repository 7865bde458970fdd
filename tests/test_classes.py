from __future__ import annotations

import numpy as np
import pytest

from zoo.classes import IGNORE, Classes, default_palette

VOC_COLORS = {
    0: (0, 0, 0),  # background
    1: (128, 0, 0),  # aeroplane
    2: (0, 128, 0),  # bicycle
    3: (128, 128, 0),  # bird
    4: (0, 0, 128),  # boat
    7: (128, 128, 128),  # car
    8: (64, 0, 0),  # cat
    15: (192, 128, 128),  # person
    20: (0, 64, 128),  # tv monitor
}


@pytest.mark.parametrize("label", VOC_COLORS)
def test_the_default_colors_are_those_of_voc(label: int) -> None:
    assert default_palette(21)[label] == VOC_COLORS[label]


def test_every_label_has_its_own_color_and_255_is_that_of_vocs_border() -> None:
    palette = default_palette(256)
    assert len(set(palette)) == 256
    assert palette[IGNORE] == (224, 224, 192)


def test_classes_of_names_have_voc_colors() -> None:
    classes = Classes.of(("background", "aeroplane"))
    assert len(classes) == 2
    assert classes.palette == ((0, 0, 0), (128, 0, 0))


def test_each_class_needs_a_color() -> None:
    with pytest.raises(ValueError, match="2 class names but 1 colors"):
        Classes(("a", "b"), ((0, 0, 0),))


def test_a_mask_is_colored_by_label_and_ignored_pixels_are_white() -> None:
    mask = np.array([[0, 1, IGNORE]], np.uint8)
    colored = Classes.of(("background", "aeroplane")).colorize(mask)
    assert colored.tolist() == [[[0, 0, 0], [128, 0, 0], [255, 255, 255]]]
    assert colored.dtype == np.uint8
