"""Decoders and settings that recipes get with an encoder given by the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zoo.errors import RecipeError
from zoo.models.config import DptConfig
from zoo.train.recipe.read import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Return a function that writes a recipe file and returns its path as text."""

    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


MINE = """
steps = 100
[method]
name = "eln"
pretrain_steps = 20
localize_steps = 10
"""
PLAIN = "vit_small_patch14_dinov2"


def test_a_plain_transformer_gets_dpt_and_keeps_the_width_of_the_recipes_decoder(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    decoder = load_recipe("supervised_shapes", changes={"network.encoder": PLAIN}).network.decoder
    assert decoder == DptConfig(decoder_channels=48)
    assert caplog.messages == [f"network.decoder.name dpt, which suits {PLAIN}; set it to choose another"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_decoder_that_is_named_beside_a_plain_transformer_is_kept(order: int) -> None:
    settings = [f"network.encoder={PLAIN}", "network.decoder.name=deeplabv2"][::order]
    assert load_recipe("eln", settings).network.decoder.name == "deeplabv2"
    assert load_recipe("eln", settings, steps=100).network.decoder.name == "deeplabv2"


def test_a_recipe_file_with_a_plain_transformer_gets_dpt(write: Callable[[str], str]) -> None:
    network = f'[network]\nencoder = "{PLAIN}"\n'
    assert load_recipe(write(MINE + network)).network.decoder == DptConfig()
    named = network + 'decoder = { name = "deeplabv2" }\n'
    assert load_recipe(write(MINE + named)).network.decoder.name == "deeplabv2"
    assert (
        load_recipe(write(MINE), steps=50, changes={"network.encoder": PLAIN}).network.decoder == DptConfig()
    )


@pytest.mark.parametrize("encoder", [PLAIN, "convnext_tiny", "resnet18", "resnet34", "resnet26"])
def test_multi_grid_of_a_recipe_is_left_out_where_the_encoder_cannot_take_it(
    encoder: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert load_recipe("u2pl").network.multi_grid == (1, 2, 4)
    assert load_recipe("u2pl", changes={"network.encoder": "resnet101"}).network.multi_grid == (1, 2, 4)
    assert load_recipe("u2pl", changes={"network.encoder": encoder}).network.multi_grid is None
    reason = f"{encoder} is no ResNet with 3 bottleneck blocks in its last stage"
    assert caplog.messages[-1] == f"network.multi_grid [1, 2, 4] left out: {reason}"


@pytest.mark.parametrize(
    ("encoder", "size"), [("test_vit_relpos", (96, 128)), ("test_vit", None), ("resnet18", None)]
)
def test_an_encoder_of_one_size_gets_that_of_the_crop_when_a_run_starts(
    encoder: str, size: tuple[int, int] | None
) -> None:
    changes = {"network.encoder": encoder, "data.imgsz": (96, 128)}
    recipe = load_recipe("supervised_shapes", changes=changes)
    assert recipe.network.encoder_size is None
    assert recipe.for_classes(3).network.encoder_size == size
    changes["network.encoder_size"] = (64, 64)
    assert load_recipe("supervised_shapes", changes=changes).for_classes(3).network.encoder_size == (64, 64)


def test_lora_beside_a_frozen_encoder_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"lora.*expected 0 beside freeze_encoder"):
        load_recipe("supervised_shapes", changes={"lora": 4, "freeze_encoder": True})
