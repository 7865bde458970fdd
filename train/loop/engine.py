"""Training loop: steps, evaluations, logs and checkpoints, for any method.

A checkpoint holds the whole state of a run: a resumed run takes the same steps as an uninterrupted one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import closing, nullcontext
from functools import partial
from itertools import islice
from shlex import quote
from typing import TYPE_CHECKING, Any

import torch

from zoo.child import stop_requests
from zoo.errors import ZooError
from zoo.train.data.loaders import batches
from zoo.train.loop.checkpoint import load_checkpoint, restore, save_checkpoint
from zoo.train.loop.events import Event, callbacks
from zoo.train.loop.progress import DataWait, StepReporter
from zoo.train.loop.step import TrainingStep
from zoo.train.loop.validation import Validation
from zoo.train.method import progress_at
from zoo.train.runs.log import TrainLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightning_fabric import Fabric
    from torch import Tensor

    from zoo.train.data.loaders import BatchStream
    from zoo.train.loop.validation import Evaluation, Selection
    from zoo.train.method import Method, Phase, Progress
    from zoo.train.recipe.schema import Recipe
    from zoo.train.runs.folder import RunFolder

LOG_EVERY = 10


class TrainingStoppedError(ZooError):
    """Training ended before its last step; the checkpoint holds what was reached."""


class DivergedError(TrainingStoppedError):
    """Training ended by itself: too many losses in a row were not finite."""


class Engine:
    """Trains one method.

    Args:
        fabric: launched Fabric with device, processes and precision.
        method: method to train.
        recipe: recipe with steps, precision and limits.
        run: folder of log and checkpoints.
        validate: function that returns the metrics of the method after a step, the main one first, e.g.
            {"val/miou": 0.6}.
    """

    def __init__(
        self,
        fabric: Fabric,
        method: Method,
        recipe: Recipe,
        run: RunFolder,
        validate: Evaluation,
    ) -> None:
        self.fabric, self.method, self.recipe, self.run, self.validate = fabric, method, recipe, run, validate
        self.phases: tuple[Phase, ...] = method.phases(recipe.steps)
        self.train_step = TrainingStep(fabric, method, recipe)
        self.selection: Selection | None = None
        """Selection of the step to keep; None keeps the last one."""
        self.also_log: Callable[[int, dict[str, float]], None] | None = None
        """Further logger of the metrics of a step, besides `log.csv` and TensorBoard; first process only."""
        self.callbacks = callbacks()
        self.step = 0
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @property
    def best(self) -> dict[str, Any] | None:
        """Return `step`, `figure` and `value` of the selected step; None if the last one is kept."""
        return None if self.selection is None else self.selection.best

    def resume(self) -> None:
        """Restore the run's checkpoint.

        Raises:
            BundleError: the run has no checkpoint, or one of other networks.
        """
        state = load_checkpoint(self.run.checkpoint)
        self.step = restore(state, self.method, self.train_step.optimizers)
        self.train_step.bad_steps = state["extra"]["bad_steps"]
        if self.selection is not None:
            self.selection.best = state["extra"].get("best")  # runs of older versions have none
        self.fabric._precision.load_state_dict(state["extra"]["scaler"])

    def save(self, path: Path | None = None) -> None:
        """Write the run's checkpoint, or one to `path`."""
        scaler = self.fabric._precision.state_dict()
        if self.fabric.is_global_zero:
            extra = {"bad_steps": self.train_step.bad_steps, "scaler": scaler, "best": self.best}
            optimizers = self.train_step.optimizers
            save_checkpoint(path or self.run.checkpoint, self.step, self.method, optimizers, extra)
        self.fabric.barrier()

    def fit(self, stream: BatchStream) -> None:
        """Train from the current step to the last.

        Raises:
            TrainingStoppedError: the run was interrupted.
            DivergedError: too many losses in a row were not finite.
        """
        recipe = self.recipe
        first = self.fabric.is_global_zero
        logging = closing(TrainLog(self.run.path, self.step)) if first else nullcontext()
        pin_memory = self.fabric.device.type == "cuda"
        start, stop = (step * recipe.accumulate for step in (self.step, recipe.steps))
        data = batches(stream, start, stop, workers=recipe.data.workers, pin_memory=pin_memory)
        self.method.train()
        wait = DataWait(recipe.data)
        reporting = StepReporter(recipe.steps, self.step, shown=first)
        with closing(data), logging as log, stop_requests() as requests, reporting as reporter:
            while self.step < recipe.steps:
                progress = progress_at(self.step, self.phases)
                with wait.waiting():
                    parts = list(islice(data, recipe.accumulate))
                began = time.perf_counter()
                losses = self.train_step(parts, progress)
                self._check_health()
                self.step += 1
                self.seconds[progress.phase].append(time.perf_counter() - began)
                images = sum(part.images for part in parts) * self.fabric.world_size
                reporter.advance(progress.phase, losses, images)
                self._record(log, progress, losses, reporter)
                if self._any(bool(requests)):
                    self.save()
                    raise TrainingStoppedError(
                        f"stopped after step {self.step} of {recipe.steps}, which is saved: "
                        f"continue with zoo train {recipe.method.name} --resume --out "
                        f"{quote(str(self.run.path))}"
                    )

    def _any(self, stop: bool) -> bool:
        """Return whether any process was asked to stop: all must stop at one step."""
        if self.fabric.world_size == 1:
            return stop
        asked = torch.tensor(float(stop), device=self.fabric.device)
        return bool(self.fabric.all_reduce(asked, reduce_op="sum") != 0)

    def _check_health(self) -> None:
        """Raise if too many steps in a row were not finite.

        Raises:
            DivergedError: `max_bad_steps` or more.
        """
        bad = self.train_step.bad_steps_in_a_row
        if bad >= self.recipe.max_bad_steps:
            raise DivergedError(
                f"the loss was not finite in {bad} steps in a row, up to step {self.step}: lower the "
                f"learning rate (--set method.optimizer.lr=...), or use "
                f"--precision fp32; the last checkpoint is kept"
            )

    def _record(
        self, log: TrainLog | None, progress: Progress, losses: dict[str, Tensor], reporter: StepReporter
    ) -> None:
        """Log, evaluate and save after a step, as often as the recipe says."""
        recipe, step = self.recipe, self.step
        is_last = step == recipe.steps
        figures: dict[str, float] = {}
        if step % LOG_EVERY == 0 or is_last:
            figures |= {f"loss/{name}": float(loss) for name, loss in losses.items()}
            figures |= {"images_per_s": reporter.images_per_s, "bad_steps": float(self.train_step.bad_steps)}
            figures["lr"] = self.train_step.optimizers[0].param_groups[0]["lr"]
        if is_last or (recipe.validate_every and step % recipe.validate_every == 0):
            found = self._evaluated(progress)
            name, value = next(iter(found.items()))
            reporter.remark(f"step {step} ({progress.phase}): {name} {value:.3f}")
            figures |= found
        if figures and log is not None:
            log.write(step, figures)
            if self.also_log is not None:
                self.also_log(step, figures)
            self._notify(progress, figures)
        if is_last or step % recipe.checkpoint_every == 0:
            self.save()

    def _notify(self, progress: Progress, figures: dict[str, float]) -> None:
        """Call the callbacks of the run."""
        if not self.callbacks or not isinstance(self.validate, Validation):
            return
        predictor = partial(self.validate.predictor, self.method, progress)
        phases = {phase.name: phase.steps for phase in self.phases}
        source, steps = self.validate.source, self.recipe.steps
        event = Event(self.run.path, self.step, steps, progress.phase, phases, figures, predictor, source)
        for callback in self.callbacks:
            callback(event)
        self.method.train()  # predictors set networks to evaluation

    def _evaluated(self, progress: Progress) -> dict[str, float]:
        """Return the metrics of the method after a step, and save it if it is the selected one."""
        found = self.validate(self.method, progress)
        if self.selection is not None:
            found = found | self.selection(self.method, progress)
            if self.selection.is_best(self.step):
                self.save(self.run.best)
        self.method.train()
        return found
