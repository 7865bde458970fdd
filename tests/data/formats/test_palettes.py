"""Masks with a palette: gray levels, one common palette, palettes that differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.data.cache.disk import DiskCache
from zoo.data.check import check_source
from zoo.data.folder import FolderSource
from zoo.data.inspect.inspection import inspect
from zoo.data.inspect.page import html
from zoo.data.inspect.proposal import write_proposal
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from zoo.classes import Color

    MakeMasks = Callable[..., str]
    FaultOf = Callable[[str], str]
    Values = NDArray[np.uint8]

LABELS = np.repeat(np.array([0, 1, 2], np.uint8), 16)[:, None].repeat(64, axis=1)
"""Three stripes."""
BINARY = LABELS % 2
VOC = ((0, 0, 0), (128, 0, 0), (0, 128, 0))
SWAPPED = ((0, 0, 0), (0, 128, 0), (128, 0, 0))
SPARSE = ((0, 0, 0), (5, 5, 5), (11, 11, 11))
BLACK_AND_WHITE = ((0, 0, 0), (255, 255, 255))
SPARSE_TABLE = '[labels]\n0 = "a"\n5 = "b"\n11 = "c"\n'


def indexed(values: Values, palette: Sequence[Color]) -> Image.Image:
    image = Image.fromarray(values, mode="P")
    image.putpalette([channel for color in palette for channel in color])
    return image


def levels(values: Values, *of: int) -> Image.Image:
    return Image.fromarray(np.array(of, np.uint8)[values])


def read(spec: str) -> list[Values]:
    source = FolderSource(spec)
    check_source(source)
    return [source.read_mask(id_) for split in ("train", "val") for id_ in source.ids(split)]  # type: ignore[arg-type]


@pytest.mark.parametrize("toml", ["", 'names = ["a", "b", "c"]\n'])
@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_gray_palettes_are_gray_levels_in_whatever_order_they_have_them(
    make_masks: MakeMasks, toml: str, suffix: str
) -> None:
    reordered = indexed(np.array([1, 2, 0], np.uint8)[LABELS], ((2, 2, 2), (0, 0, 0), (1, 1, 1)))
    spec = make_masks([levels(LABELS, 0, 1, 2), reordered, levels(LABELS, 0, 1, 2)], toml, suffix)
    assert all(np.array_equal(mask, LABELS) for mask in read(spec))
    assert not inspect(spec).has_faults


@pytest.mark.parametrize("unused", [(), ((255, 0, 0), (0, 255, 0))])
def test_gray_levels_are_what_labels_lists(make_masks: MakeMasks, unused: Sequence[Color]) -> None:
    masks = [indexed(LABELS, (*SPARSE, *unused)), levels(LABELS, 0, 5, 11), indexed(LABELS, SPARSE)]
    assert all(np.array_equal(mask, LABELS) for mask in read(make_masks(masks, SPARSE_TABLE)))


def test_sparse_gray_palettes_are_a_fault_whose_proposal_works(
    make_masks: MakeMasks, fault_of: FaultOf
) -> None:
    spec = make_masks([indexed(LABELS, SPARSE), levels(LABELS, 0, 5, 11), levels(LABELS, 0, 5, 11)])
    assert fault_of(spec)
    inspection = inspect(spec)
    (finding,) = inspection.findings
    assert finding.kind == "sparse-values"
    assert "0.png (mode P, values 0, 5, 11)" in finding.detail
    assert "1.png (mode L, values 0, 5, 11)" in finding.detail
    assert inspection.meaning.proposal is not None
    write_proposal(inspection.meaning.proposal, inspection.root, inspection.toml)
    assert all(np.array_equal(mask, LABELS) for mask in read(spec))


def test_black_and_white_palettes_are_masks_of_0_and_255(make_masks: MakeMasks, fault_of: FaultOf) -> None:
    spec = make_masks([indexed(BINARY, BLACK_AND_WHITE)] * 3)
    assert [finding.kind for finding in inspect(spec).findings] == ["binary-masks"]
    assert fault_of(spec)
    (Path(spec) / "data.toml").write_text('[labels]\n0 = "a"\n255 = "b"\n')
    assert all(np.array_equal(mask, BINARY) for mask in read(spec))


@pytest.mark.parametrize(
    "toml",
    ['[labels]\n0 = "a"\n1 = "b"\n', 'names = ["a", "b"]\npalette = [[0, 0, 0], [255, 255, 255]]\n'],
)
def test_a_description_may_list_the_indices_or_the_colors_of_gray_palettes(
    make_masks: MakeMasks, toml: str
) -> None:
    spec = make_masks([indexed(BINARY, BLACK_AND_WHITE)] * 3, toml)
    assert all(np.array_equal(mask, BINARY) for mask in read(spec))


@pytest.mark.parametrize(
    "palettes",
    [
        (VOC, VOC, VOC),
        (VOC[:2], VOC, VOC),  # unused entries are cut off,
        (VOC, (*VOC, (1, 2, 3)), ((0, 0, 0), (0, 0, 0), (0, 128, 0))),  # or more, or black
        (((0, 0, 0),) * 3, ((0, 0, 0),) * 3, ((0, 0, 0),) * 3),  # no palette at all
    ],
)
@pytest.mark.parametrize("toml", ["", 'names = ["a", "b", "c"]\n'])
def test_masks_with_one_palette_are_read_by_index(
    make_masks: MakeMasks, palettes: Sequence[Sequence[Color]], toml: str
) -> None:
    values = [LABELS % len(palettes[0]), LABELS, LABELS * (LABELS != 1)]
    masks = [indexed(value, palette) for value, palette in zip(values, palettes, strict=True)]
    for mask, expected in zip(read(make_masks(masks, toml)), values, strict=True):
        assert np.array_equal(mask, expected)


def test_masks_without_a_palette_may_lie_beside_those_with_one(
    make_masks: MakeMasks, fault_of: FaultOf
) -> None:
    plain = levels(LABELS, 0, 1, 2)
    spec = make_masks([indexed(LABELS, VOC), plain, plain.convert("P"), indexed(LABELS * 0, VOC)])
    assert all(np.array_equal(mask, LABELS) for mask in read(spec)[:3])
    assert not fault_of(spec)


DIFFERENT = {
    "swapped": [indexed(LABELS, VOC), indexed(LABELS, SWAPPED)],
    "cut to the colors in use": [indexed(LABELS, VOC), indexed(BINARY, SWAPPED[:2])],
    "a color at two indices": [indexed(BINARY, VOC[:2]), indexed(2 * BINARY, SWAPPED)],
    "gray among colors": [indexed(LABELS, VOC), indexed(BINARY, BLACK_AND_WHITE)],
    "an index in use that others do not use": [indexed(2 * BINARY, VOC), indexed(BINARY, SWAPPED[:2])],
    "one color among gray levels": [indexed(LABELS, SPARSE), indexed(LABELS, ((0, 0, 0),) * 3)],
}


@pytest.mark.parametrize("toml", ["", 'names = ["a", "b", "c"]\n'])
@pytest.mark.parametrize("case", DIFFERENT)
def test_palettes_that_differ_are_a_fault_that_shows_both(
    make_masks: MakeMasks, case: str, toml: str
) -> None:
    masks = DIFFERENT[case]
    spec = make_masks([masks[0], *masks], toml)
    with pytest.raises(
        DatasetError, match=r"palettes that differ: .*0\.png has 0 = \[0, 0, 0\].*2\.png has 0 "
    ):
        FolderSource(spec)
    assert "palettes-differ" in {finding.kind for finding in inspect(spec).findings}


def test_the_proposal_for_palettes_that_differ_reads_masks_by_color(
    make_masks: MakeMasks, fault_of: FaultOf
) -> None:
    spec = make_masks([indexed(LABELS, VOC), indexed(LABELS, SWAPPED), indexed(LABELS, VOC)])
    inspection = inspect(spec)
    assert inspection.meaning.proposal is not None
    write_proposal(inspection.meaning.proposal, inspection.root, inspection.toml)
    swapped = np.array([0, 2, 1], np.uint8)[LABELS]
    for mask, expected in zip(read(spec), (LABELS, swapped, LABELS), strict=True):
        assert np.array_equal(mask, expected)
    assert not fault_of(spec)


def test_one_color_for_several_indices_proposes_no_table_of_colors(make_masks: MakeMasks) -> None:
    spec = make_masks([*DIFFERENT["one color among gray levels"], indexed(LABELS, SPARSE)])
    assert inspect(spec).meaning.proposal is None


@pytest.mark.parametrize("names", ["", 'names = ["a", "b", "c"]\n'])
def test_the_palette_of_the_description_tells_the_classes_of_palettes_that_differ(
    make_masks: MakeMasks, fault_of: FaultOf, names: str
) -> None:
    swapped = indexed(np.array([0, 2, 1], np.uint8)[LABELS], SWAPPED)
    void = indexed(np.array([0, 1, 3], np.uint8)[LABELS], (*VOC, (224, 224, 192)))
    masks = [indexed(LABELS, VOC), swapped, void, levels(LABELS, 0, 1, 2)]
    spec = make_masks(masks, names + f"palette = {list(map(list, VOC))}\n")
    found = read(spec)
    assert len(FolderSource(spec).classes) == 3
    assert all(np.array_equal(found[number], LABELS) for number in (0, 1, 3))
    assert np.array_equal(found[2], np.array([0, 1, 255], np.uint8)[LABELS])
    assert not fault_of(spec)
    assert html(inspect(spec)).count("<img") == len(masks)


def test_a_palette_of_other_colors_is_for_display_alone(make_masks: MakeMasks, fault_of: FaultOf) -> None:
    toml = 'names = ["a", "b", "c"]\npalette = [[0, 0, 0], [9, 0, 0], [128, 0, 0]]\n'
    same = make_masks([indexed(LABELS, VOC)] * 3, toml)
    assert all(np.array_equal(mask, LABELS) for mask in read(same))
    assert fault_of(make_masks([indexed(LABELS, VOC), indexed(LABELS, SWAPPED)] * 2, toml))


def test_the_first_of_many_alike_palettes_that_shows_a_color_decides(make_masks: MakeMasks) -> None:
    background = indexed(LABELS * 0, VOC)
    spec = make_masks([background] * 70 + [indexed(LABELS, VOC)], 'names = ["a", "b", "c"]\n')
    assert FolderSource(spec).palettes == "index"
    assert np.array_equal(read(spec)[-1], LABELS)


def test_a_cache_keeps_readings_of_one_mask_apart(tmp_path: Path, make_masks: MakeMasks) -> None:
    masks = [indexed(LABELS, SPARSE), levels(LABELS, 0, 5, 11), levels(LABELS, 0, 5, 11)]
    source = FolderSource(make_masks(masks, SPARSE_TABLE))
    assert source.palettes == "gray"
    cache = DiskCache(source, tmp_path / "cache", None)
    cache.put("mask", "train/0", source.read_mask("train/0"))
    assert cache.get("mask", "train/0") is not None
    source.palettes = "index"
    assert cache.get("mask", "train/0") is None


def test_a_black_and_white_bmp_of_8_bits_is_refused_as_pillow_reads_other_pixels(
    make_masks: MakeMasks,
) -> None:
    spec = make_masks([indexed(BINARY, BLACK_AND_WHITE)] * 2, 'names = ["a", "b"]\n', "bmp")
    with pytest.raises(DatasetError, match=r"0\.bmp: got a mask of mode 1;BMP, expected"):
        check_source(FolderSource(spec))
    one_bit = make_masks([levels(BINARY, 0, 255).convert("1")] * 2, suffix="bmp")
    assert all(np.array_equal(mask, BINARY) for mask in read(one_bit))
