"""Recipes that name settings which older versions had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoo.errors import RecipeError
from zoo.train.methods.table import METHODS
from zoo.train.recipe.read import load_recipe
from zoo.train.recipe.removed import REMOVED, with_settings_of_today
from zoo.train.runs.folder import RunFolder

OLD_RUNS = Path(__file__).parents[2] / "fixtures" / "v0.1" / "runs"
CASES = [(method, key) for method, settings in REMOVED.items() for key in settings]


@pytest.mark.parametrize(("method", "key"), CASES)
def test_a_removed_setting_is_accepted_with_the_value_that_it_always_has(method: str, key: str) -> None:
    value = json.dumps(REMOVED[method][key])
    assert load_recipe(method, [f"method.{key}={value}"]) == load_recipe(method)


@pytest.mark.parametrize(("method", "key"), CASES)
def test_a_removed_setting_with_another_value_is_one_clear_line(method: str, key: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(method, [f"method.{key}=other"])
    message = str(error.value)
    assert f"method.{key} is 'other', expected {REMOVED[method][key]!r}: the setting was removed" in message
    assert "\n" not in message


@pytest.mark.parametrize(("method", "key"), CASES)
def test_a_removed_setting_is_no_setting_of_its_method(method: str, key: str) -> None:
    config: Any = METHODS[method].config
    *tables, last = key.split(".")
    for table in tables:
        config = config.model_fields[table].annotation
    assert last not in config.model_fields


def test_a_setting_in_british_spelling_is_read_under_its_name() -> None:
    recipe = load_recipe("rrn", ["method.normalisation=separate"])
    assert recipe == load_recipe("rrn", ["method.normalization=separate"])
    assert recipe.method.normalization == "separate"


@pytest.mark.parametrize("view", ["weak", "strong"])
def test_the_view_of_labels_only_is_read_as_that_of_all_methods(view: str) -> None:
    recipe = load_recipe("supervised_shapes", [f"method.view={view}"])
    assert recipe == load_recipe("supervised_shapes", [f"data.labeled_view={view}"])
    assert recipe.data.labeled_view == view
    assert recipe.data.spec == "shapes"


def test_a_normalization_that_was_removed_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"method\.normalization is 'all'"):
        load_recipe("rrn", ["method.normalisation=all"])


def test_recipes_without_such_settings_and_those_of_unknown_methods_are_left() -> None:
    tree = {"recipe": "x", "method": {"name": "mine", "views": "strong"}}
    assert with_settings_of_today(tree) == tree
    assert with_settings_of_today({"recipe": "x", "method": "eln"}) == {"recipe": "x", "method": "eln"}


def test_a_run_of_version_0_1_that_asked_for_what_was_removed_is_refused_in_one_line(tmp_path: Path) -> None:
    value = json.loads((OLD_RUNS / "eln" / "recipe.json").read_text())
    value["recipe"]["method"]["views"] = "strong"
    (tmp_path / "recipe.json").write_text(json.dumps(value))
    with pytest.raises(RecipeError, match=r"method\.views is 'strong', expected 'both'"):
        RunFolder(tmp_path).read_recipe()
