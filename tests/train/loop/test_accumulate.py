"""Several batches a step: what is the same as one large batch, and what is not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning_fabric import Fabric

from zoo.classes import IGNORE
from zoo.train.loop.hardware import Hardware
from zoo.train.loop.step import TrainingStep
from zoo.train.method import Batch, progress_at
from zoo.train.session import start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.method import Method
    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]
    Build = Callable[..., Method]

PARTS = 3
IMAGES = 2


@pytest.fixture
def large() -> Batch:
    """Return a batch of six labeled images with as many unknown pixels each."""
    image = torch.randint(256, (PARTS * IMAGES, 3, 32, 32), dtype=torch.uint8)
    label = torch.randint(3, (PARTS * IMAGES, 32, 32))
    label[:, :4, :4] = IGNORE
    return Batch(image, label, torch.ones_like(label, dtype=torch.bool))


def split(batch: Batch) -> list[Batch]:
    parts = zip(*(value.split(IMAGES) for value in batch[:3]), strict=True)
    return [Batch(*part) for part in parts]


def gradients(
    build: Build, recipe: Recipe, parts: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    """Return the gradients of a step on these batches, in float64 with BatchNorm's running statistics."""
    torch.manual_seed(0)
    method = build("supervised").double().eval()  # no dropout either, which draws by batch
    found: dict[str, torch.Tensor] = {}

    def keep(step: TrainingStep, _: Any) -> bool:
        found.update(
            {name: p.grad.clone() for name, p in step.method.named_parameters() if p.grad is not None}
        )
        return False

    fabric = Fabric(accelerator="cpu", devices=1)
    step = TrainingStep(fabric, method, recipe)
    of_channels = step.statistics
    step.statistics = of_channels._replace(mean=of_channels.mean.double(), std=of_channels.std.double())
    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "is_healthy", keep)
        step(parts, progress_at(1, method.phases(recipe.steps)))
    return found


def test_the_gradients_of_labels_only_are_those_of_one_large_batch(
    build: Build, load_tiny: Load, large: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, several = (gradients(build, load_tiny(), parts, monkeypatch) for parts in ([large], split(large)))
    assert one.keys() == several.keys() != set()
    assert max(grad.abs().max() for grad in one.values()) > 1e-3
    for name, grad in one.items():
        torch.testing.assert_close(several[name], grad, rtol=1e-9, atol=1e-12)


def test_batches_weigh_the_same_whatever_share_of_them_is_labeled(
    build: Build, load_tiny: Load, large: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    large.label_l[:IMAGES, :24] = IGNORE
    one, several = (gradients(build, load_tiny(), parts, monkeypatch) for parts in ([large], split(large)))
    assert any(not torch.allclose(one[name], several[name], rtol=1e-3) for name in one)


def test_a_run_says_what_its_method_computes_batch_by_batch(
    load_tiny: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.train.session.write_curves", lambda *_: None)
    with caplog.at_level(logging.WARNING, logger="zoo"):
        start(load_tiny({"accumulate": 2}), tmp_path / "run", Hardware("cpu"))
    (line,) = [text for text in caplog.messages if text.startswith("accumulate")]
    assert line == (
        "accumulate 2: each batch has BatchNorm statistics of its own and weighs the same; so has eln the "
        "balance of right and wrong pixels, and the pairs of the contrast"
    )
