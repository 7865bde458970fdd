"""The weights that a run starts from: those of another model, `--from`."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

import huggingface_hub.constants
import pytest
import torch

from zoo.bundle.bundle import BundleConfig, load_config
from zoo.bundle.weights import load_bundle, save_bundle
from zoo.classes import Classes
from zoo.errors import BundleError, RecipeError
from zoo.models.config import EnsembleConfig
from zoo.models.deployable import Deployable, FusedEnsemble, Student
from zoo.models.segmentation import SegmentationNetwork
from zoo.preprocess import Preprocessing
from zoo.train.initialization import initialized_method, read_start
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.engine import TrainingStoppedError
from zoo.train.loop.hardware import Hardware
from zoo.train.runs.folder import RunFolder
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.models.config import NetworkConfig
    from zoo.train.method import Method
    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

NAMES = ("road", "sky", "car")
METHODS = ("eln", "rrn", "s4gan", "supervised", "u2pl")


@pytest.fixture
def network_config(recipe_of: Callable[..., Recipe]) -> NetworkConfig:
    return recipe_of("supervised").network


def save(
    folder: Path,
    config: NetworkConfig,
    *,
    names: tuple[str, ...] = NAMES,
    networks: int = 1,
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
) -> Path:
    """Write a bundle of random networks, one or the average of two, and return its folder."""
    branches = [SegmentationNetwork(config) for _ in range(networks)]
    for branch in branches:
        for buffer in branch.buffers():  # so that running statistics differ from those of new networks
            buffer.add_(1)
    model: Deployable = Student(branches[0])
    if networks == 2:
        model = FusedEnsemble((branches[0], branches[1]), EnsembleConfig(branches=(config, config)))
    classes = Classes.of(names)
    described = BundleConfig(
        deployable=model.config,
        method="supervised",
        names=classes.names,
        palette=classes.palette,
        preprocessing=Preprocessing(imgsz=(32, 32), mean=mean),
        recipe={"data": {"spec": "/secret/roads"}, "pretrained": True},
        provenance={"pretrained_weights": {"net.tag": "mit"}},
    )
    save_bundle(folder, model, described, "---\nlicense: cc-by-4.0\n---\n# Tiny\n")
    return folder


def initialized(recipe: Recipe, names: tuple[str, ...] = NAMES) -> Method:
    recipe, models = read_start(recipe)
    return initialized_method(recipe, models, names)[0].eval()


def same_tensors(network: torch.nn.Module, folder: Path, branch: int = 0) -> set[str]:
    """Return the names of the tensors that a network shares with one of a bundle."""
    deployable, _ = load_bundle(folder)
    found = [part for part in deployable.modules() if isinstance(part, SegmentationNetwork)]
    given = found[branch].state_dict()
    return {
        name for name, tensor in network.state_dict().items() if name in given and given[name].equal(tensor)
    }


@pytest.mark.parametrize("method", ["eln", "u2pl"])
def test_student_and_teacher_start_from_the_model_and_what_it_lacks_is_new(
    method: str,
    recipe_of: Callable[..., Recipe],
    network_config: NetworkConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = save(tmp_path / "bundle", network_config)
    with caplog.at_level(logging.INFO, logger="zoo"):
        built = initialized(recipe_of(method, bundle))
    for network in (built.student, built.teacher):
        shared = same_tensors(network, bundle)
        new = network.state_dict().keys() - shared
        assert new
        assert all(name.startswith("decoder.embed.") for name in new)
    assert built.student.state_dict().keys() == built.teacher.state_dict().keys()
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" ")[0] for line in lines] == ["student", "teacher"]
    assert all(f"{bundle}; new: decoder.embed" in line for line in lines)


def test_both_branches_start_from_one_model_with_a_warning(
    recipe_of: Callable[..., Recipe],
    network_config: NetworkConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = save(tmp_path / "bundle", network_config)
    built = initialized(recipe_of("rrn", bundle))
    every = set(built.branch_1.state_dict())
    assert same_tensors(built.branch_1, bundle) == same_tensors(built.branch_2, bundle) == every
    assert "branch_1 and branch_2 start from the same weights" in caplog.text


def test_each_branch_starts_from_its_own_model(
    recipe_of: Callable[..., Recipe],
    network_config: NetworkConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = (save(tmp_path / name, network_config) for name in ("first", "second"))
    built = initialized(recipe_of("rrn", first, second))
    every = set(built.branch_1.state_dict())
    assert same_tensors(built.branch_1, first) == same_tensors(built.branch_2, second) == every
    assert same_tensors(built.branch_2, first) != every
    assert "same weights" not in caplog.text


def test_an_ensemble_gives_both_branches(
    recipe_of: Callable[..., Recipe], network_config: NetworkConfig, tmp_path: Path
) -> None:
    bundle = save(tmp_path / "bundle", network_config, networks=2)
    built = initialized(recipe_of("rrn", bundle))
    every = set(built.branch_1.state_dict())
    assert same_tensors(built.branch_1, bundle, 0) == same_tensors(built.branch_2, bundle, 1) == every


@pytest.mark.parametrize(
    ("method", "expected"),
    [("eln", "expected 1: eln trains student;"), ("supervised", "expected 1: supervised trains student;")],
)
def test_a_method_of_one_network_starts_from_no_two(
    method: str,
    expected: str,
    recipe_of: Callable[..., Recipe],
    network_config: NetworkConfig,
    tmp_path: Path,
) -> None:
    fused = save(tmp_path / "fused", network_config, networks=2)
    one = save(tmp_path / "one", network_config)
    for paths in ((fused,), (one, one)):
        with pytest.raises(RecipeError, match=f"got 2 networks .*{expected}"):
            initialized(recipe_of(method, *paths))


def test_three_networks_are_too_many(
    recipe_of: Callable[..., Recipe], network_config: NetworkConfig, tmp_path: Path
) -> None:
    fused = save(tmp_path / "fused", network_config, networks=2)
    one = save(tmp_path / "one", network_config)
    with pytest.raises(RecipeError, match=r"got 3 networks .*expected 1 or 2: rrn trains branch_1, branch_2"):
        initialized(recipe_of("rrn", fused, one))


def test_a_classifier_starts_from_no_segmentation_network(
    recipe_of: Callable[..., Recipe], network_config: NetworkConfig, tmp_path: Path
) -> None:
    bundle = save(tmp_path / "bundle", network_config)
    with pytest.raises(RecipeError, match="mlmt trains no segmentation network"):
        initialized(recipe_of("mlmt", bundle))


@pytest.mark.parametrize("names", [("road", "sky", "bus"), ("a", "b"), ("road", "sky", "car", "bus")])
def test_a_head_of_other_classes_is_new(
    names: tuple[str, ...],
    recipe_of: Callable[..., Recipe],
    network_config: NetworkConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = save(tmp_path / "bundle", network_config)
    with caplog.at_level(logging.INFO, logger="zoo"):
        built = initialized(recipe_of("supervised", bundle, num_classes=len(names)), names)
    new = built.student.state_dict().keys() - same_tensors(built.student, bundle)
    assert new == {"decoder.segment.2.weight", "decoder.segment.2.bias"}
    assert "; new: decoder.segment.2" in caplog.text


@pytest.mark.parametrize("decoder", ["deeplabv3plus", "deeplabv2"])
def test_classes_in_another_order_keep_their_logits(
    decoder: str, recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    changes = {"network.decoder.name": decoder} if decoder == "deeplabv2" else {}
    names = ("car", "road", "sky")
    recipe = recipe_of("supervised", **changes)
    bundle = save(tmp_path / "bundle", recipe.network)
    built = initialized(recipe.model_copy(update={"start_from": (str(bundle),)}), names)
    images = torch.randn(1, 3, 32, 32)
    before, after = load_bundle(bundle)[0](images), built.deployable().eval()(images)
    assert not torch.equal(before, after)
    for label, name in enumerate(names):
        assert torch.equal(after[:, label], before[:, NAMES.index(name)]), name


def test_another_decoder_is_new_as_a_whole(
    recipe_of: Callable[..., Recipe],
    network_config: NetworkConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = save(tmp_path / "bundle", network_config)
    with caplog.at_level(logging.INFO, logger="zoo"):
        built = initialized(recipe_of("supervised", bundle, **{"network.decoder.name": "deeplabv2"}))
    assert same_tensors(built.student, bundle) == {
        name for name in built.student.state_dict() if name.startswith("encoder.")
    }
    assert caplog.messages[0].endswith("; new: decoder")


def test_another_encoder_is_an_error_that_names_both(
    recipe_of: Callable[..., Recipe], network_config: NetworkConfig, tmp_path: Path
) -> None:
    bundle = save(tmp_path / "bundle", network_config)
    changed = recipe_of("supervised", bundle, **{"network.encoder": "resnet10t"})
    with pytest.raises(RecipeError, match=r"has the encoder test_resnet, expected resnet10t .*--encoder"):
        initialized(changed)


def test_images_are_normalized_as_the_model_expects_it(
    recipe_of: Callable[..., Recipe], network_config: NetworkConfig, tmp_path: Path
) -> None:
    bundle = save(tmp_path / "bundle", network_config, mean=(0.1, 0.2, 0.3))
    recipe, _ = read_start(recipe_of("supervised", bundle))
    assert recipe.preprocessing.mean == (0.1, 0.2, 0.3)
    given, _ = read_start(recipe_of("supervised", bundle, **{"data.mean": [0.4, 0.4, 0.4]}))
    assert given.preprocessing.mean == (0.4, 0.4, 0.4)


def test_models_that_normalize_differently_do_not_start_together(
    recipe_of: Callable[..., Recipe], network_config: NetworkConfig, tmp_path: Path
) -> None:
    first = save(tmp_path / "first", network_config)
    second = save(tmp_path / "second", network_config, mean=(0.1, 0.2, 0.3))
    with pytest.raises(RecipeError, match="got models that normalize images by mean"):
        read_start(recipe_of("rrn", first, second))


def test_a_start_needs_no_pretrained_weights_but_other_networks_do(
    recipe_of: Callable[..., Recipe],
    load_tiny: Load,
    network_config: NetworkConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    bundle = save(tmp_path / "bundle", network_config)
    recipe = recipe_of("eln", bundle, pretrained=True)
    with pytest.raises(RecipeError, match="weights of test_resnet cannot be loaded"):
        initialized(recipe.model_copy(update={"start_from": ()}))
    assert "encoder.body.conv1.0.weight" in same_tensors(initialized(recipe).student, bundle)
    localizer = load_tiny({"start_from": [str(bundle)], "pretrained": True}).model_copy(
        update={"network": recipe.network}
    )
    with pytest.raises(
        RecipeError, match=r"localizer, method\.filter\.encoder: .* of test_resnet cannot be loaded"
    ):
        initialized(localizer)


def test_nothing_else_can_be_started_from(recipe_of: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"start_from: .*gone is neither a run nor a bundle"):
        read_start(recipe_of("supervised", tmp_path / "gone"))


def test_the_origins_are_those_of_the_model_and_what_it_started_from(
    recipe_of: Callable[..., Recipe], network_config: NetworkConfig, tmp_path: Path
) -> None:
    bundle = save(tmp_path / "bundle", network_config)
    recipe, models = read_start(recipe_of("rrn", bundle, bundle))
    _, (model, earlier) = initialized_method(recipe, models, NAMES)
    assert (model.kind, model.name, model.license) == ("model", "supervised on roads", "cc-by-4.0")
    assert model.path == str(bundle)
    assert (earlier.kind, earlier.name, earlier.license) == ("timm", "net.tag", "mit")


# --- encoder weights of a file or package ---


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_started_from_a_run_needs_it_no_more(
    method: str, recipe_of: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    start(recipe_of("supervised").with_steps(1), source, Hardware("cpu"))
    recipe = recipe_of(method, source)
    start(recipe, tmp_path / "whole", Hardware("cpu"))

    with monkeypatch.context() as patch:
        patch.setattr("zoo.train.loop.engine.Engine._any", lambda engine, _: engine.step == 2)
        with pytest.raises(TrainingStoppedError):
            start(recipe, tmp_path / "broken", Hardware("cpu"))
    shutil.rmtree(source)
    resume(tmp_path / "broken", method, Hardware("cpu"))

    states = [load_checkpoint(tmp_path / name / "last.ckpt")["method"] for name in ("whole", "broken")]
    assert states[0].keys() == states[1].keys()
    assert [name for name, tensor in states[0].items() if not tensor.equal(states[1][name])] == []
    config = load_config(tmp_path / "broken" / "bundle")
    [origin] = config.provenance["origins"]
    assert origin["name"] == "supervised on tiny"
    assert config.recipe["start_from"] == [str(source / "bundle")]
    card = (tmp_path / "broken" / "bundle" / "README.md").read_text()
    assert "started from the weights of supervised on tiny" in card
    assert f"| weights | unknown | model supervised on tiny (sha256 {origin['sha256'][:12]}) |" in card
    assert RunFolder(tmp_path / "broken").read_origins()[0].sha256 == origin["sha256"]
