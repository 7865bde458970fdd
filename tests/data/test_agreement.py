"""Masks that disagree on what 255, white or a mode means: a fault, for training as for `zoo data check`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from zoo.classes import IGNORE
from zoo.data.check import check_source
from zoo.data.folder import FolderSource
from zoo.data.formats.voc import VocSource
from zoo.data.inspect.inspection import inspect
from zoo.data.inspect.proposal import write_proposal
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    MakeMasks = Callable[..., str]
    FaultOf = Callable[[str], str]

HEIGHT, WIDTH = 48, 64
NAMED = 'names = ["a", "b"]\n'
TABLE = '[labels]\n0 = "a"\n255 = "b"\n'


def stripes(*values: int) -> NDArray[np.uint8]:
    rows = np.array(values, np.uint8).repeat(HEIGHT // len(values))
    return rows[:, None].repeat(WIDTH, axis=1)


def gray(*values: int) -> Image.Image:
    return Image.fromarray(stripes(*values))


def indexed(values: NDArray[np.uint8], *colors: int) -> Image.Image:
    image = Image.fromarray(values, mode="P")
    image.putpalette(colors)
    return image


def with_borders() -> Image.Image:
    """Return a mask of two objects with thin borders of 255, as PASCAL VOC has them."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for label, left in ((1, 4), (2, 36)):
        mask[8:40, left : left + 24] = 255
        mask[10:38, left + 2 : left + 22] = label
    return Image.fromarray(mask)


def scribbles(*labels: int) -> Image.Image:
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    for label in labels:
        mask[10 * label + 5, 10:40] = label
    return Image.fromarray(mask)


B255, B1, ONE_BIT = gray(0, 255, 0), gray(0, 1, 0), gray(0, 255, 0).convert("1")
MANY, THREE = gray(0, 1, 2), gray(0, 128, 255)
ODD = {
    "1-bit": ONE_BIT,
    "palette of black and white": indexed(stripes(0, 1, 0), 0, 0, 0, 255, 255, 255),
    "palette of black and red": indexed(stripes(0, 1, 0), 0, 0, 0, 200, 0, 0),
    "RGB": B255.convert("RGB"),
    "RGBA": B255.convert("RGBA"),
    "LA": B255.convert("LA"),
    "class numbers": B1,
}


def shown(spec: str) -> list[list[int]]:
    """Return the labels of each mask."""
    source = FolderSource(spec)
    return [
        np.unique(source.read_mask(id_)).tolist() for split in ("train", "val") for id_ in source.ids(split)
    ]  # type: ignore[arg-type]


def kinds(spec: str) -> set[str]:
    return {finding.kind for finding in inspect(spec).findings}


def accept_proposal(spec: str) -> None:
    inspection = inspect(spec)
    assert inspection.meaning.proposal is not None
    write_proposal(inspection.meaning.proposal, inspection.root, inspection.toml)


@pytest.mark.parametrize("toml", ["", NAMED])
@pytest.mark.parametrize("place", ["train", "val"])
@pytest.mark.parametrize("odd", ODD)
def test_one_odd_mask_among_those_of_0_and_255_is_a_fault_whose_proposal_works(
    make_masks: MakeMasks, fault_of: FaultOf, odd: str, place: str, toml: str
) -> None:
    masks = [ODD[odd], *[B255] * 5] if place == "train" else [*[B255] * 5, ODD[odd]]
    spec = make_masks(masks, toml)
    text = fault_of(spec)
    file = "train/masks/0.png" if place == "train" else "val/masks/5.png"
    assert (
        f"{file} (mode {ODD[odd].mode}," in text or f"{file}: got a mask of mode {ODD[odd].mode} with" in text
    )
    assert "(mode L, values 0, 255)" in text
    assert "data.toml" in text
    assert "\n" not in text
    accept_proposal(spec)
    assert fault_of(spec) == ""
    assert shown(spec) == [[0, 1]] * 6


@pytest.mark.parametrize(
    ("masks", "val"),
    [
        ([B255, B255, B1, B1, B255, B1], 2),  # half and half
        ([B1, B1, B1, B1, B255, B255], 2),
        ([B255, B255, B255, B255, B1, B1], 2),
        ([B255, B1, B1, B1, B1, B1], 1),
        ([B1, B1, B1, B1, B1, B255], 2),  # one of val
        ([gray(0), gray(255), gray(255), gray(0), B1, gray(255)], 1),  # tiles
        ([B1, ODD["palette of black and white"], B1, B1], 1),
    ],
)
@pytest.mark.parametrize("toml", ["", NAMED, '[labels]\n0 = "a"\n1 = "b"\n'])
def test_masks_of_0_and_255_among_class_numbers_are_a_fault_that_a_table_resolves(
    make_masks: MakeMasks, fault_of: FaultOf, masks: Sequence[Image.Image], val: int, toml: str
) -> None:
    spec = make_masks(masks, toml, val=val)
    text = fault_of(spec)
    if toml.startswith("[labels]") and masks[1].mode == "P":  # the indices are those that it lists
        assert text == ""
        return
    assert "masks of 0 and 255 among masks of class numbers" in text
    assert "255)" in text
    assert "values 0, 1)" in text
    accept_proposal(spec)
    assert fault_of(spec) == ""
    assert all(set(labels) <= {0, 1} for labels in shown(spec))


@pytest.mark.parametrize(
    ("masks", "toml", "kind"),
    [
        ([THREE] * 3, "", "sparse-values"),
        ([THREE, ONE_BIT, THREE], "", "sparse-values"),
        ([MANY, THREE, MANY, THREE], "", "sparse-values"),  # 1 and 128, 2 and 255 are one class
        ([gray(0, 0, 0, 1, 255, 255)] * 2, 'names = ["a", "b", "c"]\n', "hidden-class"),
        ([gray(0, 5, 11)] * 3, 'names = ["a", "b", "c"]\n', "unknown-value"),
    ],
)
def test_a_class_that_255_or_a_number_beyond_the_names_hides_gets_a_table(
    make_masks: MakeMasks, fault_of: FaultOf, masks: Sequence[Image.Image], toml: str, kind: str
) -> None:
    spec = make_masks(masks, toml)
    assert fault_of(spec)
    assert kind in kinds(spec)
    accept_proposal(spec)
    assert fault_of(spec) == ""
    assert sorted({label for labels in shown(spec) for label in labels}) == [0, 1, 2]


def test_values_with_large_gaps_stop_training_before_a_class_is_made_of_each_number(
    make_masks: MakeMasks, fault_of: FaultOf
) -> None:
    assert "masks with the values 0 (in 3), 127 (in 3), 255 (in 3)" in fault_of(
        make_masks([gray(0, 127, 255)] * 3)
    )


def test_encodings_that_no_table_can_match_are_a_fault_without_a_proposal(
    make_masks: MakeMasks, fault_of: FaultOf
) -> None:
    spec = make_masks([MANY, gray(0, 85, 170, 255), MANY])
    text = fault_of(spec)
    assert "0.png (mode L, values 0, 1, 2)" in text
    assert "1.png (mode L, values 0, 85, 170, 255)" in text
    assert inspect(spec).meaning.proposal is None


@pytest.mark.parametrize(
    ("masks", "kind"),
    [
        ([B255] * 5 + [with_borders(), B255], "hidden-class"),
        ([with_borders()] * 5 + [B255], "hidden-class"),  # val shows no class
        ([ONE_BIT, MANY, MANY], "mixed-modes"),
        ([MANY.convert("RGB"), MANY, MANY], "mask-mode"),
        ([indexed(stripes(0, 1, 2), 0, 0, 0, 9, 0, 0, 0, 9, 0).convert("RGB"), MANY, MANY], "mask-mode"),
        ([Image.fromarray(stripes(0, 1, 2).astype(np.uint16)), MANY, MANY], "mask-mode"),
        ([MANY.convert("LA"), MANY, MANY], "mask-mode"),
        ([gray(1), gray(1)], "one-class"),
    ],
)
@pytest.mark.parametrize("toml", ["", 'names = ["a", "b", "c"]\n'])
def test_what_no_table_resolves_is_a_fault_too(
    make_masks: MakeMasks, fault_of: FaultOf, masks: Sequence[Image.Image], toml: str, kind: str
) -> None:
    spec = make_masks(masks, toml)
    assert fault_of(spec)
    assert kind in kinds(spec)


@pytest.mark.parametrize("place", ["train", "val"])
def test_a_split_without_a_labeled_pixel_is_a_fault(
    make_masks: MakeMasks, fault_of: FaultOf, place: str
) -> None:
    void = [gray(255)] * 2
    spec = make_masks([*void, MANY] if place == "train" else [MANY, *void], val=1 if place == "train" else 2)
    assert f"got masks of ignored pixels alone in {place}: label its images" in fault_of(spec)
    assert {"no-labels", "all-ignored"} <= kinds(spec)


def test_almost_no_pixel_of_a_class_does_not_excuse_255(make_masks: MakeMasks, fault_of: FaultOf) -> None:
    mask = stripes(0, 255, 0)
    mask[0, 0] = 1
    assert "100% of what is not background in train" in fault_of(make_masks([Image.fromarray(mask)] * 3))


@pytest.mark.parametrize(
    ("masks", "warnings"),
    [
        ([with_borders()] * 4, set()),
        ([with_borders(), gray(255), with_borders(), with_borders()], {"all-ignored"}),
        ([MANY, MANY, gray(255), MANY], {"all-ignored"}),
        ([scribbles(0, 1, 2)] * 3 + [MANY], {"mostly-ignored"}),
        ([scribbles(0, 1, 2), scribbles(0), scribbles(0), MANY], {"mostly-ignored", "all-background"}),
        ([with_borders()] * 4 + [B255, with_borders()], {"wide-void", "all-background"}),
        ([ONE_BIT] * 3, set()),
        ([ONE_BIT, B1, B1], set()),
        ([ODD["palette of black and red"], B1, ONE_BIT], set()),
        ([gray(0).convert("1"), MANY, MANY], {"all-background"}),
    ],
)
@pytest.mark.parametrize("is_named", [False, True])
def test_255_that_is_void_is_no_fault(
    make_masks: MakeMasks, fault_of: FaultOf, masks: Sequence[Image.Image], warnings: set[str], is_named: bool
) -> None:
    count = 3 if any(2 in np.asarray(mask) for mask in masks) else 2
    spec = make_masks(masks, f"names = {['a', 'b', 'c'][:count]}\n" if is_named else "")
    assert fault_of(spec) == ""
    assert kinds(spec) - {"absent-class"} == warnings


@pytest.mark.parametrize(
    ("masks", "toml"),
    [
        ([B255, B255, with_borders(), B255], 'names = ["a", "b", "c"]\nignore = [255]\n'),
        ([B1, B255, B1], NAMED + "ignore = [255]\n"),
        ([B255, ONE_BIT, B255], TABLE),
    ],
)
def test_a_description_that_lists_255_ends_the_doubt(
    make_masks: MakeMasks, fault_of: FaultOf, masks: Sequence[Image.Image], toml: str
) -> None:
    assert fault_of(make_masks(masks, toml)) == ""


def test_white_of_1_bit_masks_is_255_where_a_table_says_so_and_1_elsewhere(make_masks: MakeMasks) -> None:
    assert shown(make_masks([ONE_BIT] * 2)) == [[0, 1]] * 2
    assert shown(make_masks([ONE_BIT] * 2, TABLE)) == [[0, 1]] * 2
    assert shown(make_masks([ONE_BIT] * 2, '[labels]\n1 = "a"\n0 = "b"\n255 = "a"\n')) == [[0, 1]] * 2
    assert shown(make_masks([ONE_BIT] * 2, '[labels]\n0 = "a"\n5 = "b"\n255 = "c"\n')) == [[0, 2]] * 2


def test_training_logs_the_warnings_in_a_line_each(
    make_masks: MakeMasks, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_source(FolderSource(make_masks([scribbles(0, 1, 2)] * 2 + [MANY])))
    (line,) = caplog.messages
    assert "got 255, which means ignore, on 98% of what is not background in train" in line
    assert "\n" not in line


def test_colors_beyond_those_listed_may_be_many_if_they_are_ignored(
    make_masks: MakeMasks, fault_of: FaultOf
) -> None:
    colors = "[colors]\na = [0, 0, 0]\nb = [255, 255, 255]\n"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    masks = [picture, *[B255.convert("RGB")] * 2]
    assert "more than 256 colors" in fault_of(make_masks(masks, colors))
    spec = make_masks(masks, 'unknown = "ignore"\n' + colors)
    assert fault_of(spec) == ""
    assert IGNORE in shown(spec)[0]


def test_published_masks_are_judged_too(voc: Any) -> None:
    spec = f"voc-classic:{voc.root}"
    check_source(VocSource(spec, "own"))
    for path in sorted((voc.root / "SegmentationClass").glob("*.png")):
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask == 15, 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(DatasetError, match="100% of what is not background in train"):
        check_source(VocSource(spec, "own"))
    assert "hidden-class" in kinds(spec)
