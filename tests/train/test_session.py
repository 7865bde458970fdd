"""Remarks at the end of a run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from zoo.train.session import _remark_unseen

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.recipe.schema import Recipe


@pytest.mark.parametrize(
    ("val", "said"),
    [
        ({"iou": {"road": 0.9, "pole": 0.0, "sign": 0.004}}, "of pole, sign is found: more steps"),
        ({"iou": {f"c{number}": 0.0 for number in range(7)}}, "of c0, c1, c2, c3, c4 and 2 other classes is"),
        ({"iou": {"road": 0.9, "car": 0.01, "absent": None}}, ""),
        ({"map": 0.5}, ""),  # a classifier's
    ],
)
def test_classes_that_are_not_found_are_named(
    val: dict[str, Any], said: str, recipe_of: Callable[..., Recipe], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="zoo"):
        _remark_unseen(recipe_of("supervised"), val)
    assert said in caplog.text
    assert bool(caplog.messages) == bool(said)
    assert ("class_weights=effective_number" in caplog.text) == bool(said)


def test_weights_are_not_proposed_to_a_run_that_has_them(
    recipe_of: Callable[..., Recipe], caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_of("supervised").model_copy(update={"class_weights": "inverse"})
    with caplog.at_level(logging.WARNING, logger="zoo"):
        _remark_unseen(recipe, {"iou": {"pole": 0.0}})
    assert caplog.messages == [
        "val: next to no pixel of pole is found: more steps or larger images may find them"
    ]
