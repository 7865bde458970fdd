"""Profile of training steps: time and memory by phase and part, without training a model.

A step is split into parts (`parts`): data (waiting for the batch, moving and normalizing it), each network's
forward passes, losses (all other work of the method's `forward`; their gradients belong to backward),
backward, optimizer (with the check of the gradient), update (teachers, zeroing gradients). U2PL's contrastive
loss is a separate part, with its gradient. On a GPU, each cut synchronizes with the device; some steps also
run without cuts to show the cost.
"""

from __future__ import annotations

import logging
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import write_json
from zoo.errors import RecipeError
from zoo.memory import KIND
from zoo.outputs import MOVE, exists, is_record, refusal
from zoo.train.data.loaders import BatchStream, batches
from zoo.train.data.streams import TrainingData
from zoo.train.loop.step import TrainingStep
from zoo.train.method import Phase, progress_at
from zoo.train.profile.parts import BACKWARD, DATA, LOSSES, OPTIMIZER, UPDATE, PartTimer, Passes
from zoo.train.runs.folder import new_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lightning_fabric import Fabric
    from torch import Tensor

    from zoo.train.loop.hardware import Hardware
    from zoo.train.method import Batch, Method, Progress
    from zoo.train.recipe.schema import Recipe

log = logging.getLogger(__name__)

PROFILE_NAME = "profile.json"
WARM_STEPS = 3
TIMED_STEPS = 10


def profile(recipe: Recipe, out: Path | None, hardware: Hardware, steps: int = TIMED_STEPS) -> dict[str, Any]:
    """Time the steps of each phase of a recipe, write `profile.json` to a run folder and return its contents.

    Networks start from random weights, on which the times do not depend; no model is written.

    Args:
        recipe: recipe to profile; each phase is shortened to the measurement.
        out: run folder; None for a dated one.
        hardware: hardware with one device.
        steps: number of steps to time in each phase, once with cuts and once without.

    Raises:
        ZooError: invalid data, recipe or folder, or several devices.
    """
    if hardware.devices != 1:
        raise RecipeError(f"--profile times one process, got --devices {hardware.devices}: leave it out")
    data = TrainingData.draw(recipe)
    recipe = data.recipe
    run = new_run(out, recipe)
    path = run.path / PROFILE_NAME
    if exists(path) and not is_record(path, ("recipe", "timed_steps", "phases")):
        raise refusal(run.path, [PROFILE_NAME], "--out", MOVE)
    fabric = hardware.fabric(recipe.precision)
    profiler = Profiler(fabric, data)
    found = {
        "recipe": recipe.model_dump(mode="json"),
        "device": str(fabric.device),
        "memory": KIND[fabric.device.type],
        "timed_steps": steps,
        "phases": profiler.profile(steps),
    }
    run.path.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    return found | {"run": str(run.path)}


class ProfiledStep(TrainingStep):
    """Training step that is split into timed parts."""

    def __init__(self, fabric: Fabric, method: Method, recipe: Recipe) -> None:
        super().__init__(fabric, method, recipe)
        self.watch = PartTimer(fabric.device)
        self.method.register_forward_hook(lambda *_: self._after_forward())
        for optimizer in self.optimizers:
            optimizer.register_step_post_hook(lambda *_: self.watch.cut(OPTIMIZER))
        self.before_batch = DATA

    def __call__(self, parts: list[Batch], progress: Progress) -> dict[str, Tensor]:
        losses = super().__call__(parts, progress)
        self.watch.cut(UPDATE)
        return losses

    def prepared(self, batch: Batch) -> Batch:
        self.watch.cut(self.before_batch)
        prepared = super().prepared(batch)
        self.watch.cut(DATA)
        return prepared

    def _after_forward(self) -> None:
        self.watch.cut(LOSSES)
        self.before_batch = BACKWARD  # all batches of a step except the first follow a backward pass

    def is_healthy(self, total: Tensor) -> bool:
        self.watch.cut(BACKWARD)
        self.before_batch = DATA
        return super().is_healthy(total)


class Profiler:
    """Takes steps of new networks and measures them; nothing is written.

    Args:
        fabric: launched.
        data: data and recipe of the run.

    Raises:
        ZooError: the method needs images of a kind that the data lacks.
    """

    def __init__(self, fabric: Fabric, data: TrainingData) -> None:
        fabric.seed_everything(data.recipe.seed, verbose=False)
        self.fabric, self.recipe = fabric, data.recipe
        self.method = self.recipe.new_method()
        self.phases = self.method.phases(self.recipe.steps)
        self.data = data.for_phases(self.phases)
        self.train_step = ProfiledStep(fabric, self.method, self.recipe)
        self.watch = self.train_step.watch
        self.step = 0

    def profile(self, steps: int, warm: int = WARM_STEPS) -> dict[str, Any]:
        """Return the profile of each phase, which is shortened to the measurement.

        Args:
            steps: number of steps to time, first without cuts, then with cuts.
            warm: number of warm-up steps of each phase.
        """
        self.phases = tuple(phase._replace(steps=warm + 1 + 2 * steps) for phase in self.phases)
        stream = BatchStream(self.recipe, self.data.source, self.data.partition, self.phases)
        count = sum(phase.steps for phase in self.phases) * self.recipe.accumulate
        pin_memory = self.fabric.device.type == "cuda"
        data = batches(stream, 0, count, workers=self.recipe.data.workers, pin_memory=pin_memory)
        self.method.train()
        with closing(data):
            return {phase.name: self._profile_phase(phase, data, steps) for phase in self.phases}

    def _profile_phase(self, phase: Phase, data: Iterator[Batch], steps: int) -> dict[str, Any]:
        log.info("%s: %d steps", phase.name, phase.steps)
        for _ in range(phase.steps - 1 - 2 * steps):
            self.next_step(data)
        start = self.watch.now()
        for _ in range(steps):
            self.next_step(data)
        uncut = self.watch.now() - start
        parts = self.cut_steps(data, steps)
        return {
            "step_ms": 1000 * sum(self.watch.seconds.values()) / steps,
            "uncut_step_ms": 1000 * uncut / steps,
            "streams": {key: value for key, value in phase._asdict().items() if key != "untrained"},
            "parts": parts,
        }

    def cut_steps(self, data: Iterator[Batch], steps: int) -> dict[str, dict[str, float | None]]:
        """Run a warm-up step and `steps` steps, and return the profile of their parts."""
        passes = Passes(self.method, self.watch)
        self.next_step(data)
        passes.keep_outermost()
        self.watch.clear()
        self.watch.running = True
        for _ in range(steps):
            self.watch.begin()
            self.next_step(data)
        self.watch.running = False
        passes.remove()
        return self.watch.parts(steps)

    def next_step(self, data: Iterator[Batch]) -> None:
        """Run one step with the next batches."""
        parts = list(islice(data, self.recipe.accumulate))
        self.train_step(parts, progress_at(self.step, self.phases))
        self.step += 1
