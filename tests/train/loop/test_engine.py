from __future__ import annotations

import csv
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning_fabric import Fabric
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from zoo.preprocess import normalize
from zoo.train.blocks.mixing import with_mixed_labels
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.engine import Engine, TrainingStoppedError
from zoo.train.method import DRAWS, Batch, Method, Phase, Progress
from zoo.train.optim import OptimizerConfig, Schedule
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.log import read_log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch.optim import Optimizer

    from zoo.models.deployable import Deployable
    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]
    MakeEngine = Callable[..., Engine]

RATE = 0.5


class Toy(Method):
    """A weight that each step lowers by 5 times the learning rate.

    Args:
        bad: loss of these steps (0-based) instead; its gradient is as bad.
    """

    def __init__(self, bad: dict[int, float] | None = None, schedule: Schedule = "constant") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.bad = bad or {}
        self.schedule = schedule
        self.seen: list[tuple[float, Progress]] = []
        self.started: list[tuple[str, int]] = []
        self.batches: list[Batch] = []

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        assert self.training
        self.batches.append(batch)
        return {"a": 2 * self.weight * self.bad.get(progress.step, 1.0), "b": 3 * self.weight}

    def phases(self, steps: int) -> tuple[Phase, ...]:
        return Phase("first", 3, unlabeled=0), Phase("second", steps - 3)

    def start_phase(self, progress: Progress) -> None:
        self.started.append((progress.phase, progress.step))

    def after_step(self, progress: Progress) -> None:
        self.seen.append((self.weight.item(), progress))

    def optimizers(self) -> list[Optimizer]:
        config = OptimizerConfig(name="sgd", lr=RATE, momentum=0, weight_decay=0, schedule=self.schedule)
        return [config.build([(self, 1.0)])]

    def deployable(self, weights: str = "student") -> Deployable:
        raise NotImplementedError

    @property
    def trace(self) -> list[float]:
        """Return the weight after each step."""
        return [weight for weight, _ in self.seen]


@pytest.fixture
def make_engine(load_tiny: Load, tmp_path: Path) -> MakeEngine:
    """Return a builder of the engine of a method in `tmp_path`; evaluation gives 0.5 and the step."""

    def make(method: Method, **changes: Any) -> Engine:
        def validate(method: Method, _: Progress) -> dict[str, float]:
            method.eval()
            return {"val/miou": 0.5}

        fabric = Fabric(accelerator="cpu", devices=1)
        return Engine(fabric, method, load_tiny(changes), RunFolder(tmp_path), validate)

    return make


@pytest.fixture
def stream() -> list[Batch]:
    """Return ten batches of gray images, the number of the batch in their first pixel."""
    images = [torch.full((2, 3, 4, 4), 128, dtype=torch.uint8) for _ in range(10)]
    for step, image in enumerate(images):
        image[:, :, 0, 0] = step
    label, valid = torch.zeros(2, 4, 4, dtype=torch.int64), torch.ones(2, 4, 4, dtype=torch.bool)
    return [Batch(image, label, valid) for image in images]


def test_a_step_descends_the_sum_of_the_terms(make_engine: MakeEngine, stream: Any) -> None:
    method = Toy()
    make_engine(method).fit(stream)
    assert method.trace == [-5 * RATE * step for step in range(1, 11)]


class Weighing(Toy):
    """A weight whose gradient is the label of a batch, or what `bad` has for that label."""

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        self.batches.append(batch)
        number = int(batch.label_l[0])
        return {
            "a": self.weight * self.bad.get(number, number),
            f"in-{progress.phase}": number + 0 * self.weight,
        }


def fit_pairs(make_engine: MakeEngine, method: Weighing, *, resume: bool = False, **changes: Any) -> Engine:
    """Train with two batches a step, their number as label."""
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    engine = make_engine(method, accumulate=2, **changes)
    if resume:
        engine.resume()
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    engine.fit([Batch(image, torch.tensor([number]), valid) for number in range(20)])  # type: ignore[arg-type]
    return engine


def test_several_batches_make_a_step_with_the_mean_of_their_losses(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    method = Weighing()
    fit_pairs(make_engine, method)
    means = [0.5 + 2 * step for step in range(10)]  # of 0 and 1, of 2 and 3, ...
    assert [a - b for a, b in pairwise([0.0, *method.trace])] == [RATE * mean for mean in means]
    assert read_log(tmp_path / "log.csv")[-1]["loss/in-second"] == means[-1]


def test_one_bad_batch_of_several_spoils_its_step_alone(make_engine: MakeEngine) -> None:
    method = Weighing(bad={4: math.nan})
    assert fit_pairs(make_engine, method).train_step.bad_steps == 1
    assert method.trace[2] == method.trace[1]
    assert math.isfinite(method.trace[-1])


def test_a_resumed_run_of_several_batches_a_step_goes_on_with_the_next_one(make_engine: MakeEngine) -> None:
    with pytest.raises(TrainingStoppedError):
        fit_pairs(make_engine, Weighing({8: math.nan}), checkpoint_every=1, max_bad_steps=1)
    method = Weighing()
    fit_pairs(make_engine, method, resume=True)
    assert [int(batch.label_l) for batch in method.batches] == list(range(8, 20))


def test_the_learning_rate_follows_its_schedule(make_engine: MakeEngine, stream: Any) -> None:
    method = Toy(schedule="poly")
    make_engine(method).fit(stream)
    moves = [a - b for a, b in zip([0.0, *method.trace], method.trace, strict=False)]
    assert moves == pytest.approx([5 * RATE * (1 - step / 10) ** 0.9 for step in range(10)], rel=1e-4)


def test_a_method_sees_the_batch_of_its_step_with_normalized_images(
    make_engine: MakeEngine, stream: Any
) -> None:
    method = Toy()
    engine = make_engine(method)
    engine.fit(stream)
    for got, raw in zip(method.batches, stream, strict=True):
        assert torch.equal(got.image_l, normalize(raw.image_l, engine.recipe.preprocessing))
        assert torch.equal(got.label_l, raw.label_l)
        assert got.image_u is None


def test_a_method_sees_the_labeled_images_that_are_to_be_mixed_mixed(
    make_engine: MakeEngine, stream: Any
) -> None:
    method = Toy()
    engine = make_engine(method)
    images = torch.randint(256, (10, 2, 3, 4, 4), dtype=torch.uint8)
    draws = torch.zeros(2, DRAWS, dtype=torch.int32)  # a box for every image
    drawn = [
        batch._replace(image_l=image, draws_l=draws) for batch, image in zip(stream, images, strict=True)
    ]
    engine.fit(drawn)
    for got, raw in zip(method.batches, drawn, strict=True):
        mixed = with_mixed_labels(raw).image_l
        assert not torch.equal(mixed, raw.image_l)
        assert torch.equal(got.image_l, normalize(mixed, engine.recipe.preprocessing))
        assert got.draws_l is None


def test_a_phase_starts_once_before_its_first_step(make_engine: MakeEngine, stream: Any) -> None:
    method = Toy()
    make_engine(method).fit(stream)
    assert method.started == [("first", 0), ("second", 3)]
    assert [progress.step for _, progress in method.seen] == list(range(10))


def test_a_resumed_phase_does_not_start_again(make_engine: MakeEngine, stream: Any) -> None:
    with pytest.raises(TrainingStoppedError):
        make_engine(Toy(bad={5: math.nan}), checkpoint_every=1, max_bad_steps=1).fit(stream)
    method = Toy()
    engine = make_engine(method)
    engine.resume()
    engine.fit(stream)
    assert method.started == []
    assert method.trace == [-5 * RATE * step for step in range(6, 11)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_step_whose_loss_is_not_finite_changes_no_weight_and_is_counted(
    value: float, make_engine: MakeEngine, stream: Any, tmp_path: Path
) -> None:
    method = Toy(bad={2: value, 5: value})
    engine = make_engine(method)
    engine.fit(stream)
    taken = [1, 2, 2, 3, 4, 4, 5, 6, 7, 8]
    assert method.trace == [-5 * RATE * count for count in taken]
    assert engine.train_step.bad_steps == 2
    assert read_log(tmp_path / "log.csv")[-1]["bad_steps"] == 2
    assert load_checkpoint(tmp_path / "last.ckpt")["extra"]["bad_steps"] == 2


def test_a_finite_loss_with_an_infinite_gradient_is_a_bad_step(make_engine: MakeEngine, stream: Any) -> None:
    class Steep(Toy):
        def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:  # noqa: ARG002
            return {"root": self.weight.sqrt()}  # infinitely steep at 0

    method = Steep()
    engine = make_engine(method, max_bad_steps=11)
    engine.fit(stream)
    assert set(method.trace) == {0.0}
    assert engine.train_step.bad_steps == 10


def test_a_bad_step_leaves_the_moments_alone(make_engine: MakeEngine, stream: Any) -> None:
    class WithAdam(Toy):
        def optimizers(self) -> list[Optimizer]:
            return [OptimizerConfig().build([(self, 1.0)])]

    engine = make_engine(WithAdam(bad={3: math.nan}))
    engine.fit(stream)
    state = engine.train_step.optimizers[0].state[engine.method.weight]
    assert state["step"].item() == 9
    assert all(value.isfinite() for value in state.values())


def test_too_many_bad_steps_in_a_row_stop_the_run_and_keep_the_checkpoint(
    make_engine: MakeEngine, stream: Any, tmp_path: Path
) -> None:
    method = Toy(bad=dict.fromkeys((1, 5, 6, 7), math.nan))
    with pytest.raises(TrainingStoppedError, match=r"not finite in 3 steps in a row.*lower the"):
        make_engine(method, max_bad_steps=3, checkpoint_every=2).fit(stream)
    state = load_checkpoint(tmp_path / "last.ckpt")
    assert (state["step"], state["extra"]["bad_steps"]) == (6, 2)
    assert state["method"]["weight"].item() == -5 * RATE * 4


def test_bad_steps_apart_do_not_stop_the_run(make_engine: MakeEngine, stream: Any) -> None:
    engine = make_engine(Toy(bad=dict.fromkeys((0, 2, 4, 6, 8), math.nan)), max_bad_steps=2)
    engine.fit(stream)
    assert (engine.step, engine.train_step.bad_steps) == (10, 5)


@pytest.mark.parametrize(
    ("every", "expected"), [(0, [10]), (3, [3, 6, 9, 10]), (4, [4, 8, 10]), (5, [5, 10]), (20, [10])]
)
def test_evaluation_comes_every_so_many_steps_and_after_the_last(
    every: int, expected: list[int], make_engine: MakeEngine, stream: Any, tmp_path: Path
) -> None:
    method = Toy()  # whose forward asserts the training mode, which evaluation has changed
    make_engine(method, validate_every=every).fit(stream)
    assert [row["step"] for row in read_log(tmp_path / "log.csv") if "val/miou" in row] == expected
    assert method.training


def test_the_log_holds_terms_rate_and_speed(
    make_engine: MakeEngine, stream: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.train.loop.engine.LOG_EVERY", 5)
    make_engine(Toy(schedule="poly")).fit(stream)
    with (tmp_path / "log.csv").open() as file:
        columns = next(csv.reader(file))
    assert columns == ["step", "loss/a", "loss/b", "images_per_s", "bad_steps", "lr", "val/miou"]
    rows = read_log(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == [5, 10]
    assert rows[1]["lr"] == pytest.approx(RATE * 0.1**0.9, rel=1e-5)


def test_what_was_logged_is_in_tensorboards_file_when_a_run_stops(
    make_engine: MakeEngine, stream: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.train.loop.engine.LOG_EVERY", 1)
    with pytest.raises(TrainingStoppedError):
        make_engine(Toy(bad={5: math.nan}), max_bad_steps=1).fit(stream)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss/a")
    assert [event.step for event in events] == [1, 2, 3, 4, 5]
