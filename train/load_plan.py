"""What the loader of a planned run gives against what its steps take, by a look of some seconds."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from zoo.train.load_bench import HEADROOM
from zoo.train.load_rate import cores, endless_stream, part_seconds, rate_of, widest_phase
from zoo.train.memory_fit import images_of

if TYPE_CHECKING:
    from zoo.data.partition import Partition
    from zoo.data.source import Source
    from zoo.train.recipe import Recipe

log = logging.getLogger(__name__)

SECONDS = 2.0
BATCHES = 2


def plan_loading(
    recipe: Recipe, source: Source, partition: Partition, step_s: dict[str, float]
) -> dict[str, Any]:
    """Return what the loader gives and what it would take to feed the steps of the hungriest phase.

    Args:
        recipe: of the run; its cache is left out, as it is empty when a run begins.
        source: of the images.
        partition: of them.
        step_s: seconds of a step of each phase, without the wait for its batch.

    Returns:
        `phase`, `workers` of the recipe, `images_per_s` they give, `need` in images/s, `feeds`, `cpu_ms` an
        image, `workers_needed`, and `cores` of this machine.
    """
    log.info("%.0f s of the loader alone", SECONDS)
    phase = widest_phase(recipe)
    data = recipe.data.model_copy(update={"cache": "none"})
    plain = recipe.model_copy(update={"data": data})
    stream = endless_stream(plain, source, partition, phase)
    rate = rate_of(stream, data.workers, SECONDS)
    cpu_s = sum(part_seconds(stream, BATCHES).values())
    given = rate.images / rate.seconds
    need = recipe.accumulate * images_of(phase, recipe) / step_s[phase.name]
    return {
        "phase": phase.name,
        "workers": data.workers,
        "images_per_s": given,
        "need": need,
        "feeds": given >= HEADROOM * need,
        "cpu_ms": 1000 * cpu_s,
        "workers_needed": math.ceil(HEADROOM * need * cpu_s),
        "cores": cores(),
    }
