"""Steps in half precision: one scale of gradients for all optimizers, nothing of a step not taken."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn

from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.engine import Engine
from zoo.train.loop.hardware import Hardware
from zoo.train.method import DRAW_RANGE, DRAWS, Batch, Method, Phase, Progress
from zoo.train.optim import OptimizerConfig
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.log import read_log
from zoo.train.session import start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch.optim import Optimizer

    from zoo.models.deployable import Deployable
    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]
    MakeEngine = Callable[..., Engine]

STEPS = 4
SCALE = 1024.0
SGD = OptimizerConfig(name="sgd", lr=1, momentum=0, weight_decay=0, schedule="constant")


class Three(Method):
    """Three weights with an optimizer each; the last one has no gradient, as in a phase that leaves it alone.

    Args:
        slopes: of the first two weights, by step.
    """

    def __init__(self, slopes: tuple[tuple[float, float], ...] = ((0.5, 0.5),) * STEPS) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(3))
        self.norm = nn.BatchNorm2d(3)
        self.slopes = slopes
        self.draws: list[Tensor] = []
        for weight in self.parts:
            nn.init.zeros_(weight.weight)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        if batch.draws_u is not None:
            self.draws.append(batch.draws)
        self.norm(batch.image_l)
        slopes = zip(self.slopes[progress.step], self.parts, strict=False)
        return {f"{number}": slope * each.weight.sum() for number, (slope, each) in enumerate(slopes)}

    def phases(self, steps: int) -> tuple[Phase, ...]:
        return (Phase("only", steps, unlabeled=0),)

    def optimizers(self) -> list[Optimizer]:
        return [SGD.build([(weight, 1.0)]) for weight in self.parts]

    def deployable(self, weights: str = "student") -> Deployable:
        raise NotImplementedError

    @property
    def values(self) -> list[float]:
        return [weight.weight.item() for weight in self.parts]


@pytest.fixture
def make_engine(load_tiny: Load, tmp_path: Path) -> MakeEngine:
    """Return a builder of the engine of a method."""

    def make(method: Method, fabric: Fabric, precision: str = "fp32") -> Engine:
        recipe = load_tiny({"precision": precision}, steps=STEPS)
        return Engine(fabric, method, recipe, RunFolder(tmp_path), lambda *_: {"val/miou": 0})

    return make


@pytest.fixture
def scaled() -> tuple[Fabric, torch.amp.GradScaler]:
    """Return a fabric of fp16, which scales gradients, and its scaler, which doubles its scale each step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=1)
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    return Fabric(accelerator="cpu", devices=1, plugins=[plugin]), scaler


def stream(**more: Any) -> Any:
    image = torch.randint(100, (2, 3, 4, 4), dtype=torch.uint8)
    label, valid = torch.zeros(2, 4, 4, dtype=torch.int64), torch.ones(2, 4, 4, dtype=torch.bool)
    return [Batch(image, label, valid, **more) for _ in range(STEPS)]


def test_the_scale_of_gradients_grows_once_a_step_however_many_optimizers(
    make_engine: MakeEngine, scaled: Any
) -> None:
    fabric, scaler = scaled
    method = Three()
    make_engine(method, fabric, "fp16").fit(stream())
    assert scaler.get_scale() == SCALE * 2**STEPS
    assert method.values == [-0.5 * STEPS, -0.5 * STEPS, 0]


def test_an_optimizer_whose_gradient_overflows_leaves_the_step_of_others_as_it_is(
    make_engine: MakeEngine, scaled: Any
) -> None:
    fabric, scaler = scaled
    method = Three(((0.5, 0.5), (1e38, 0.5), (0.5, 0.5), (0.5, 0.5)))  # 1e38 times the scale is infinite
    make_engine(method, fabric, "fp16").fit(stream())
    assert method.values == [-0.5 * (STEPS - 1), -0.5 * STEPS, 0]
    assert scaler.get_scale() == SCALE * 2 ** (STEPS - 2)


def test_a_step_that_is_not_taken_leaves_the_statistics_of_normalization(make_engine: MakeEngine) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    method, whole = Three(((0.5, 0.5), (math.nan, 0.5), (0.5, 0.5), (0.5, 0.5))), Three()
    batches = stream()
    broken = batches[1]._replace(image_l=torch.full((2, 3, 4, 4), 255, dtype=torch.uint8))
    engine = make_engine(method, fabric)
    engine.fit([batches[0], broken, *batches[2:]])
    assert engine.train_step.bad_steps == 1
    three = make_engine(whole, fabric)
    three.recipe = three.recipe.model_copy(update={"steps": STEPS - 1})
    three.fit(batches[1:])
    assert torch.equal(method.norm.running_mean, whole.norm.running_mean)
    assert torch.equal(method.norm.running_var, whole.norm.running_var)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_numbers_that_boxes_follow_are_the_same_in_every_precision(
    precision: Any, make_engine: MakeEngine
) -> None:
    draws = torch.randint(DRAW_RANGE, (2, DRAWS), dtype=torch.int32)
    draws[0, 0] = DRAW_RANGE - 1  # 1 in bfloat16
    method = Three()
    make_engine(method, Fabric(accelerator="cpu", devices=1, precision=precision)).fit(stream(draws_u=draws))
    expected = draws.double() / DRAW_RANGE
    assert all(torch.equal(each.double(), expected) for each in method.draws)
    assert method.draws[0].max() < 1


def test_half_precision_of_the_cpu_gives_finite_losses(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.train.session.write_curves", lambda *_: None)
    start(load_tiny({"precision": "bf16"}, steps=6), tmp_path / "run", Hardware("cpu"))
    (row,) = read_log(tmp_path / "run" / "log.csv")
    losses = {key: value for key, value in row.items() if key.startswith("loss/")}
    assert len(losses) == 7
    assert all(map(math.isfinite, losses.values()))
    weights = load_checkpoint(tmp_path / "run" / "last.ckpt")["method"].values()
    assert {value.dtype for value in weights if value.is_floating_point()} == {torch.float32}
