"""Encoders that start from a file or a package, are frozen, or learn at their own rate."""

from __future__ import annotations

import copy
import logging
import re
from typing import TYPE_CHECKING

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from zoo.errors import RecipeError
from zoo.models.segmentation import SegmentationNetwork
from zoo.train.initialization import initialized_method, read_start
from zoo.train.loop.engine import Engine
from zoo.train.loop.hardware import Hardware
from zoo.train.method import DRAW_RANGE, DRAWS, Batch, progress_at
from zoo.train.recipe.read import with_encoder_rate
from zoo.train.runs.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

NAMES = ("road", "sky", "car")
METHODS = ("eln", "rrn", "s4gan", "supervised", "u2pl")


@pytest.fixture
def encoder_file(tmp_path: Path) -> Path:
    """Return a file of weights of the tiny recipe's encoder."""
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_every_segmentation_encoder_starts_from_the_file(
    method: str, recipe_of: Callable[..., Recipe], encoder_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, _ = read_start(recipe_of(method, encoder_weights=str(encoder_file)))
    with caplog.at_level(logging.INFO, logger="zoo"):
        built, origins = initialized_method(recipe, (), NAMES)
    wanted = load_file(encoder_file)["conv1.0.weight"]
    networks = [part for part in built.modules() if isinstance(part, SegmentationNetwork)]
    assert all(torch.equal(part.encoder.body.conv1[0].weight, wanted) for part in networks)
    [origin] = origins
    assert (origin.kind, origin.name, origin.path) == ("file", "weights.safetensors", str(encoder_file))
    assert caplog.messages == [
        f"encoder weights: file weights.safetensors (sha256 {origin.sha256[:12]}), license unknown"
    ]


def test_a_classifier_starts_from_the_file_but_for_its_head(
    recipe_of: Callable[..., Recipe], encoder_file: Path
) -> None:
    recipe, _ = read_start(recipe_of("mlmt", encoder_weights=str(encoder_file)))
    built, [origin] = initialized_method(recipe, (), NAMES)
    assert torch.equal(built.student.body.conv1[0].weight, load_file(encoder_file)["conv1.0.weight"])
    assert len(built.student.body.fc.weight) == len(NAMES)
    assert origin.kind == "file"


def test_a_file_of_another_encoder_is_refused(recipe_of: Callable[..., Recipe], encoder_file: Path) -> None:
    changes = {"encoder_weights": str(encoder_file), "network.encoder": "resnet10t"}
    with pytest.raises(RecipeError, match=r"weights\.safetensors does not fit the encoder resnet10t: "):
        initialized_method(recipe_of("supervised", **changes), (), NAMES)


def test_a_file_and_a_model_do_not_start_together(recipe_of: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="encoder_weights is 'a': expected no file beside start_from"):
        recipe_of("supervised", tmp_path, encoder_weights="a")


def test_a_path_of_a_file_is_recorded_as_absolute(
    recipe_of: Callable[..., Recipe], encoder_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(encoder_file.parent)
    recipe, _ = read_start(recipe_of("supervised", encoder_weights=encoder_file.name))
    assert recipe.encoder_weights == str(encoder_file)


def test_an_installed_package_is_preferred_and_told(
    recipe_of: Callable[..., Recipe], caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_of("supervised", pretrained=True, **{"network.encoder": "tf_efficientnet_lite0"})
    with caplog.at_level(logging.INFO, logger="zoo"):
        _, [origin] = initialized_method(recipe, (), NAMES)
    assert origin.kind == "package"
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("zoo")]
    assert line == f"encoder weights: package {origin.name}, license apache-2.0"
    assert recipe.preprocessing.mean == (0.5, 0.5, 0.5)


# --- a frozen encoder, and its rate ---


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_encoder_keeps_weights_and_statistics_and_has_no_optimizer_state(
    method: str, recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = recipe_of(method, freeze_encoder=True)
    built, _ = initialized_method(recipe, (), NAMES)
    networks = {name: part for name, part in built.named_modules() if isinstance(part, SegmentationNetwork)}
    before = {name: copy.deepcopy(part.state_dict()) for name, part in networks.items()}
    fabric = Hardware("cpu").fabric("fp32")
    engine = Engine(fabric, built, recipe, RunFolder(tmp_path), lambda *_: {})
    built.train()
    shared = {id(p) for part in networks.values() for p in part.encoder.parameters()}
    assert not shared & {
        id(p) for o in engine.train_step.optimizers for g in o.param_groups for p in g["params"]
    }

    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    label, valid = torch.randint(3, (4, 32, 32)), torch.ones(4, 32, 32, dtype=torch.bool)
    draws = torch.randint(DRAW_RANGE, (4, DRAWS), dtype=torch.int32)
    batch = Batch(images, label, valid, images, valid, images, draws)
    last = progress_at(recipe.steps - 1, engine.phases)
    engine.train_step([batch], last)

    for name, network in networks.items():
        state = network.state_dict()
        moved = {key for key, tensor in state.items() if not tensor.equal(before[name][key])}
        assert not [key for key in moved if key.startswith("encoder.")], name
        assert [key for key in moved if key.startswith("decoder.")], name


def test_a_classifier_has_no_encoder_to_freeze(recipe_of: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match="freeze_encoder: mlmt trains no segmentation network"):
        initialized_method(recipe_of("mlmt", freeze_encoder=True), (), NAMES)


def test_a_frozen_random_encoder_is_remarked(
    recipe_of: Callable[..., Recipe], encoder_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    initialized_method(
        recipe_of("supervised", freeze_encoder=True, encoder_weights=str(encoder_file)), (), NAMES
    )
    assert "frozen at random weights" not in caplog.text
    initialized_method(recipe_of("supervised", freeze_encoder=True), (), NAMES)
    assert "frozen at random weights" in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_the_rate_of_encoders_is_set_whatever_that_of_decoders_is(
    method: str, recipe_of: Callable[..., Recipe]
) -> None:
    recipe = with_encoder_rate(recipe_of(method), 3e-4)
    built, _ = initialized_method(recipe, (), NAMES)
    encoders = {
        id(p)
        for part in built.modules()
        if isinstance(part, SegmentationNetwork)
        for p in part.encoder.parameters()
        if p.requires_grad
    }
    rates = {id(p): g["lr"] for o in built.optimizers() for g in o.param_groups for p in g["params"]}
    assert {round(rates[each], 12) for each in encoders} == {3e-4}
    assert recipe.method.optimizer.lr == recipe_of(method).method.optimizer.lr


@pytest.mark.parametrize(
    ("method", "rate", "frozen", "message"),
    [
        ("mlmt", 1e-3, False, "mlmt has one rate for all"),
        ("supervised", 0.0, False, "--lr-encoder is 0, expected more than 0"),
        ("supervised", 1e-3, True, "got --lr-encoder and --freeze-encoder, expected one"),
    ],
)
def test_a_rate_of_encoders_that_cannot_be_set_is_refused(
    method: str, rate: float, frozen: bool, message: str, recipe_of: Callable[..., Recipe]
) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        with_encoder_rate(recipe_of(method, freeze_encoder=frozen), rate)
