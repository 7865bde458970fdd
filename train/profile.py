"""Where the time of a training step goes, and its memory: by phase and part, without training a model.

A step is cut where one part ends and the next begins: data (waiting for the batch, moving it, normalising),
each network's forward passes, losses (all other work of the method's `forward`; their gradients are part of
backward), backward, optimizer (with the check of the gradient), update (teachers, zeroed gradients). Every
moment of a step belongs to exactly one part, so the parts add up to the step. On a GPU each cut waits for the
device; what that costs can be seen, as some steps are also taken without cuts.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from zoo.bundle import write_json
from zoo.data.partition import make_partition
from zoo.errors import RecipeError
from zoo.train.engine import Engine
from zoo.train.loaders import BatchStream, batches
from zoo.train.memory import KIND, peak_mib, reset_peak
from zoo.train.method import Phase, progress_at
from zoo.train.registry import build_method
from zoo.train.run import new_run
from zoo.train.session import check_streams, checked_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lightning.fabric import Fabric
    from torch import Tensor, nn

    from zoo.data.partition import Partition
    from zoo.data.source import Source
    from zoo.train.method import Batch, Method
    from zoo.train.recipe import Recipe
    from zoo.train.run import RunFolder
    from zoo.train.session import Hardware

log = logging.getLogger(__name__)

PROFILE_NAME = "profile.json"
WARM_STEPS = 3
TIMED_STEPS = 10
DATA, LOSSES, BACKWARD, OPTIMIZER, UPDATE = "data", "losses", "backward", "optimizer", "update"


def profile(recipe: Recipe, out: Path | None, hardware: Hardware, steps: int = TIMED_STEPS) -> dict[str, Any]:
    """Time the steps of each phase of a recipe, write `profile.json` to a run folder and return its contents.

    Networks start from random weights, on which the times do not depend; no model is left.

    Args:
        recipe: what would be trained; every phase is made as long as the measurement.
        out: run folder; None for a dated one.
        hardware: one device.
        steps: that are timed in each phase, once with cuts and once without.

    Raises:
        ZooError: bad data, recipe or folder, or several devices.
    """
    if hardware.devices != 1:
        raise RecipeError(f"--profile times one process, got --devices {hardware.devices}: leave it out")
    source = checked_source(recipe)
    partition = make_partition(source, recipe.data.partition, recipe.seed)
    recipe = recipe.for_classes(len(source.classes))
    run = new_run(out, recipe)
    fabric = hardware.fabric(recipe.precision)
    engine = profiled_engine(fabric, recipe, run, partition)
    found = {
        "recipe": recipe.model_dump(mode="json"),
        "device": str(fabric.device),
        "memory": KIND[fabric.device.type],
        "timed_steps": steps,
        "phases": engine.profile(source, partition, steps),
    }
    run.path.mkdir(parents=True, exist_ok=True)
    write_json(run.path / PROFILE_NAME, found)
    return found | {"run": str(run.path)}


def profiled_engine(fabric: Fabric, recipe: Recipe, run: RunFolder, partition: Partition) -> ProfiledEngine:
    """Return an engine of new networks that can be timed; nothing is written.

    Raises:
        RecipeError: the method needs images of a kind that the partition lacks.
    """
    fabric.seed_everything(recipe.seed, verbose=False)
    method = build_method(recipe.method, recipe.network, pretrained=False)
    check_streams(recipe, partition, method.phases(recipe.steps))
    return ProfiledEngine(fabric, method, recipe, run, lambda _: {})


class Watch:
    """Gives every stretch of time, and its peak of memory, to a part; does nothing while it is not running.

    Args:
        device: waited for at every cut if it is a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.running = False
        self.clear()

    def clear(self) -> None:
        """Forget what was measured."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.mib: dict[str, float] = {}

    def now(self) -> float:
        """Return the time at which the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def begin(self) -> None:
        """Start the first part of a step."""
        self.counts_memory = reset_peak(self.device)
        self.last = self.now()

    def cut(self, part: str) -> None:
        """End a part and begin the next; reading the memory counts for neither."""
        if not self.running:
            return
        self.seconds[part] += self.now() - self.last
        peak = peak_mib(self.device) if self.counts_memory else None
        if peak is not None:
            self.mib[part] = max(peak, self.mib.get(part, 0.0))
        self.begin()

    def parts(self, steps: int) -> dict[str, dict[str, float | None]]:
        """Return ms a step, share of the step and peak memory of each part, in the order of a step."""
        last = (LOSSES, BACKWARD, OPTIMIZER, UPDATE)
        names = [name for name in self.seconds if name not in last] + [n for n in last if n in self.seconds]
        total = sum(self.seconds.values())
        return {
            name: {
                "ms": 1000 * self.seconds[name] / steps,
                "share": self.seconds[name] / total,
                "peak_mib": self.mib.get(name),
            }
            for name in names
        }


class Passes:
    """Hooks that give the forward passes of a method's networks to the part of each network's name.

    A pass is the outermost call of a module that belongs to a network, whichever that is: a whole network,
    its encoder, one of several decoders.
    """

    def __init__(self, method: Method, watch: Watch) -> None:
        self.watch = watch
        self.depth = 0
        self.outermost: set[nn.Module] = set()
        networks = [name for name, child in method.named_children() if any(True for _ in child.parameters())]
        self.handles = {
            module: (
                module.register_forward_pre_hook(self._enter),
                module.register_forward_hook(partial(self._leave, path.partition(".")[0])),
            )
            for path, module in method.named_modules()
            if path.partition(".")[0] in networks
        }

    def keep_outermost(self) -> None:
        """Remove the hooks of modules that were only called by others: they cost time."""
        for module, handles in self.handles.items():
            if module not in self.outermost:
                for handle in handles:
                    handle.remove()

    def remove(self) -> None:
        """Remove all hooks."""
        for handles in self.handles.values():
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:  # noqa: ARG002
        if self.depth == 0:
            self.outermost.add(module)
            self.watch.cut(LOSSES)
        self.depth += 1

    def _leave(self, part: str, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        self.depth -= 1
        if self.depth == 0:
            self.watch.cut(part)


class ProfiledEngine(Engine):
    """An engine whose steps are cut into parts."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.watch = Watch(self.fabric.device)
        self.method.register_forward_hook(lambda *_: self._after_forward())
        for optimizer in self.optimizers:
            optimizer.register_step_post_hook(lambda *_: self.watch.cut(OPTIMIZER))
        self.before_batch = DATA

    def profile(
        self, source: Source, partition: Partition, steps: int, warm: int = WARM_STEPS
    ) -> dict[str, Any]:
        """Return the figures of each phase, which is made as long as the measurement.

        Args:
            source: of the images.
            partition: of them.
            steps: that are timed, first without cuts, then with them.
            warm: steps of each phase before.
        """
        self.phases = tuple(phase._replace(steps=warm + 1 + 2 * steps) for phase in self.phases)
        stream = BatchStream(self.recipe, source, partition, self.phases)
        count = sum(phase.steps for phase in self.phases) * self.recipe.accumulate
        pin_memory = self.fabric.device.type == "cuda"
        data = batches(stream, 0, count, workers=self.recipe.data.workers, pin_memory=pin_memory)
        self.method.train()
        with closing(data):
            return {phase.name: self._profile_phase(phase, data, steps) for phase in self.phases}

    def _profile_phase(self, phase: Phase, data: Iterator[Batch], steps: int) -> dict[str, Any]:
        log.info("%s: %d steps", phase.name, phase.steps)
        for _ in range(phase.steps - 1 - 2 * steps):
            self._next_step(data)
        start = self.watch.now()
        for _ in range(steps):
            self._next_step(data)
        uncut = self.watch.now() - start
        passes = Passes(self.method, self.watch)
        self._next_step(data)
        passes.keep_outermost()
        self.watch.clear()
        self.watch.running = True
        for _ in range(steps):
            self.watch.begin()
            self._next_step(data)
        self.watch.running = False
        passes.remove()
        return {
            "step_ms": 1000 * sum(self.watch.seconds.values()) / steps,
            "uncut_step_ms": 1000 * uncut / steps,
            "streams": phase._asdict(),
            "parts": self.watch.parts(steps),
        }

    def _next_step(self, data: Iterator[Batch]) -> None:
        parts = list(islice(data, self.recipe.accumulate))
        self.train_step(parts, progress_at(self.step, self.phases))
        self.step += 1
        self.watch.cut(UPDATE)

    def _prepared(self, batch: Batch) -> Batch:
        self.watch.cut(self.before_batch)
        prepared = super()._prepared(batch)
        self.watch.cut(DATA)
        return prepared

    def _after_forward(self) -> None:
        self.watch.cut(LOSSES)
        self.before_batch = BACKWARD  # of a step's batches, all but the first come after a backward pass

    def _is_healthy(self, total: Tensor) -> bool:
        self.watch.cut(BACKWARD)
        self.before_batch = DATA
        return super()._is_healthy(total)
