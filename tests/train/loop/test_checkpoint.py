from __future__ import annotations

import json
import os
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from tests.bundles import reliability_by
from zoo.bundle.bundle import load_config
from zoo.bundle.reliability import Calibration
from zoo.bundle.weights import load_bundle
from zoo.errors import BundleError
from zoo.predictors.load import load_predictor
from zoo.resolve import resolve_bundle
from zoo.train.initialization import read_start
from zoo.train.loop import checkpoint
from zoo.train.loop.checkpoint import load_checkpoint, restore, save_checkpoint
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.table import build_method
from zoo.train.runs.folder import RunFolder
from zoo.train.session import start
from zoo.train.strip import strip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.methods.eln.eln import Eln
    from zoo.train.recipe.schema import Recipe

    Build = Callable[..., Eln]
    Load = Callable[..., Recipe]


@pytest.fixture(scope="module")
def run(load_tiny: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run; other tests read it too."""
    path = tmp_path_factory.mktemp("runs") / "run"
    start(load_tiny(), path, Hardware("cpu"))
    return path


def test_a_checkpoint_needs_no_pickled_code(run: Path) -> None:
    state = torch.load(run / "last.ckpt", weights_only=True)
    assert state.keys() == {"step", "method", "optimizers", "rng", "extra"}


def test_a_state_is_restored_random_state_included(build_eln: Build, tmp_path: Path) -> None:
    method = build_eln()
    save_checkpoint(tmp_path / "a.ckpt", 7, method, method.optimizers(), {"bad_steps": 1})
    expected = torch.rand(3)
    other = build_eln()
    state = load_checkpoint(tmp_path / "a.ckpt")
    assert state["extra"] == {"bad_steps": 1}
    assert restore(state, other, other.optimizers()) == 7
    assert torch.equal(torch.rand(3), expected)
    weights = other.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in method.state_dict().items())


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"last\.ckpt does not exist.*train it first"):
        load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_an_error_of_one_line(share: float, run: Path, tmp_path: Path) -> None:
    whole = (run / "last.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BundleError, match=r"cut\.ckpt is not a checkpoint") as caught:
        load_checkpoint(tmp_path / "cut.ckpt")
    assert "\n" not in str(caught.value)


FOREIGN = [b"text", b"a", b"{}", b"", b"\x00" * 100, pickle.dumps({"step": 1}, 2), pickle.dumps(print, 2)]


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_file_is_an_error_of_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "foreign.ckpt").write_bytes(content)
    with pytest.raises(BundleError, match=r"foreign\.ckpt is not a checkpoint") as caught:
        load_checkpoint(tmp_path / "foreign.ckpt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [torch.zeros(2), {"state_dict": {}}, [1]])
def test_weights_of_another_program_are_no_checkpoint(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "foreign.ckpt")
    with pytest.raises(BundleError, match=r"foreign\.ckpt is not a checkpoint"):
        load_checkpoint(tmp_path / "foreign.ckpt")


def test_a_state_of_other_networks_is_refused(run: Path, build_eln: Build) -> None:
    other = build_eln()
    with pytest.raises(BundleError, match="the checkpoint does not fit the recipe") as caught:
        restore(load_checkpoint(run / "last.ckpt"), other, other.optimizers())
    assert "\n" not in str(caught.value)


def test_a_failed_save_keeps_the_former_checkpoint(
    build_eln: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build_eln()
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, 1, method, method.optimizers(), {})

    def fail() -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "_random_state", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, 2, method, method.optimizers(), {})
    monkeypatch.undo()
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save_checkpoint(path, 3, method, method.optimizers(), {"cannot be saved": lambda: None})
    assert load_checkpoint(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


# --- the stripped bundle ---


def trained(run: Path) -> Eln:
    recipe, _ = RunFolder(run).read_recipe()
    method = build_method(recipe.method, recipe.network, pretrained=False)
    method.load_state_dict(load_checkpoint(run / "last.ckpt")["method"])
    return method.eval()  # type: ignore[return-value]


@pytest.mark.parametrize(("weights", "folder"), [("student", "bundle"), ("teacher", "bundle-teacher")])
def test_the_bundle_holds_the_trained_network_bit_for_bit(weights: str, folder: str, run: Path) -> None:
    bundle = strip(run, weights)
    assert bundle == run / folder
    image = torch.rand(1, 3, 32, 48)
    deployable, config = load_bundle(bundle)
    assert torch.equal(deployable(image), trained(run).deployable(weights).eval()(image))
    assert config.weights == weights
    network = getattr(trained(run), weights).state_dict()
    stored = load_file(bundle / "model.safetensors")
    assert all(torch.equal(value, network[key.removeprefix("network.")]) for key, value in stored.items())


@pytest.mark.parametrize("by_recipe", [False, True])
def test_a_bundle_of_an_earlier_step_is_stripped_anew(
    by_recipe: bool, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resumed = tmp_path / "run"
    shutil.copytree(run, resumed)
    strip(resumed)
    config = resumed / "bundle" / "config.json"
    stored = json.loads(config.read_text())
    stored["provenance"]["step"] = 6
    config.write_text(json.dumps(stored))
    os.utime(config, (0, 0))  # the run went on since
    with caplog.at_level("INFO", "zoo"):
        if by_recipe:
            recipe, _ = RunFolder(resumed).read_recipe()
            read_start(recipe.model_copy(update={"start_from": (str(resumed),)}))
        else:
            assert resolve_bundle(str(resumed)) == resumed / "bundle"
    assert load_config(resumed / "bundle").provenance["step"] == 10
    assert "bundle holds step 6, last.ckpt step 10: stripping it anew" in caplog.text


def test_a_bundle_of_the_same_step_stays_though_its_run_was_copied(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    config = strip(copied) / "config.json"
    os.utime(config, (0, 0))
    assert resolve_bundle(str(copied)) == copied / "bundle"
    assert config.stat().st_mtime == 0


def test_the_calibration_of_the_same_network_and_step_is_kept(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    path = strip(copied) / "config.json"
    reliability = reliability_by(Calibration(score="softmax", knots=((0.0, 0.2), (1.0, 0.9))))
    stored = json.loads(path.read_text())
    stored["reliability"] = reliability.model_dump(mode="json")
    path.write_text(json.dumps(stored))
    strip(copied, "student")
    assert load_config(path.parent).reliability == reliability
    stored["provenance"]["step"] = 6
    path.write_text(json.dumps(stored))
    strip(copied)
    assert load_config(path.parent).reliability is None


def test_student_and_teacher_differ(run: Path) -> None:
    student, teacher = (load_file(strip(run, name) / "model.safetensors") for name in ("student", "teacher"))
    assert student.keys() == teacher.keys()
    assert any(not torch.equal(value, teacher[key]) for key, value in student.items())


def test_the_bundle_tells_where_it_comes_from(run: Path) -> None:
    config = load_config(strip(run))
    recipe, classes = RunFolder(run).read_recipe()
    assert config.recipe == recipe.model_dump(mode="json")
    assert config.classes == classes
    assert config.preprocessing == recipe.preprocessing
    assert config.provenance["step"] == 10
    assert config.provenance["partition"]["counts"] == {"labeled": 4, "unlabeled": 6}
    parameters = config.provenance["parameters"]
    assert 0 < parameters["kept"] < parameters["trained"] / 3
    assert 0 <= config.metrics["val"]["miou"] <= 1


def test_only_the_default_network_carries_the_figures_measured_on_it(run: Path) -> None:
    assert load_config(strip(run)).metrics
    assert load_config(strip(run, "teacher")).metrics == {}
    assert "Not evaluated yet" in (run / "bundle-teacher" / "README.md").read_text()
    assert "mIoU" in (run / "bundle" / "README.md").read_text()


def change_recipe(run: Path, copy: Path, **changes: Any) -> Path:
    """Return a copy of a run with other settings, `data` those of its data."""
    shutil.copytree(run, copy)
    stored = json.loads((copy / "recipe.json").read_text())
    stored["recipe"]["data"] |= changes.pop("data", {})
    stored["recipe"] |= changes
    (copy / "recipe.json").write_text(json.dumps(stored))
    return copy


def test_pictures_leave_the_run_only_if_their_images_were_drawn(run: Path, tmp_path: Path) -> None:
    assert not (strip(run) / "preview.png").exists()
    drawn = change_recipe(run, tmp_path / "run", data={"spec": "shapes"})
    assert (strip(drawn) / "preview.png").read_bytes() == (run / "preview.png").read_bytes()
    assert "](preview.png)" in (drawn / "bundle" / "README.md").read_text()
    assert not (strip(drawn, "teacher") / "preview.png").exists()


def test_the_card_calls_the_data_by_their_name_and_not_by_their_path(run: Path, tiny_folder: Path) -> None:
    card = (strip(run) / "README.md").read_text()
    assert "# eln on tiny" in card
    assert str(tiny_folder) not in card


def test_the_weights_that_a_run_started_from_are_kept_with_their_license(run: Path, tmp_path: Path) -> None:
    assert load_config(strip(run)).provenance["origins"] == []
    started = change_recipe(run, tmp_path / "run", pretrained=True)
    (started / "weights.json").unlink()  # older versions recorded nothing
    [stated] = load_config(strip(started)).provenance["origins"]
    assert (stated["name"], stated["license"]) == ("test_resnet.r160_in1k", "apache-2.0")
    card = (started / "bundle" / "README.md").read_text()
    assert "| encoder weights | apache-2.0 | timm, of test_resnet.r160_in1k |" in card


def test_a_bundle_predicts(run: Path, tiny_folder: Path) -> None:
    from zoo.data.open import open_source

    source = open_source(str(tiny_folder))
    mask = load_predictor(strip(run)).predict(source.read_image("val/0"))
    assert mask.shape == source.read_mask("val/0").shape


def test_unknown_weights_are_an_error_with_the_known_ones(run: Path) -> None:
    with pytest.raises(BundleError, match="--weights localizer: eln has student, teacher: choose one"):
        strip(run, "localizer")


def test_a_folder_without_a_run_cannot_be_stripped(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no recipe\.json"):
        strip(tmp_path)
