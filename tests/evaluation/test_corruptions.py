from __future__ import annotations

import numpy as np
import pytest

from zoo.data.shapes import ShapesSource
from zoo.errors import ZooError
from zoo.evaluation.corruptions import CORRUPTIONS, Corrupted


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_higher_severity_changes_an_image_more_and_always_in_the_same_way(kind: str) -> None:
    source = ShapesSource()
    original = source.read_image("val/0000").astype(int)
    changes = []
    for severity in range(1, 6):
        corrupted = Corrupted(source, f"{kind}:{severity}")
        found = corrupted.read_image("val/0000")
        assert (found.dtype, found.shape) == (np.uint8, original.shape)
        np.testing.assert_array_equal(found, corrupted.read_image("val/0000"))
        changes.append(np.abs(found - original).mean())
    assert changes[0] > 1
    assert changes == sorted(changes)


def test_masks_and_names_stay_and_the_spec_names_the_corruption() -> None:
    corrupted = Corrupted(ShapesSource(), "blur:5")
    assert (corrupted.spec, corrupted.classes) == ("shapes with blur:5", ShapesSource().classes)
    np.testing.assert_array_equal(corrupted.read_mask("val/0001"), ShapesSource().read_mask("val/0001"))


@pytest.mark.parametrize("text", ["noise", "noise:0", "noise:6", "snow:1", "noise:1.5"])
def test_other_corruptions_are_refused(text: str) -> None:
    with pytest.raises(ZooError, match=f"--corrupt {text} is unknown, expected noise, .* from 1 to 5"):
        Corrupted(ShapesSource(), text)
