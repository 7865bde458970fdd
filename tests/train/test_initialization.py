"""The weights that a run starts from: those of another model, `--from`."""

from __future__ import annotations

import copy
import logging
import re
import shutil
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants
import pytest
import timm
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

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
from zoo.train.loop.engine import Engine, TrainingStoppedError
from zoo.train.loop.hardware import Hardware
from zoo.train.method import DRAW_RANGE, DRAWS, Batch, progress_at
from zoo.train.methods.table import AnyMethodConfig
from zoo.train.recipe.read import with_encoder_rate
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
def recipe_of(load_tiny: Load, tiny_settings: dict[str, dict[str, Any]]) -> Callable[..., Recipe]:
    """Return a builder of tiny recipes: method, paths to start from, changes by dotted key."""

    def build(method: str, *paths: Path, num_classes: int = 3, **changes: Any) -> Recipe:
        recipe = load_tiny({"start_from": [str(path) for path in paths], **changes})
        settings = {"name": method} | tiny_settings[method]
        if method == "eln":
            settings["filter"] = {"kind": "confidence"}
        config = TypeAdapter(AnyMethodConfig).validate_python(settings)
        network = recipe.network.model_copy(update={"num_classes": num_classes})
        return recipe.model_copy(update={"method": config, "network": network})

    return build


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
    with pytest.raises(RecipeError, match="weights of test_resnet cannot be loaded"):
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
