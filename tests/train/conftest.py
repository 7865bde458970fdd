"""Tiny instances of the methods, a random batch, and the comparison of a loss with its formula."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from zoo.classes import IGNORE
from zoo.models.deeplab import NetworkConfig
from zoo.train import registry
from zoo.train.method import Batch, Method, Progress
from zoo.train.recipe import Recipe, load_recipe
from zoo.train.registry import METHODS, AnyMethodConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.methods.eln import Eln

TINY_ENCODER = "mobilenetv3_small_050"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_network() -> NetworkConfig:
    return NetworkConfig(
        encoder=TINY_ENCODER, num_classes=3, rates=(1, 2), low_level_channels=8, decoder_channels=16
    )


TINY_SETTINGS: dict[str, dict[str, Any]] = {
    "eln": {
        "embedding_channels": 8,
        "windows": 2,
        "window_size": 4,
        "pretrain_steps": 2,
        "localize_steps": 3,
        "filter": {"encoder": TINY_ENCODER},
    },
    "supervised": {},
}
"""Settings of each method for images of 32 x 32 and runs of 20 steps."""


@pytest.fixture
def build(tiny_network: NetworkConfig) -> Callable[..., Any]:
    """Return a builder of tiny methods in training mode: name, then changes of settings by keyword."""

    def build(name: str, **changes: Any) -> Method:
        tiny = {"name": name} | TINY_SETTINGS[name]
        for key, value in changes.items():
            tiny[key] = tiny.get(key, {}) | value if isinstance(value, dict) else value
        config = TypeAdapter(AnyMethodConfig).validate_python(tiny)
        return registry.build_method(config, tiny_network, pretrained=False).train()

    return build


@pytest.fixture
def build_eln(build: Callable[..., Any]) -> Callable[..., Eln]:
    """Return a builder of tiny ELNs in training mode; keyword arguments change the settings."""
    return partial(build, "eln")


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Return a builder of batches, two 32 x 32 images of each stream; a corner of the labels is unknown."""

    def make(labeled: int = 1, unlabeled: int = 1, *, strong: bool = True) -> Batch:
        count_l, count_u = 2 * labeled, 2 * unlabeled
        label = torch.randint(3, (count_l, 32, 32))
        label[:, :4, :4] = IGNORE
        batch = Batch(torch.randn(count_l, 3, 32, 32), label)
        if not unlabeled:
            return batch
        weak = torch.randn(count_u, 3, 32, 32)
        batch = batch._replace(image_u=weak, valid_u=torch.ones(count_u, 32, 32, dtype=torch.bool))
        return batch._replace(image_u_s=weak + 0.1 * torch.randn_like(weak)) if strong else batch

    return make


@pytest.fixture
def batch(make_batch: Callable[..., Batch]) -> Batch:
    """Return two labeled and two unlabeled images in both views."""
    return make_batch()


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


METHOD_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "eln": ("eln", {}),
    "eln-official": ("eln", METHODS["eln"].official),
    "eln-s-ecn": ("eln", {"filter": {"kind": "s-ecn"}}),
    "eln-confidence": ("eln", {"filter": {"kind": "confidence"}}),
    "eln-strong-no-contrast": ("eln", {"views": "strong", "contrast": "none"}),
    "supervised": ("supervised", {}),
}
"""Tiny instances that every test of the contract runs on: a method, and changes of its settings."""


@pytest.fixture(params=METHOD_CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build_method(case: str, build: Callable[..., Any]) -> Callable[[], Method]:
    """Return a builder of the method of this case."""
    name, settings = METHOD_CASES[case]
    return partial(build, name, **settings)


@pytest.fixture
def method(build_method: Callable[[], Method]) -> Method:
    return build_method()


@pytest.fixture(scope="session")
def load_tiny(tiny_recipe: Path) -> Callable[..., Recipe]:
    """Return a function that loads the tiny recipe; it takes values by dotted key, and steps."""

    def load(changes: dict[str, Any] | None = None, steps: int | None = None) -> Recipe:
        return load_recipe(str(tiny_recipe), steps=steps, changes=changes)

    return load
