from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from zoo.train.methods.u2pl.u2pl import OFFICIAL, U2plConfig
from zoo.train.recipe.read import load_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator


REPORTED = {  # methods.md, C8, ResNet-101 with CutMix: labeled images or partition, U2PL, labels only, steps
    "u2pl_voc_92": ("92", 67.98, 45.77, 52_400),
    "u2pl_voc_183": ("183", 69.15, 54.92, 51_920),
    "u2pl_voc_366": ("366", 73.66, 65.88, 51_040),
    "u2pl_voc_732": ("732", 76.16, 71.69, 49_200),
    "u2pl_voc_1464": ("1464", 79.49, 72.50, 45_520),
    "u2pl_voc_662": ("662", 77.21, 67.87, 49_600),
    "u2pl_voc_1323": ("1323", 79.01, 71.55, 46_240),
    "u2pl_voc_2646": ("2646", 79.30, 75.80, 39_680),
    "u2pl_voc_5291": ("5291", 80.50, 77.13, 26_400),
    "u2pl_cityscapes_1-16": ("1/16", 70.30, 65.74, 34_800),
    "u2pl_cityscapes_1-8": ("1/8", 74.37, 72.53, 32_400),
    "u2pl_cityscapes_1-4": ("1/4", 76.47, 74.43, 27_800),
    "u2pl_cityscapes_1-2": ("1/2", 79.05, 77.83, 18_400),
}


def test_the_authors_settings_are_those_of_the_table() -> None:
    config = U2plConfig.model_validate(OFFICIAL)
    contrast = config.contrast
    assert (contrast.anchors, contrast.positive, config.quantile) == ("lowest", "class", "local")
    assert (contrast.anchors_per_class, contrast.negatives_per_class) == (256, 50)
    voc, city = (
        load_recipe(f"u2pl_{name}", ["preset=official"]).method for name in ("voc", "cityscapes_1-4")
    )
    assert (voc.lambda_c, voc.warm_start_steps) == (0.25, 578)
    assert (city.lambda_c, city.warm_start_steps) == (0.125, 0)
    assert city.contrast.anchors == "lowest"


@pytest.mark.parametrize("name", REPORTED)
def test_the_papers_rows_have_its_figures_partition_and_length(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.reported is not None
    got = (recipe.data.partition, recipe.reported["miou"], recipe.reported["labels_only"], recipe.steps)
    assert got == REPORTED[name]
    assert "R101" in str(recipe.reported["source"])
    epochs = 80 if "voc" in name else 200 / 20
    assert recipe.steps / recipe.method.warm_start_steps == epochs
    assert recipe.network.decoder.head == "linear"
    assert recipe.network.decoder.separate_embedding
    rates = recipe.method.optimizer
    assert (rates.name, rates.lr, rates.schedule) == ("sgd", 1e-2, "poly")


@pytest.mark.parametrize("steps", [6, 100])
@pytest.mark.parametrize("name", ["u2pl", "u2pl_shapes", "u2pl_voc_662", "u2pl_cityscapes_1-8"])
def test_a_shortened_run_keeps_both_phases(name: str, steps: int) -> None:
    assert 1 <= load_recipe(name, steps=steps).method.warm_start_steps < steps


def compared() -> Iterator[dict[str, Any]]:
    """Return the recipes on shapes of U2PL and of labels only, without what the method needs."""
    for method in ("u2pl", "supervised"):
        recipe = load_recipe(f"{method}_shapes").model_dump()
        del recipe["recipe"], recipe["data"]["batch_u"], recipe["network"]["decoder"]["separate_embedding"]
        assert recipe["network"]["decoder"].pop("channel_dropout") == (method == "u2pl")
        assert recipe["data"].pop("labeled_view") == ("cutmix" if method == "u2pl" else "weak")
        yield recipe | {"method": recipe["method"]["optimizer"]}


def test_the_recipe_on_shapes_differs_from_the_baseline_in_its_method_alone() -> None:
    ours, baseline = compared()
    assert ours == baseline
