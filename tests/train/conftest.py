"""Tiny instances of the methods, a random batch, and the comparison of a loss with its formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from zoo.classes import IGNORE
from zoo.models.deeplab import NetworkConfig
from zoo.train.method import Batch, Method, Progress
from zoo.train.methods.eln import OFFICIAL, Eln, ElnConfig
from zoo.train.methods.supervised import Supervised, SupervisedConfig
from zoo.train.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TINY_ENCODER = "mobilenetv3_small_050"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_network() -> NetworkConfig:
    return NetworkConfig(
        encoder=TINY_ENCODER, num_classes=3, rates=(1, 2), low_level_channels=8, decoder_channels=16
    )


@pytest.fixture
def build_eln(tiny_network: NetworkConfig) -> Callable[..., Eln]:
    """Return a builder of tiny ELNs in training mode; keyword arguments change the settings."""

    def build(**changes: Any) -> Eln:
        tiny = {
            "embedding_channels": 8,
            "windows": 2,
            "window_size": 4,
            "pretrain_steps": 2,
            "localize_steps": 3,
        }
        chosen_filter = {"encoder": TINY_ENCODER} | changes.get("filter", {})
        config = ElnConfig.model_validate(tiny | changes | {"filter": chosen_filter})
        return Eln(config, tiny_network, pretrained=False).train()

    return build


@pytest.fixture
def batch() -> Batch:
    """Return two labeled and two unlabeled images of 32 x 32; a corner of the labels is unknown."""
    label = torch.randint(3, (2, 32, 32))
    label[:, :4, :4] = IGNORE
    weak = torch.randn(2, 3, 32, 32)
    strong = weak + 0.1 * torch.randn(2, 3, 32, 32)
    return Batch(torch.randn(2, 3, 32, 32), label, weak, strong, torch.ones(2, 32, 32, dtype=torch.bool))


@pytest.fixture
def at() -> Callable[..., Progress]:
    """Return a builder of the progress in a phase of a run of 100 steps."""

    def progress(phase: str, phase_step: int = 0, *, step: int = 10) -> Progress:
        return Progress(step, 100, phase, phase_step)

    return progress


@pytest.fixture
def trust_all() -> Callable[[Eln], Eln]:
    """Return a function that makes a method's ELN call every pixel right."""

    def prepare(method: Eln) -> Eln:
        head = method.filter.localizer.decoder.segment[-1]
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, 5.0)
        return method

    return prepare


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """Return an assertion that two functions of some tensors agree in value and in every gradient."""

    def check(
        function: Callable[..., Tensor],
        reference: Callable[..., Tensor],
        *inputs: Tensor,
        tolerance: float = 1e-10,
    ) -> None:
        results = []
        for each in (function, reference):
            leaves = [value.detach().clone().requires_grad_() for value in inputs]
            value = each(*leaves)
            results.append((value.detach(), *torch.autograd.grad(value, leaves)))
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)

    return check


METHOD_CASES: dict[str, dict[str, Any] | None] = {
    "eln": {},
    "eln-official": OFFICIAL,
    "eln-s-ecn": {"filter": {"kind": "s-ecn"}},
    "eln-confidence": {"filter": {"kind": "confidence"}},
    "eln-strong-no-contrast": {"views": "strong", "contrast": "none"},
    "supervised": None,
}
"""Tiny instances that every test of the contract runs on: the ELN settings, or None for the baseline."""


@pytest.fixture(params=METHOD_CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build_method(
    case: str, build_eln: Callable[..., Eln], tiny_network: NetworkConfig
) -> Callable[[], Method]:
    """Return a builder of the method of this case."""
    settings = METHOD_CASES[case]
    if settings is None:
        return lambda: Supervised(SupervisedConfig(), tiny_network, pretrained=False).train()
    return lambda: build_eln(**settings)


@pytest.fixture
def method(build_method: Callable[[], Method]) -> Method:
    return build_method()


@pytest.fixture(scope="session")
def load_tiny(tiny_recipe: Path) -> Callable[..., Recipe]:
    """Return a function that loads the tiny recipe; it takes values by dotted key, and steps."""

    def load(changes: dict[str, Any] | None = None, steps: int | None = None) -> Recipe:
        return load_recipe(str(tiny_recipe), steps=steps, changes=changes)

    return load
