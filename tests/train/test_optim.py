from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from pydantic import ValidationError
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from zoo.errors import RecipeError
from zoo.models.encoder import Encoder, build_encoder
from zoo.train.optim import OptimizerConfig, set_learning_rates


def build(**settings: Any) -> Optimizer:
    torch.manual_seed(0)
    return OptimizerConfig(**settings).build([(nn.Linear(2, 2), 0.1), (nn.Linear(2, 2), 1.0)])


def rates(optimizer: Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def test_the_defaults_are_those_of_the_eln_paper() -> None:
    config = OptimizerConfig()
    assert (config.name, config.lr, config.weight_decay, config.schedule) == ("adamw", 1e-4, 1e-5, "constant")


@pytest.mark.parametrize(("name", "kind"), [("adamw", AdamW), ("sgd", SGD)])
def test_each_module_has_its_own_factor_on_the_learning_rate(name: str, kind: type[Optimizer]) -> None:
    optimizer = build(name=name, lr=0.01, weight_decay=0.5)
    assert type(optimizer) is kind
    assert rates(optimizer) == pytest.approx([0.001, 0.01])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_momentum_is_that_of_sgd() -> None:
    assert build(name="sgd", momentum=0.8).param_groups[0]["momentum"] == 0.8


def test_frozen_parameters_are_in_no_group() -> None:
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    optimizer = OptimizerConfig().build([(module, 1.0)])
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(module.bias)]


def test_a_module_without_a_trainable_parameter_is_no_obstacle() -> None:
    optimizer = OptimizerConfig().build(
        [(nn.Linear(2, 2).requires_grad_(False), 1.0), (nn.Linear(2, 2), 1.0)]
    )
    optimizer.step()
    assert [len(group["params"]) for group in optimizer.param_groups] == [0, 2]


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("poly", [1, 0.75**0.9, 0.535887, 0.25**0.9]),
        ("cosine", [1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_rates_follow_the_schedule(schedule: str, factors: list[float]) -> None:
    optimizer = build(lr=0.01, schedule=schedule)
    for quarter, factor in enumerate(factors):
        set_learning_rates([optimizer], 25 * quarter, 100)
        assert rates(optimizer) == pytest.approx([0.001 * factor, 0.01 * factor], rel=1e-5)


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
def test_a_floor_is_where_the_schedule_ends(schedule: str) -> None:
    optimizer = build(lr=0.03, schedule=schedule, floor=1e-4 / 0.03)
    set_learning_rates([optimizer], 0, 100)
    assert rates(optimizer)[1] == pytest.approx(0.03)
    set_learning_rates([optimizer], 100, 100)
    assert rates(optimizer)[1] == pytest.approx(0.03 if schedule == "constant" else 1e-4)


def test_halfway_down_a_cosine_with_a_floor_is_the_mean_of_both_ends() -> None:
    optimizer = build(lr=0.03, schedule="cosine", floor=1e-4 / 0.03)
    set_learning_rates([optimizer], 50, 100)
    assert rates(optimizer)[1] == pytest.approx((0.03 + 1e-4) / 2)


def test_the_last_step_of_a_run_still_learns() -> None:
    optimizer = build(lr=0.01, schedule="poly")
    set_learning_rates([optimizer], 99, 100)
    assert rates(optimizer)[1] == pytest.approx(0.01 * 0.01**0.9)


def test_every_optimizer_is_set() -> None:
    optimizers = [build(lr=0.01, schedule="poly"), build(lr=0.02)]
    set_learning_rates(optimizers, 50, 100)
    assert [rates(each)[1] for each in optimizers] == pytest.approx([0.00535887, 0.02], rel=1e-5)


def test_a_resumed_optimizer_has_the_rates_of_an_unbroken_one() -> None:
    unbroken, resumed = build(schedule="poly"), build(schedule="poly")
    for step in range(7):
        set_learning_rates([unbroken], step, 10)
    resumed.load_state_dict(unbroken.state_dict())
    for each in (unbroken, resumed):
        set_learning_rates([each], 7, 10)
    assert rates(resumed) == rates(unbroken) == pytest.approx([1e-5 * 0.3**0.9, 1e-4 * 0.3**0.9])


def test_the_rate_of_a_step_does_not_depend_on_the_steps_before() -> None:
    walked, jumped = build(schedule="cosine"), build(schedule="cosine")
    for step in range(8):
        set_learning_rates([walked], step, 10)
    set_learning_rates([jumped], 7, 10)
    assert rates(walked) == rates(jumped)


@pytest.mark.parametrize("settings", [{"lr": 0}, {"momentum": 1}, {"schedule": "linear"}, {"beta": 1}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        OptimizerConfig(**settings)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_parameter_may_get_its_first_gradient_later_than_others(name: Any) -> None:
    early, late = (nn.Linear(2, 1, bias=False).double() for _ in range(2))
    optimizer = OptimizerConfig(name=name, lr=0.1).build([(nn.ModuleList([early, late]), 1.0)])
    alone = OptimizerConfig(name=name, lr=0.1).build([((twin := copy.deepcopy(late)), 1.0)])
    inputs = torch.ones(1, 2, dtype=torch.float64)
    for step in range(3):
        outputs = [early(inputs), *([late(inputs)] if step else [])]
        torch.cat(outputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step:
            twin(inputs).square().sum().backward()
            alone.step()
            alone.zero_grad()
    torch.testing.assert_close(late.weight, twin.weight)


def rates_by_parameter(encoder: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name.removeprefix("body."): rate_of[id(p)] for name, p in encoder.named_parameters()}


@pytest.mark.parametrize(
    "name", ["test_vit", "deit_tiny_patch16_224", "resnet18", "convnext_atto", "pvt_v2_b0"]
)
def test_layer_decay_gives_every_parameter_the_rate_that_timm_gives_it(name: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(name)
        model = timm.create_model(name)
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    names = {id(p): key for key, p in model.named_parameters()}
    expected = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    optimizer = OptimizerConfig(lr=1.0, layer_decay=0.5).build([(encoder, 1.0)])
    got = rates_by_parameter(encoder, optimizer)
    assert len(set(got.values())) > 4
    flat = {key.replace(".", "_", 1): rate for key, rate in expected.items()} | expected
    assert got == pytest.approx({key: flat[key.removeprefix("model.")] for key in got})


def test_layer_decay_of_1_leaves_the_groups_as_they_are() -> None:
    encoder = build_encoder("test_vit")
    assert len(OptimizerConfig(decay="weights").build([(encoder, 1.0)]).param_groups) == 2
    decayed = OptimizerConfig(decay="weights", layer_decay=0.9).build(
        [(encoder, 1.0), (nn.Linear(2, 2), 1.0)]
    )
    assert sum(len(group["params"]) for group in decayed.param_groups) == len(list(encoder.parameters())) + 2
    assert rates(decayed)[-1] == decayed.defaults["lr"]  # of the decoder


def test_an_encoder_that_does_not_tell_its_layers_refuses_layer_decay() -> None:
    class Mute(Encoder):
        def __init__(self, name: str, **_: Any) -> None:
            super().__init__(name)
            self.conv = nn.Conv2d(3, 4, 3)

        def encode(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [self.conv(images)]

    with pytest.raises(RecipeError, match="Mute has no layers_above: leave layer_decay at 1"):
        OptimizerConfig(layer_decay=0.9).build([(Mute("mute"), 1.0)])
