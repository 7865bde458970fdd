"""Every method on a plain transformer under DPT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from zoo.models.config import DptConfig, NetworkConfig
from zoo.train.method import progress_at
from zoo.train.methods.table import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.method import Batch, Method

STEPS = 20
SETTINGS: dict[str, dict[str, Any]] = {"u2pl": {"auxiliary_weight": 0.4}}


@pytest.fixture(scope="session")
def tiny_network() -> NetworkConfig:
    """Return the network of the fixture `build`."""
    decoder = DptConfig(decoder_channels=8, reassemble_channels=(4, 6, 8, 10))
    return NetworkConfig(encoder="test_vit", num_classes=3, decoder=decoder)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_in_every_phase_and_deploys(
    name: str, build: Callable[..., Method], make_batch: Callable[..., Batch]
) -> None:
    method = build(name, **SETTINGS.get(name, {}))
    phases = method.phases(STEPS)
    for progress in (progress_at(step, phases) for step in range(STEPS)):
        if progress.phase_step:
            continue
        phase = next(each for each in phases if each.name == progress.phase)
        method.zero_grad()
        method.start_phase(progress)
        batch = make_batch(phase.labeled, phase.unlabeled, strong=phase.strong)
        losses = torch.stack(list(method(batch, progress).values()))
        losses.sum().backward()
        method.after_step(progress)
        assert losses.isfinite().all()
        assert any(p.grad is not None and p.grad.any() for p in method.parameters())
    logits = method.deployable().eval()(torch.randn(1, 3, 40, 52))
    assert logits.shape in ((1, 3, 40, 52), (1, 3))
