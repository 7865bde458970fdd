"""Masks of images by their names: equal, `a.jpg.png` or `a_mask.png` for `a.jpg`, or only alike."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING
from unicodedata import normalize

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

OF_TEST = re.compile("(?<![A-Za-z])test|Test|TEST")
"""Word in the names of folders, annotations and lists that are not used."""

ENDING = "_mask"


def match_masks(images: Mapping[str, Path], masks: Collection[str]) -> dict[str, str]:
    """Return the mask of each image that has one, both by their relative paths without suffix.

    Letters and accents may be composed in one name and not in the other.

    Args:
        images: paths of the images.
        masks: relative paths of the masks.
    """
    composed = {normalize("NFC", mask): mask for mask in masks}
    found: dict[str, str] = {}
    for stem, path in images.items():
        plain = normalize("NFC", stem)
        forms = (stem, plain, f"{plain}{path.suffix}", f"{plain}{ENDING}")
        mask = next((form for form in forms if form in masks or form in composed), None)
        if mask is not None:
            found[stem] = mask if mask in masks else composed[mask]
    return found


def alike(masks: Collection[str]) -> dict[str, list[str]]:
    """Return masks by lower-case name, with and without prefixes and suffixes as in `a_seg` or `label-a`."""
    found: dict[str, list[str]] = defaultdict(list)
    for stem in masks:
        folder, slash, name = normalize("NFC", stem).casefold().rpartition("/")
        cuts = [index for index, letter in enumerate(name) if index and not letter.isalnum()]
        shorter = (part for cut in cuts for part in (name[:cut], name[cut + 1 :]))
        for part in {name, *shorter}:
            found[f"{folder}{slash}{part}"].append(stem)
    return found


def near(stem: str, by_name: Mapping[str, list[str]]) -> list[str]:
    """Return the masks with a name like that of an image, given all masks by `alike`."""
    return by_name.get(normalize("NFC", stem).casefold(), [])


def is_in_test(stem: str) -> bool:
    """Return whether an image lies in a folder of a test, such as `test2017`."""
    return any(map(OF_TEST.search, stem.split("/")[:-1]))
