"""Plan of a run: its memory and time on this machine, estimated from a few steps at smaller batches.

The peak of each phase is predicted by a line through two batches. If the run's batch fits according to that
line, some of its steps are run as well: they give the time and the error of the prediction, and turn the line
into a curve from which the largest batch is computed (`zoo.train.profile.memory_fit`).
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from zoo.errors import RecipeError
from zoo.memory import KIND, free_mib, held_mib, release
from zoo.train.data.streams import TrainingData
from zoo.train.loop.validation import predictor_of
from zoo.train.profile.loading import plan_loading
from zoo.train.profile.memory_fit import (
    Curve,
    curve_through,
    fit_sizes,
    fixed_parts,
    images_of,
    largest_batch,
    peak_of,
    with_batch,
)
from zoo.train.profile.parts import DATA
from zoo.train.profile.profile import WARM_STEPS, Profiler

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from zoo.train.loop.hardware import Hardware
    from zoo.train.method import Phase
    from zoo.train.recipe.schema import Recipe

log = logging.getLogger(__name__)

TIMED_STEPS = 2
TIMED_IMAGES = 3
SHARE = 0.9
"""Share of the free memory that a run may use; the rest is for fragmentation, data workers and others."""


def plan(recipe: Recipe, hardware: Hardware, steps: int = TIMED_STEPS) -> dict[str, Any]:
    """Return the estimated memory and time of a run, ready for JSON; nothing is trained or written.

    Args:
        recipe: recipe of the run.
        hardware: hardware with one device.
        steps: number of steps to time in each phase and batch.

    Returns:
        `parameters` and `memory` (MiB) by part, `phases` with predicted and measured peak and seconds per
        step, `largest_batch`, `error` of the prediction, `seconds` of the whole run, and `loading`
        (`plan_loading`). Unknown values are None.

    Raises:
        ZooError: invalid data or recipe, several devices, or too little memory for the two smallest batches.
    """
    if hardware.devices != 1:
        raise RecipeError(f"--plan measures one process, got --devices {hardware.devices}: leave it out")
    data = TrainingData.draw(recipe)
    # a cache in memory would count as memory of the steps
    uncached = data.recipe.data.model_copy(update={"cache": "none"})
    plain = replace(data, recipe=data.recipe.model_copy(update={"data": uncached}))
    found = _measure(_Bench(hardware.fabric(recipe.precision), plain), steps)
    fed = {name: phase["fed_step_s"] for name, phase in found["phases"].items()}
    return found | {"loading": plan_loading(data, fed)}


class _Bench:
    """Runs steps of a recipe at several batches, and keeps the networks of the last."""

    def __init__(self, fabric: Fabric, data: TrainingData) -> None:
        self.fabric, self.data, self.recipe, self.source = fabric, data, data.recipe, data.source
        self.evaluated = [*data.source.ids("val"), *data.held_out]
        self.device = fabric.device
        self.profiler = Profiler(fabric, data)
        self.phases = self.profiler.phases

    def profile(self, batch: int, steps: int = 1, warm: int = 1) -> dict[str, Any]:
        """Return the profile of some steps of each phase at a batch.

        Raises:
            RecipeError: the memory is too small for this batch.
        """
        log.info("%d steps of each phase at batch %d", warm + 1 + 2 * steps, batch)
        self.forget()
        data = replace(self.data, recipe=with_batch(self.recipe, batch))
        try:
            self.profiler = Profiler(self.fabric, data)
            return self.profiler.profile(steps, warm)
        except torch.OutOfMemoryError as error:
            raise RecipeError(
                f"batch {batch} needs more memory than {self.device} has free: lower --batch or --imgsz, or "
                f"take --precision bf16"
            ) from error

    def forget(self) -> None:
        """Free the networks."""
        if hasattr(self, "profiler"):
            del self.profiler
        release(self.device)

    def curves(self, found: dict[int, dict[str, Any]]) -> dict[str, Curve] | None:
        """Return the curve of each phase through the profiles; None where memory is not reported."""
        curves = {}
        for phase in self.phases:
            peaks = [
                (images_of(phase, with_batch(self.recipe, size)), peak_of(each[phase.name]))
                for size, each in found.items()
            ]
            known = [(images, mib) for images, mib in peaks if mib is not None]
            if len(known) < len(peaks):
                return None
            curves[phase.name] = curve_through(known)
        return curves

    def evaluation_s(self) -> float:
        """Return the duration of an evaluation, estimated from some of its images."""
        predictor = predictor_of(self.profiler.method, self.recipe, self.source)
        ids, times = self.evaluated, []
        for id_ in ids[: 1 + TIMED_IMAGES]:
            began = time.perf_counter()
            self.source.read_mask(id_)
            predictor.predict(self.source.read_image(id_))
            times.append(time.perf_counter() - began)
        return len(ids) * fmean(times[1:] or times)


def _measure(bench: _Bench, steps: int) -> dict[str, Any]:
    """Measure and return the plan of a run, without `loading`."""
    recipe, batch = bench.recipe, bench.recipe.data.batch_l
    sizes = fit_sizes(batch)
    bench.profile(sizes[0])  # loads the code of every operation
    bench.forget()
    base, free = held_mib(bench.device), free_mib(bench.device)
    limit = None if base is None or free is None else SHARE * (base + free)
    found = {size: bench.profile(size) for size in sizes}
    lines = bench.curves(found)
    each = {phase.name: images_of(phase, recipe) / batch for phase in bench.phases}

    def largest_of(curves: dict[str, Curve] | None) -> int | None:
        return None if curves is None or limit is None else largest_batch(curves, each, limit)

    largest = largest_of(lines)
    fits = largest is None or largest >= batch
    own = bench.profile(batch, steps, WARM_STEPS) if fits else None
    if own is not None:
        largest = largest_of(bench.curves(found | {batch: own}))
    held = {"program and libraries": base} | fixed_parts(
        bench.profiler.method, bench.profiler.train_step.optimizers
    )
    phases = {
        phase.name: {"steps": phase.steps, **_step_seconds(phase, own, found, batch)}
        | _memory(phase, recipe, lines, sum(filter(None, held.values())))
        | {"measured_mib": None if own is None else peak_of(own[phase.name])}
        for phase in bench.phases
    }
    return {
        "device": str(bench.device),
        "batch": batch,
        "phases": phases,
        "parameters": {
            name: sum(p.numel() for p in child.parameters())
            for name, child in bench.profiler.method.named_children()
        },
        "memory": held,
        "memory_is": KIND[bench.device.type],
        "fitted": list(sizes),
        "limit_mib": limit,
        "largest_batch": largest,
        "fits": fits,
        **_error(phases, is_new=batch not in sizes),
        **_whole(phases, recipe, bench.evaluation_s()),
    }


def _step_seconds(
    phase: Phase, own: dict[str, Any] | None, found: dict[int, dict[str, Any]], batch: int
) -> dict[str, float]:
    """Return the seconds per step, and without waiting for its batch.

    If the run's batch was not measured, they are scaled from the largest batch that was.
    """
    taken, scale = (found[max(found)], batch / max(found)) if own is None else (own, 1.0)
    figures = taken[phase.name]
    seconds = float(scale * figures["uncut_step_ms"] / 1000)
    return {"step_s": seconds, "fed_step_s": seconds * (1 - figures["parts"][DATA]["share"])}


def _memory(phase: Phase, recipe: Recipe, lines: dict[str, Curve] | None, held: float) -> dict[str, Any]:
    """Return the predicted peak of a phase, and its part that grows with the batch."""
    if lines is None:
        return {"predicted_mib": None, "activations_mib": None, "mib_each_image": None}
    line = lines[phase.name]
    peak = line.at(images_of(phase, recipe))
    return {"predicted_mib": peak, "activations_mib": max(0.0, peak - held), "mib_each_image": line.each}


def _error(phases: dict[str, dict[str, Any]], *, is_new: bool) -> dict[str, float | None]:
    """Return the highest peaks, and the relative error of the prediction.

    Args:
        phases: phases with predicted and measured peaks.
        is_new: whether the batch is not one of those from which it was predicted.
    """
    values = {key: [phase[key] for phase in phases.values()] for key in ("predicted_mib", "measured_mib")}
    highest = {key: None if None in found else max(found) for key, found in values.items()}
    predicted, measured = highest.values()
    if not is_new or predicted is None or measured is None:
        return {**highest, "error": None}
    return {**highest, "error": predicted / measured - 1}


def _whole(phases: dict[str, dict[str, Any]], recipe: Recipe, evaluation_s: float) -> dict[str, float]:
    """Return the time of the whole run; a selected step is evaluated once more at the end."""
    evaluations = math.ceil(recipe.steps / (recipe.validate_every or recipe.steps)) + bool(recipe.select_on)
    training = sum(phase["steps"] * phase["step_s"] for phase in phases.values())
    return {
        "evaluations": evaluations,
        "evaluation_s": evaluation_s,
        "seconds": training + evaluations * evaluation_s,
    }
