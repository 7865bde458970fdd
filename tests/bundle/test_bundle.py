from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from zoo.bundle.bundle import check_writable, find_bundle, load_config, replacing, write_json
from zoo.bundle.weights import load_bundle, save_bundle
from zoo.errors import BundleError, ZooError
from zoo.models.classifier import ImageClassifier
from zoo.models.config import ClassifierConfig, EnsembleConfig, GatedConfig, NetworkConfig
from zoo.models.deployable import Deployable, FusedEnsemble, Gated, Student
from zoo.models.segmentation import SegmentationNetwork

if TYPE_CHECKING:
    from pathlib import Path

FILES = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_bundle_is_four_files(tiny_bundle: Path) -> None:
    assert sorted(contents(tiny_bundle)) == FILES


def test_layers_that_share_their_weights_are_stored_each(tiny_bundle: Path, tmp_path: Path) -> None:
    deployable, config = load_bundle(tiny_bundle)
    norms = [module for module in deployable.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    first = norms[0]
    other = next(norm for norm in norms[1:] if norm.weight.shape == first.weight.shape)
    torch.nn.init.uniform_(first.weight)
    other.weight = first.weight
    save_bundle(tmp_path / "new", deployable, config, "# Card\n")
    found = load_bundle(tmp_path / "new")[0].state_dict()
    assert all(torch.equal(value, found[name]) for name, value in deployable.state_dict().items())


def test_a_bundle_tells_transformers_of_its_preprocessing(tiny_bundle: Path) -> None:
    told = json.loads((tiny_bundle / "preprocessor_config.json").read_text())
    preprocessing = load_config(tiny_bundle).preprocessing
    assert told["size"] == {"max_height": 64, "max_width": 64}
    assert (told["image_mean"], told["image_std"]) == (list(preprocessing.mean), list(preprocessing.std))
    assert told["rescale_factor"] == 1 / 255
    for resize, size in (("stretch", {"height": 64, "width": 64}), ("none", {})):
        told = preprocessing.model_copy(update={"resize": resize}).as_transformers()
        assert (told["do_resize"], told["size"]) == (resize != "none", size)


def test_a_bundle_comes_back_bit_for_bit(tiny_bundle: Path, tmp_path: Path) -> None:
    deployable, config = load_bundle(tiny_bundle)
    save_bundle(tmp_path / "new" / "folder", deployable, config, "# Card\n")
    again, same_config = load_bundle(tmp_path / "new" / "folder")
    images = torch.randn(2, 3, 65, 49)
    assert torch.equal(again(images), deployable(images))
    assert same_config == config
    state = deployable.state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.state_dict().items())
    assert (tmp_path / "new" / "folder" / "README.md").read_text() == "# Card\n"


def model_of(kind: str) -> Deployable:
    """Return a model of 7 classes, as `student`, `ensemble`, `gated student` or `gated ensemble`."""
    torch.manual_seed(0)
    config = NetworkConfig(encoder="test_resnet", num_classes=7, decoder_channels=16, rates=(1,))
    model: Deployable = Student(SegmentationNetwork(config))
    if "ensemble" in kind:
        networks = SegmentationNetwork(config), SegmentationNetwork(config)
        model = FusedEnsemble(networks, EnsembleConfig(branches=(config, config), weight_1=0.3))
    if "gated" in kind:
        classifier = ImageClassifier(
            ClassifierConfig(encoder="test_resnet", num_classes=7, imgsz=(32, 40), activation="softmax")
        )
        gate = GatedConfig(
            segmentation=model.config, classifier=classifier.config, threshold=0.14, background=None
        )
        model = Gated(model, classifier, gate)
    return model.eval()


@pytest.mark.parametrize("kind", ["student", "ensemble", "gated student", "gated ensemble"])
def test_every_kind_of_model_comes_back_with_its_configuration(
    kind: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    model = model_of(kind)
    config = load_config(tiny_bundle).model_copy(update={"deployable": model.config})
    save_bundle(tmp_path, model, config, "")
    again, same_config = load_bundle(tmp_path)
    assert type(again) is type(model)
    assert same_config == config
    assert again.config == model.config
    images = torch.randn(2, 3, 65, 49)
    assert torch.equal(again(images), model(images))


def test_the_weights_file_is_another_for_another_weight_of_the_branches(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    model = model_of("ensemble")
    contents_of = []
    for weight in (0.3, 0.3, 0.4):
        deployable = model.config.model_copy(update={"weight_1": weight})
        config = load_config(tiny_bundle).model_copy(update={"deployable": deployable})
        save_bundle(tmp_path, model, config, "")
        contents_of.append((tmp_path / "model.safetensors").read_bytes())
    assert contents_of[0] == contents_of[1] != contents_of[2]


def test_a_network_of_other_classes_than_the_names_is_an_error(bundle_copy: Path) -> None:
    deployable = model_of("gated ensemble").config.model_dump(mode="json")
    deployable["segmentation"]["branches"][1]["num_classes"] = 6
    change_config(bundle_copy, deployable=deployable)
    with pytest.raises(BundleError, match="7 names and 7 palette colors for a network of 6 classes"):
        load_bundle(bundle_copy)


def test_a_loaded_bundle_is_in_evaluation_mode_on_the_cpu(tiny_bundle: Path) -> None:
    deployable, _ = load_bundle(tiny_bundle)
    assert not any(module.training for module in deployable.modules())
    assert {value.device.type for value in deployable.state_dict().values()} == {"cpu"}


def test_the_weights_file_holds_the_state_dict_and_nothing_else(tiny_bundle: Path) -> None:
    deployable, _ = load_bundle(tiny_bundle)
    assert load_file(tiny_bundle / "model.safetensors").keys() == deployable.state_dict().keys()


def test_classes_are_names_and_palette(tiny_bundle: Path) -> None:
    classes = load_config(tiny_bundle).classes
    assert classes.names[1] == "class-1"
    assert classes.palette[1] == (128, 0, 0)


def test_a_folder_without_a_configuration_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no config.json, expected a bundle"):
        load_bundle(tmp_path)


def test_a_configuration_that_is_not_json_is_an_error_with_its_path(bundle_copy: Path) -> None:
    (bundle_copy / "config.json").write_text("{")
    with pytest.raises(BundleError, match=r"config.json: file: Invalid JSON"):
        load_bundle(bundle_copy)


def test_a_configuration_that_is_not_text_is_an_error(bundle_copy: Path) -> None:
    (bundle_copy / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(BundleError, match=r"config\.json"):
        load_bundle(bundle_copy)


def test_a_bundle_without_a_network_is_an_error(bundle_copy: Path) -> None:
    change_config(bundle_copy, deployable={"kind": "student"})
    with pytest.raises(BundleError, match="network"):
        load_bundle(bundle_copy)


def test_a_bundle_with_a_name_too_many_is_an_error(bundle_copy: Path) -> None:
    change_config(bundle_copy, names=["only one"])
    with pytest.raises(BundleError, match="names"):
        load_bundle(bundle_copy)


def test_a_bundle_of_a_later_format_is_an_error(bundle_copy: Path) -> None:
    change_config(bundle_copy, format=3)
    with pytest.raises(BundleError, match="format"):
        load_bundle(bundle_copy)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"deployable": {"kind": "trio"}}, "deployable"),
        (
            {"deployable": {"kind": "student", "network": {"encoder": "resnet18", "num_classes": 1}}},
            "deployable.student.network.num_classes",
        ),
        ({"license": "MIT"}, "license"),
        ({"preprocessing": {}}, "preprocessing.imgsz"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_key(
    changes: dict[str, Any], where: str, bundle_copy: Path
) -> None:
    change_config(bundle_copy, **changes)
    with pytest.raises(BundleError, match=rf"config.json: {where}: "):
        load_bundle(bundle_copy)


def test_missing_weights_are_an_error(bundle_copy: Path) -> None:
    (bundle_copy / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"has no model\.safetensors"):
        load_bundle(bundle_copy)


@pytest.mark.parametrize("size", [0, 7, 5000])
def test_truncated_weights_are_an_error(size: int, bundle_copy: Path) -> None:
    path = bundle_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BundleError, match=r"model\.safetensors does not fit config\.json") as caught:
        load_bundle(bundle_copy)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_an_error(bundle_copy: Path) -> None:
    deployable = json.loads((bundle_copy / "config.json").read_text())["deployable"]
    network = deployable["network"] | {"decoder": {"decoder_channels": 16}}
    change_config(bundle_copy, deployable=deployable | {"network": network})
    with pytest.raises(BundleError, match=r"model\.safetensors does not fit config\.json") as caught:
        load_bundle(bundle_copy)
    assert "\n" not in str(caught.value)


def test_saving_over_a_bundle_replaces_it_and_leaves_no_other_file(bundle_copy: Path) -> None:
    deployable, config = load_bundle(bundle_copy)
    with torch.no_grad():
        next(deployable.parameters()).add_(1)
    save_bundle(bundle_copy, deployable, config, "# New\n")
    assert torch.equal(next(load_bundle(bundle_copy)[0].parameters()), next(deployable.parameters()))
    assert sorted(contents(bundle_copy)) == FILES


def test_a_bundle_survives_weights_that_cannot_be_written(bundle_copy: Path) -> None:
    deployable, config = load_bundle(bundle_copy)
    before = contents(bundle_copy)
    deployable.register_buffer("odd", torch.zeros(1, dtype=torch.complex128))  # safetensors has no such type
    with pytest.raises(KeyError, match="complex128"):
        save_bundle(bundle_copy, deployable, config, "# New\n")
    assert contents(bundle_copy) == before


def test_a_bundle_survives_a_card_that_cannot_be_written(bundle_copy: Path) -> None:
    deployable, config = load_bundle(bundle_copy)
    before = contents(bundle_copy)
    with torch.no_grad():
        next(deployable.parameters()).add_(1)
    with pytest.raises(UnicodeEncodeError):
        save_bundle(bundle_copy, deployable, config, "trained on /data/\udcff")  # a path that is not UTF-8
    assert contents(bundle_copy) == before


@pytest.mark.parametrize("name", ["", "new", "new/deep/folder"])
def test_a_folder_that_can_be_written_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    check_writable(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/new/folder"])
def test_a_folder_that_cannot_be_written_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ZooError) as caught:
        check_writable(tmp_path / name)
    assert str(caught.value) == (
        f"{tmp_path / name} cannot be written (Not a directory), expected a folder: choose another"
    )


def test_a_file_is_replaced_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert contents(tmp_path) == {"file.txt": b"new"}


def test_a_file_survives_a_block_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("ne\udcff")
    assert contents(tmp_path) == {"file.txt": b"old"}


def test_json_is_written_at_once_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"miou": 0.5})
    with pytest.raises(TypeError):
        write_json(path, {"miou": object()})
    assert json.loads(path.read_text()) == {"miou": 0.5}
    assert len(contents(tmp_path)) == 1


def test_the_bundle_of_an_artifact_is_its_folder_or_the_one_above(bundle_copy: Path, tmp_path: Path) -> None:
    assert find_bundle(bundle_copy) == bundle_copy
    assert find_bundle(bundle_copy / "model.onnx") == bundle_copy
    assert find_bundle(bundle_copy / "engines" / "a.engine") == bundle_copy
    assert find_bundle(tmp_path) is None
