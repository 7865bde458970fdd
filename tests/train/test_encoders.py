"""One encoder of each kind through a whole run: training, resume, stripped bundle, exported file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from zoo.bundle.weights import load_bundle
from zoo.export.options import ExportOptions
from zoo.export.pipeline import export_bundle
from zoo.models.config import DeepLabV3PlusConfig, DptConfig
from zoo.predictors.load import load_predictor
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.eln.eln import Eln
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.method import Progress
    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

CPU = Hardware("cpu")
KINDS = {
    "test_resnet": DeepLabV3PlusConfig,
    "pvt_v2_b0": DeepLabV3PlusConfig,
    "test_vit": DptConfig,
    "test_vit_relpos": DptConfig,
}
"""A CNN, a hierarchical transformer, a plain one and one of one size, with the decoder that each gets."""
SIZES = [(32, 32), (33, 47), (70, 52)]


class PowerCutError(Exception):
    """What ends a process without a word."""


def recipe_of(encoder: str, load_tiny: Load) -> Recipe:
    """Return a recipe of ten steps of ELN on an encoder, with a narrow decoder."""
    changes: dict[str, object] = {"network.encoder": encoder, "checkpoint_every": 1}
    if KINDS[encoder] is DptConfig:
        changes["network.decoder.reassemble_channels"] = [4, 6, 8, 10]
    return load_tiny(changes)


@pytest.mark.parametrize(
    "encoder",
    [pytest.param(name, marks=[pytest.mark.slow] if name == "test_vit_relpos" else []) for name in KINDS],
)
def test_a_run_of_each_kind_of_encoder_resumes_exactly_and_leaves_a_bundle(
    encoder: str, load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(encoder, load_tiny)
    assert type(recipe.network.decoder) is KINDS[encoder]
    start(recipe, tmp_path / "unbroken", CPU)
    after_step = Eln.after_step

    def cut(method: Eln, progress: Progress) -> None:
        if progress.step == 7:
            raise PowerCutError
        after_step(method, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Eln, "after_step", cut)
        with pytest.raises(PowerCutError):
            start(recipe, tmp_path / "run", CPU)
    assert resume(tmp_path / "run", "eln", CPU)["steps"] == 10
    weights = "bundle/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (tmp_path / "unbroken" / weights).read_bytes()
    deployable, config = load_bundle(tmp_path / "run/bundle")
    assert type(config.deployable.network.decoder) is KINDS[encoder]
    with torch.no_grad():
        assert deployable.eval()(torch.randn(1, 3, 33, 47)).shape == (1, 3, 33, 47)


@pytest.mark.parametrize(
    "encoder", [pytest.param(name, marks=[] if name == "test_vit" else pytest.mark.slow) for name in KINDS]
)
def test_an_exported_file_of_each_kind_agrees_at_sizes_that_no_patch_divides(
    encoder: str, load_tiny: Load, tmp_path: Path
) -> None:
    start(recipe_of(encoder, load_tiny).with_steps(4), tmp_path / "run", CPU)
    bundle = tmp_path / "run/bundle"
    options = ExportOptions(precision=("fp32",), min_agreement=0.999)  # of two steps: many near ties
    (artifact,) = export_bundle(bundle, options).artifacts
    assert artifact.parity is not None
    eager, exported = load_predictor(bundle), load_predictor(bundle / artifact.name)
    for height, width in SIZES:
        images = torch.randint(256, (2, height, width, 3), dtype=torch.uint8).numpy()
        assert (eager.run(images) == exported.run(images)).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["swin_s3_tiny_224", "hiera_tiny_224", "test_maxvit"])
def test_an_exported_file_of_a_pyramid_of_one_size_agrees_at_other_sizes(
    encoder: str, load_tiny: Load, tmp_path: Path
) -> None:
    recipe = load_tiny({"network.encoder": encoder}).with_steps(4)
    start(recipe, tmp_path / "run", CPU)
    bundle = tmp_path / "run/bundle"
    assert load_bundle(bundle)[1].deployable.networks[0].encoder_size == (32, 32)
    (artifact,) = export_bundle(bundle, ExportOptions(precision=("fp32",), min_agreement=0.999)).artifacts
    eager, exported = load_predictor(bundle), load_predictor(bundle / artifact.name)
    for height, width in SIZES:
        images = torch.randint(256, (2, height, width, 3), dtype=torch.uint8).numpy()
        assert (eager.run(images) == exported.run(images)).mean() > 0.999


def test_a_run_with_lora_leaves_a_bundle_of_plain_weights(load_tiny: Load, tmp_path: Path) -> None:
    recipe = recipe_of("test_vit", load_tiny).model_copy(update={"lora": 2}).with_steps(4)
    start(recipe, tmp_path / "run", CPU)
    trained = load_checkpoint(tmp_path / "run/last.ckpt")["method"]
    deployable, _ = load_bundle(tmp_path / "run/bundle")
    merged = deployable.state_dict()
    (name,) = (key for key in merged if key.endswith("blocks.0.attn.qkv.weight"))
    prefix = "student." + name.partition(".")[2].removesuffix("weight") + "parametrizations.weight."
    original, down, up = (trained[prefix + part] for part in ("original", "0.down", "0.up"))
    assert up.any()
    assert torch.allclose(merged[name], original + up @ down)
    assert not any("parametrizations" in key for key in merged)


@pytest.mark.slow
def test_a_tiny_plain_transformer_learns_shapes(tmp_path: Path) -> None:
    from zoo.train.recipe.read import load_recipe

    settings = ["network.decoder.reassemble_channels=[24, 32, 48, 64]", "data.workers=0"]
    changes = {"network.encoder": "test_vit2", "validate_every": 0}
    recipe = load_recipe("supervised_shapes", settings, 150, changes)
    metrics = start(recipe, tmp_path / "run", CPU)
    assert metrics["val"]["miou"] > 0.25  # 0.11: background alone
