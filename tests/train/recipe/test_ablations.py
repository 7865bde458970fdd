"""Recipes of rows of the papers' ablation studies."""

from __future__ import annotations

import re
import tomllib

import pytest

from zoo.catalog import ablation_files, recipe_names
from zoo.train.recipe.read import load_recipe
from zoo.train.recipe.schema import Recipe


@pytest.mark.parametrize("name", ablation_files())
def test_an_ablation_changes_its_method_alone_and_names_the_row_of_its_table(name: str) -> None:
    tree = tomllib.loads(ablation_files()[name].read_text(encoding="utf-8"))
    base = load_recipe(tree["base"].removeprefix("../").removesuffix(".toml"))
    recipe = load_recipe(name)
    changed = {key for key in Recipe.model_fields if getattr(recipe, key) != getattr(base, key)}
    assert changed - {"data"} == {"recipe", "method", "reported"}
    assert recipe.data == base.data.model_copy(update=tree.get("data", {}))
    assert recipe.reported is not None
    assert re.match(r"Tables? (A?\d|III)\b", str(recipe.reported["source"]))
    assert name.startswith(f"{recipe.method.name}_")
    assert name not in recipe_names()
