"""Training of one method with one encoder: its steps at the size of its paper, computed in several ways."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from zoo.train.profile.step_bench import StepVariant, measure_step
from zoo.train.recipe.read import load_recipe

if TYPE_CHECKING:
    from zoo.suite.part import Figures, Keep
    from zoo.train.recipe.schema import Recipe

log = logging.getLogger(__name__)

VOC_CLASSES, SHAPES_CLASSES = 21, 7
STEPS, WARMUP = 10, 3
QUICK_STEPS, QUICK_WARMUP = 2, 1
QUICK_CHANGES: dict[str, Any] = {"data.imgsz": [32, 32], "data.batch_l": 2, "data.batch_u": 2}


def variant(name: str, precision: str, *, plain: bool = False, **switches: bool) -> StepVariant:
    """Return how a step is computed; eager and NCHW unless `switches` say otherwise."""
    fields: dict[str, Any] = {"channels_last": False, "compile": False, **switches}
    return StepVariant(name=name, precision=precision, plain=plain, **fields)


PLAIN = variant("plain fp32", "fp32", plain=True)
VARIANTS = (
    PLAIN,
    variant("bf16, channels last", "bf16", channels_last=True),
    variant("bf16, channels last, compile", "bf16", channels_last=True, compile=True),
    variant("bf16", "bf16"),
    variant("fp32", "fp32"),
)
"""The aims need the first three: they come first, in case that the limit ends the part."""
QUICK_VARIANTS = (PLAIN, variant("fp32, channels last", "fp32", channels_last=True))


def measure(options: dict[str, Any], device: str, keep: Keep) -> Figures:
    """Return what a step takes, `variants` by name: their phases, or why there are no figures.

    Args:
        options: `recipe`, `encoder`, `quick`.
        device: `cpu` or `cuda`.
        keep: told of the variants as they are measured.
    """
    quick = options["quick"]
    recipe = recipe_of(options)
    steps, warmup = (QUICK_STEPS, QUICK_WARMUP) if quick else (STEPS, WARMUP)
    figures: Figures = {"recipe": facts(recipe), "variants": {}}
    for each in QUICK_VARIANTS if quick else VARIANTS:
        log.info("%s of %s: %s", recipe.method.name, recipe.network.encoder, each.name)
        figures["variants"][each.name] = _measured(recipe, device, each, steps, warmup)
        keep(figures)
    return figures


def recipe_of(options: dict[str, Any]) -> Recipe:
    """Return the recipe with the encoder that is asked for, of the kind that the recipe names.

    RRN and U2PL have ResNets of their own, with stems of three convolutions: `resnet50c` becomes
    `resnet101c`.
    """
    quick, name = options["quick"], options["recipe"]
    kind = load_recipe(name).network.encoder
    changes = {"network.encoder": re.sub(r"^resnet\d+", options["encoder"], kind)}
    changes |= QUICK_CHANGES if quick else {}
    recipe = load_recipe(name, changes=changes)
    return recipe.for_classes(SHAPES_CLASSES if quick else VOC_CLASSES)


def facts(recipe: Recipe) -> dict[str, Any]:
    """Return what decides how long a step takes."""
    return {
        "name": recipe.recipe,
        "architecture": recipe.network.decoder.name,
        "encoder": recipe.network.encoder,
        "output_stride": recipe.network.output_stride,
        "imgsz": list(recipe.data.imgsz),
        "batch_l": recipe.data.batch_l,
        "batch_u": recipe.data.batch_u,
        "num_classes": recipe.network.num_classes,
    }


def _measured(recipe: Recipe, device: str, each: StepVariant, steps: int, warmup: int) -> dict[str, Any]:
    """Return the phases of a variant, or why it has no figures: one that does not fit leaves the others."""
    try:
        return measure_step(recipe, device, variant=each, steps=steps, warmup=warmup)
    except Exception as error:  # out of memory, a compiler that is missing: the table says so
        log.warning("%s: %s", each.name, error)
        return {"reason": " ".join(f"{type(error).__name__}: {error}".split())[:240]}
