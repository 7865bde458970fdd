"""The training loop, on Lightning Fabric. It knows steps, optimisers and files; it knows no method.

One step minimises the sum of the terms that the method returns. Everything that a run needs to go on is in
its checkpoint, and a resumed run takes the very steps that an unbroken one would have taken.
"""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.models.encoder import Encoder
from zoo.models.segmentation import SegmentationNetwork
from zoo.preprocess import Preprocessing, channel_statistics
from zoo.train.data.loaders import BatchStream, batches
from zoo.train.loop import compute
from zoo.train.loop.checkpoint import load_checkpoint, restore, save_checkpoint
from zoo.train.loop.norm_statistics import NormStatistics
from zoo.train.loop.progress import DataWait, StepReporter
from zoo.train.method import Batch, Method, Phase, Progress, progress_at
from zoo.train.optim import set_learning_rates
from zoo.train.runs.log import TrainLog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from lightning.fabric import Fabric
    from torch.optim import Optimizer

    from zoo.train.recipe.schema import Recipe
    from zoo.train.runs.folder import RunFolder

LOG_EVERY = 10

Evaluation = Callable[[Method, Progress], dict[str, float]]
"""Returns the figures of a method after the step of this progress."""


class TrainingStoppedError(ZooError):
    """Training ended before its last step; the checkpoint holds what was reached."""


class DivergedError(TrainingStoppedError):
    """Training ended by itself: too many losses in a row were not finite."""


class Engine:
    """Trains one method.

    Args:
        fabric: launched; decides device, processes and precision.
        method: what is trained.
        recipe: its steps, precision and limits.
        run: where log and checkpoint are kept.
        validate: returns the figures of the current method after a step, the main one first, e.g.
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
        compute.prepare(method, recipe.compute, fabric.device, fabric.world_size)
        self.layout = recipe.compute.layout(fabric.device)
        self.statistics = channel_statistics(recipe.preprocessing, torch.zeros((), device=fabric.device))
        _tell_encoders(method, recipe.preprocessing)
        if recipe.freeze_encoder:
            _freeze_encoders(method)
        optimizers = method.optimizers()
        self.module, *wrapped = _listed(fabric.setup(method, *optimizers))
        self.wrapped: list[Any] = wrapped
        self.optimizers: list[Optimizer] = optimizers
        self.norm_statistics = NormStatistics(method)
        self.select: Evaluation | None = None
        """Returns the figure by which the step that is kept is chosen; None keeps the last one."""
        self.also_log: Callable[[int, dict[str, float]], None] | None = None
        """Logs the figures of a step beside `log.csv` and TensorBoard, in the first process."""
        self.best: dict[str, Any] | None = None
        self.step = 0
        self.bad_steps = 0
        self.bad_steps_in_a_row = 0
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def resume(self) -> None:
        """Go back to the run's checkpoint.

        Raises:
            BundleError: it has none, or one of other networks.
        """
        state = load_checkpoint(self.run.checkpoint)
        self.step = restore(state, self.method, self.optimizers)
        self.bad_steps = state["extra"]["bad_steps"]
        self.best = state["extra"].get("best")  # runs of older versions have none
        self.fabric._precision.load_state_dict(state["extra"]["scaler"])

    def save(self, path: Path | None = None) -> None:
        """Write the checkpoint, or another one to `path`."""
        scaler = self.fabric._precision.state_dict()
        if self.fabric.is_global_zero:
            extra = {"bad_steps": self.bad_steps, "scaler": scaler, "best": self.best}
            save_checkpoint(path or self.run.checkpoint, self.step, self.method, self.optimizers, extra)
        self.fabric.barrier()

    def fit(self, stream: BatchStream) -> None:
        """Train from the current step to the last.

        Raises:
            TrainingStoppedError: interrupted.
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
        with closing(data), logging as log, _stop_requests() as requests, reporting as reporter:
            while self.step < recipe.steps:
                progress = progress_at(self.step, self.phases)
                with wait.waiting():
                    parts = list(islice(data, recipe.accumulate))
                losses = self._timed_step(parts, progress)
                images = sum(part.images for part in parts) * self.fabric.world_size
                reporter.advance(progress.phase, losses, images)
                self._record(log, progress, losses, reporter)
                if self._any(bool(requests)):
                    self.save()
                    raise TrainingStoppedError(
                        f"stopped after step {self.step} of {recipe.steps}, which is saved: "
                        f"continue with zoo train {recipe.method.name} --resume --out {self.run.path}"
                    )

    def _any(self, stop: bool) -> bool:
        """Return whether any process was asked to stop: all must stop at one step."""
        if self.fabric.world_size == 1:
            return stop
        asked = torch.tensor(float(stop), device=self.fabric.device)
        return bool(self.fabric.all_reduce(asked, reduce_op="sum") != 0)

    def _timed_step(self, parts: list[Batch], progress: Progress) -> dict[str, Tensor]:
        start = time.perf_counter()
        losses = self.train_step(parts, progress)
        self.step += 1
        self.seconds[progress.phase].append(time.perf_counter() - start)
        return losses

    def train_step(self, parts: list[Batch], progress: Progress) -> dict[str, Tensor]:
        """Take one optimiser step on the sum of the method's losses, averaged over the parts of the batch.

        A step whose loss or gradient is not finite changes no weight and no running statistics. The losses
        are returned, detached.
        """
        if progress.phase_step == 0:
            self.method.start_phase(progress)
        set_learning_rates(self.optimizers, progress.step, progress.steps)
        self.norm_statistics.keep()
        losses = self._backward(parts, progress)
        if self._is_healthy(torch.stack(list(losses.values())).sum()):
            self._update()
        else:
            self.norm_statistics.restore()
        self.method.after_step(progress)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        return losses

    def _update(self) -> None:
        """Let every optimiser take its step; a scaler of gradients then changes its scale once for all."""
        scaler = getattr(self.fabric._precision, "scaler", None)
        if scaler is None:
            for optimizer in self.wrapped:
                optimizer.step()
            return
        for optimizer in self.optimizers:
            if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
                scaler.step(optimizer)
        scaler.update()

    def _backward(self, parts: list[Batch], progress: Progress) -> dict[str, Tensor]:
        """Add up the gradients of the mean losses of these batches and return the losses, detached.

        Processes exchange gradients once, with the last batch.
        """
        mean: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            with self.fabric.no_backward_sync(self.module, enabled=number < len(parts)):
                losses: dict[str, Tensor] = self.module(self._prepared(part), progress)
                shares = {name: loss / len(parts) for name, loss in losses.items()}
                self.fabric.backward(torch.stack(list(shares.values())).sum())
            mean = {name: share.detach() + mean.get(name, 0) for name, share in shares.items()}
        return mean

    def _prepared(self, batch: Batch) -> Batch:
        """Return the batch on the device, images normalised."""
        moved: Batch = self.fabric.to_device(batch)
        mean, std = self.statistics
        images = {
            name: ((image.float() - mean) / std).contiguous(memory_format=self.layout)
            for name, image in moved._asdict().items()
            if name.startswith("image") and image is not None
        }
        return moved._replace(**images)

    def _is_healthy(self, total: Tensor) -> bool:
        """Return whether this step may be taken, on all processes alike; count it otherwise.

        Raises:
            DivergedError: too many in a row may not.
        """
        finite = torch.isfinite(total)
        if self.recipe.precision != "fp16":  # the gradient scaler of fp16 skips overflows by itself
            gradients = [p.grad for p in self.method.parameters() if p.grad is not None]
            finite = finite & torch.isfinite(nn.utils.get_total_norm(gradients))
        if bool(self.fabric.all_reduce(finite.float(), reduce_op="mean") == 1):
            self.bad_steps_in_a_row = 0
            return True
        self.bad_steps += 1
        self.bad_steps_in_a_row += 1
        if self.bad_steps_in_a_row >= self.recipe.max_bad_steps:
            raise DivergedError(
                f"the loss was not finite in {self.bad_steps_in_a_row} steps in a row, up to step "
                f"{self.step}: lower the learning rate (--set method.optimizer.lr=...), or use "
                f"--precision fp32; the last checkpoint is kept"
            )
        return False

    def _record(
        self, log: TrainLog | None, progress: Progress, losses: dict[str, Tensor], reporter: StepReporter
    ) -> None:
        """Log, validate and save where it is due after a step."""
        recipe, step = self.recipe, self.step
        figures: dict[str, float] = {}
        if step % LOG_EVERY == 0 or step == recipe.steps:
            figures |= {f"loss/{name}": float(loss) for name, loss in losses.items()}
            figures |= {"images_per_s": reporter.images_per_s, "bad_steps": float(self.bad_steps)}
            figures["lr"] = self.optimizers[0].param_groups[0]["lr"]
        if step == recipe.steps or (recipe.validate_every and step % recipe.validate_every == 0):
            found = self.validate(self.method, progress) | self._selected(progress)
            self.method.train()
            name, value = next(iter(found.items()))
            reporter.remark(f"step {step} ({progress.phase}): {name} {value:.3f}")
            figures |= found
        if figures and log is not None:
            log.write(step, figures)
            if self.also_log is not None:
                self.also_log(step, figures)
        if step % recipe.checkpoint_every == 0 or step == recipe.steps:
            self.save()

    def _selected(self, progress: Progress) -> dict[str, float]:
        """Return the figure that selects; the first step that is better than all before is saved."""
        if self.select is None:
            return {}
        name, value = next(iter(self.select(self.method, progress).items()))
        value = self.fabric.broadcast(value)  # so that all processes save together
        if self.best is None or value > self.best["value"]:
            self.best = {"step": self.step, "figure": name.partition("/")[2], "value": value}
            self.save(self.run.best)
        return {f"held_out/{name.partition('/')[2]}": value}


def _tell_encoders(method: Method, preprocessing: Preprocessing) -> None:
    """Set what images are normalized by: runs of version 0.1 used ImageNet's statistics for all weights."""
    for encoder in (module for module in method.modules() if isinstance(module, Encoder)):
        encoder.mean, encoder.std = preprocessing.mean, preprocessing.std


def _freeze_encoders(method: Method) -> None:
    """Freeze the encoders of all segmentation networks; a method's other networks still learn."""
    for network in (module for module in method.modules() if isinstance(module, SegmentationNetwork)):
        network.freeze_encoder()


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list instead of dying at once; a second signal acts as usual."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        received.append(number)
        signal.signal(number, previous[number])

    for stop in (signal.SIGINT, signal.SIGTERM):
        previous[stop] = signal.signal(stop, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
