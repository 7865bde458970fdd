from __future__ import annotations

import json

import pytest

from zoo.errors import ZooError
from zoo.suite.models import config_of
from zoo.suite.parts import COMPARE_PARTITIONS, ENCODERS, METHODS, MODELS, SIZES, Settings, choose, plan
from zoo.suite.training import recipe_of

GPU = Settings(device="cuda", data="camvid")
QUICK = Settings(device="cpu", quick=True)


def test_a_gpu_is_measured_on_every_method_encoder_model_and_size() -> None:
    names = [part.name for part in plan(GPU)]
    assert len(set(names)) == len(names)
    assert {f"train-{method}-{encoder}" for method in METHODS for encoder in ENCODERS} < set(names)
    assert {f"infer-{model}-{height}x{width}" for model in MODELS for height, width in SIZES} < set(names)
    assert names[-len(COMPARE_PARTITIONS) :] == ["compare-1-8", "compare-1-16"]


def test_methods_are_compared_only_on_data_that_are_given() -> None:
    assert not any(part.kind == "compare" for part in plan(Settings(device="cuda")))
    assert [part.options["data"] for part in plan(GPU) if part.kind == "compare"] == ["camvid", "camvid"]


def test_a_quick_look_has_every_kind_of_part_that_a_gpu_has() -> None:
    assert {part.kind for part in plan(QUICK)} == {part.kind for part in plan(Settings(device="cuda"))}
    assert all(part.options.get("quick", True) for part in plan(QUICK))


@pytest.mark.parametrize("settings", [GPU, QUICK])
def test_the_options_of_a_part_survive_json(settings: Settings) -> None:
    for part in plan(settings):
        assert json.loads(json.dumps(part.options)) == part.options


def test_methods_are_trained_at_the_size_of_their_papers_with_encoders_of_their_kind() -> None:
    recipes = {part.name: recipe_of(part.options) for part in plan(GPU) if part.kind == "train"}
    encoders = {name: recipe.network.encoder for name, recipe in recipes.items()}
    assert encoders["train-rrn-resnet101"] == "resnet101c.gluon_in1k"
    assert encoders["train-u2pl-resnet50"] == "resnet50s.gluon_in1k"
    assert encoders["train-eln-resnet50"] == "resnet50.tv_in1k"
    assert recipes["train-eln-resnet50"].data.imgsz == (512, 512)
    assert recipes["train-u2pl-resnet50"].data.imgsz == (513, 513)
    assert {recipe.network.num_classes for recipe in recipes.values()} == {21}


def test_every_model_has_a_configuration() -> None:
    kinds = {model: config_of(model) for model in MODELS}
    assert {config.kind for config in kinds.values()} == {"student", "ensemble", "gated"}
    assert kinds["deeplabv2-r101"].networks[0].decoder.name == "deeplabv2"
    assert kinds["deeplabv2-r101"].networks[0].encoder == "resnet101"
    assert kinds["ensemble"].networks == (*kinds["deeplabv3plus-r50"].networks,) * 2


def test_parts_are_chosen_by_pattern_in_the_order_of_the_plan() -> None:
    chosen = choose(plan(GPU), ["infer-gated-*", "machine"])
    assert [part.name for part in chosen] == ["machine", "infer-gated-512x512", "infer-gated-1024x2048"]
    assert choose(plan(GPU), None) == plan(GPU)


def test_a_pattern_that_names_nothing_is_an_error() -> None:
    with pytest.raises(ZooError, match="--parts trian-\\* names no part, expected some of machine, train-"):
        choose(plan(GPU), ["machine", "trian-*"])
