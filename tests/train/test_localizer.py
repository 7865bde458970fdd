"""Bundles of ELN that keep the error localizer."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from zoo.bundle.bundle import load_config
from zoo.bundle.weights import load_bundle
from zoo.errors import BundleError
from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import Localized, Student
from zoo.resolve import bundle_with_localizer
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.eln.eln import Eln
from zoo.train.runs.folder import RunFolder
from zoo.train.session import start
from zoo.train.strip import strip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]


@pytest.fixture(scope="module")
def run(load_tiny: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of ELN; other tests read it too."""
    path = tmp_path_factory.mktemp("runs") / "run"
    start(load_tiny({"method.filter.scores": "probabilities"}), path, Hardware("cpu"))
    return path


def test_a_bundle_has_no_localizer_unless_it_is_requested(run: Path) -> None:
    plain, _ = load_bundle(run / "bundle")
    assert isinstance(plain, Student)
    assert not [name for name in plain.state_dict() if "localizer" in name]


def test_the_kept_localizer_is_that_of_training_and_the_logits_are_the_same_bits(run: Path) -> None:
    before = (run / "bundle" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "bundle-localizer", ignore_errors=True)
    folder = strip(run, keep_localizer=True)
    assert folder == run / "bundle-localizer"
    assert (run / "bundle" / "model.safetensors").read_bytes() == before
    plain, _ = load_bundle(run / "bundle")
    kept, config = load_bundle(folder)
    assert isinstance(kept, Localized)
    assert (config.weights, config.deployable.kind) == ("student", "localized")
    assert "and its error localizer with test_resnet" in (folder / "README.md").read_text()

    recipe, _ = RunFolder(run).read_recipe()
    method = recipe.new_method()
    assert isinstance(method, Eln)
    method.load_state_dict(torch.load(run / "last.ckpt", weights_only=True)["method"])
    method.eval()
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        logits = kept(images)
        assert torch.equal(logits, plain(images))
        expected = method.filter.judge(images, logits)
        assert torch.equal(kept.judge(images, logits), resize_logits(expected, (64, 48)).squeeze(1))
    assert kept.judge(images, logits).std() > 0


def test_another_network_is_kept_with_it_beside(run: Path) -> None:
    assert strip(run, "teacher", keep_localizer=True) == run / "bundle-teacher-localizer"
    assert load_config(run / "bundle-teacher-localizer").weights == "teacher"


def test_a_localizer_that_is_not_trained_yet_is_not_kept(run: Path, tmp_path: Path) -> None:
    early = shutil.copytree(run, tmp_path / "early", ignore=shutil.ignore_patterns("bundle*"))
    state = load_checkpoint(early / "last.ckpt")
    torch.save(state | {"step": 2}, early / "last.ckpt")
    with pytest.raises(BundleError, match="the localizer is not trained in phase pretrain: continue"):
        strip(early, keep_localizer=True)
    assert not (early / "bundle-localizer").exists()


def test_only_the_localizer_of_eln_is_kept(load_tiny: Load, tmp_path: Path) -> None:
    start(load_tiny({"method.filter.kind": "s-ecn"}), tmp_path / "run", Hardware("cpu"))
    with pytest.raises(
        BundleError, match=r"this run of eln trains no error localizer, expected .*filter.kind eln"
    ):
        strip(tmp_path / "run", keep_localizer=True)


def test_the_option_needs_a_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"--keep-localizer needs the folder of a run, got .*bundle"):
        bundle_with_localizer(str(run / "bundle"))
    shutil.copytree(run, tmp_path / "new", ignore=shutil.ignore_patterns("bundle*"))
    assert bundle_with_localizer(str(tmp_path / "new")) == tmp_path / "new" / "bundle-localizer"
    assert not (tmp_path / "new" / "bundle").exists()
