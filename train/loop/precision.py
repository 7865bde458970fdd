"""Precision of a run that leaves it to the machine: `zoo train --precision auto`."""

from __future__ import annotations

import logging
import os
import statistics
import time
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.distributed import is_torchelastic_launched

from zoo.child import is_first
from zoo.errors import RecipeError
from zoo.machine import gpu_precision, limit_torch
from zoo.models.segmentation import SegmentationNetwork
from zoo.predictors.eager import has_bf16_instructions

if TYPE_CHECKING:
    from zoo.train.loop.hardware import Hardware
    from zoo.train.recipe.schema import Recipe

log = logging.getLogger(__name__)

GAIN = 1.1
"""Speed of bf16 over fp32 from which a CPU takes it."""

ROUNDS = 3
LEAST_BATCH = 2
"""Images that BatchNorm needs where the map of features is a single pixel."""

TOLD = "ZOO_PRECISION"
"""Environment variable in which the first process tells the others its choice."""


class Chosen(NamedTuple):
    """A precision and the reason for it, in words."""

    precision: str
    reason: str


def with_precision_of_machine(recipe: Recipe, hardware: Hardware) -> Recipe:
    """Return a recipe in the precision that is fastest here, and log the reason.

    A GPU with tensor cores takes bf16, or fp16 where they have no bf16. A CPU takes bf16 if it has the
    instructions, and if steps of the recipe's network are measured to be faster by `GAIN`.

    Raises:
        RecipeError: the hardware does not match the settings, or processes that torchrun started would each
            measure for themselves.
    """
    device = hardware.accelerator("fp32")
    if TOLD in os.environ:  # started by the first process
        return recipe.model_copy(update={"precision": os.environ[TOLD]})
    if device == "cuda":
        found, words = gpu_precision(torch.cuda.get_device_capability())
        chosen = Chosen(found, f"the GPU has {words}")
    elif not has_bf16_instructions():
        chosen = Chosen("fp32", "the processor has no bf16 instructions")
    elif is_torchelastic_launched():
        raise RecipeError(
            "--precision auto: torchrun started processes of which each would measure for itself, expected "
            "one precision for all: choose fp32 or bf16"
        )
    else:
        limit_torch()
        chosen = of_seconds(**{name: step_seconds(recipe, name) for name in ("fp32", "bf16")})
    if prod(hardware.layout()) > 1:
        os.environ[TOLD] = chosen.precision
    if is_first():
        log.info("precision auto: %s, as %s", *chosen)
    return recipe.model_copy(update={"precision": chosen.precision})


def of_seconds(fp32: float, bf16: float) -> Chosen:
    """Return the precision of a CPU by the seconds of a step."""
    words = f"a step of the network takes {fp32:.2g} s in fp32 and {bf16:.2g} s in bf16"
    return Chosen("bf16" if fp32 >= GAIN * bf16 else "fp32", words)


def step_seconds(recipe: Recipe, precision: str) -> float:
    """Return the median seconds that the network of a recipe takes forward and back for a labeled batch.

    Args:
        recipe: recipe of the run; the number of its classes does not matter.
        precision: `fp32` or `bf16`.
    """
    layout = recipe.compute.layout(torch.device("cpu"))
    network = SegmentationNetwork(recipe.network).train().to(memory_format=layout)
    size = (max(recipe.data.batch_l, LEAST_BATCH), recipe.network.in_channels, *recipe.data.imgsz)
    images = torch.rand(size).contiguous(memory_format=layout)
    seconds = []
    for _ in range(ROUNDS + 1):  # the first one warms up
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = network(images).logits
        logits.float().square().mean().backward()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])
