from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from zoo.bundle.bundle import CARD_NAME, load_config
from zoo.bundle.manifest import sha256
from zoo.bundle.weights import load_bundle, load_classifier
from zoo.errors import BundleError, ExportError
from zoo.export.compose import Composition, background_label, compose
from zoo.models.deployable import FusedEnsemble, Gated, Student
from zoo.predictors.load import load_predictor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Photos = Callable[..., NDArray[np.uint8]]
    WriteBundle = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that composes into a folder of the test's own."""

    def make_bundle(bundle: Path, **composition: Any) -> Path:
        return compose(bundle, Composition(**composition), tmp_path / "made", lambda _: None)

    return make_bundle


@pytest.mark.parametrize("branch", ["1", "2"])
def test_a_branch_is_a_student_with_the_logits_of_its_network(
    make: Callable[..., Path], ensemble_bundle: Path, branch: str
) -> None:
    ensemble, _ = load_bundle(ensemble_bundle)
    assert isinstance(ensemble, FusedEnsemble)
    student, config = load_bundle(make(ensemble_bundle, branch=branch))
    assert isinstance(student, Student)
    assert config.weights == f"branch_{branch}"
    images = torch.randn(2, 3, 40, 56)
    assert torch.equal(student.decoder_logits(images), ensemble.branches[int(branch) - 1](images).logits)


def test_the_fuse_weight_is_that_of_the_first_branch(
    make: Callable[..., Path], ensemble_bundle: Path
) -> None:
    ensemble, _ = load_bundle(make(ensemble_bundle, fuse_weight=0.8))
    assert isinstance(ensemble, FusedEnsemble)
    images = torch.randn(1, 3, 40, 56)
    first, second = (branch(images).logits for branch in ensemble.branches)
    torch.testing.assert_close(ensemble.decoder_logits(images), 0.8 * first + 0.2 * second)


@pytest.mark.parametrize("kind", ["student", "ensemble"])
def test_a_gated_model_predicts_as_the_model_without_the_classes_that_are_not_there(
    kind: str,
    make: Callable[..., Path],
    request: pytest.FixtureRequest,
    classifier_bundle: Path,
    photos: Photos,
) -> None:
    bundle = request.getfixturevalue(f"{kind}_bundle")
    folder = make(bundle, gate=classifier_bundle, gate_threshold=0.5)
    gated, config = load_bundle(folder)
    assert isinstance(gated, Gated)
    assert (config.method, gated.config.threshold) == (f"{load_config(bundle).method} + mlmt", 0.5)
    assert config.names[0] == "background"
    assert gated.config.background == 0
    classifier, _ = load_classifier(classifier_bundle)
    plain = load_predictor(bundle)
    removed = 0
    for image in photos(8):
        logits = plain.logits(image[None])
        assert logits is not None
        pixels = (image / 255 - config.preprocessing.mean) / config.preprocessing.std
        inputs = torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]
        with torch.no_grad():
            prob = classifier(inputs).sigmoid()[0].numpy()
        absent = [label for label in range(1, 7) if prob[label] <= 0.5]
        removed += len(absent)
        logits[:, absent] = -np.inf
        np.testing.assert_array_equal(load_predictor(folder).run(image[None]), logits.argmax(axis=1))
    assert 8 < removed < 40


def test_a_branch_can_be_gated(
    make: Callable[..., Path], ensemble_bundle: Path, classifier_bundle: Path
) -> None:
    deployable, config = load_bundle(make(ensemble_bundle, branch="2", gate=classifier_bundle))
    assert isinstance(deployable, Gated)
    assert deployable.config.segmentation.kind == "student"
    assert deployable.config.threshold == 0.2
    assert (config.method, config.weights) == ("rrn + mlmt", "branch_2")


def test_a_new_bundle_says_what_it_was_made_of(
    make: Callable[..., Path], student_bundle: Path, classifier_bundle: Path
) -> None:
    folder = make(student_bundle, gate=classifier_bundle)
    deployable, config = load_bundle(folder)
    parts = config.provenance["parts"]
    assert list(parts) == ["segmentation", "classifier"]
    for part, source in (("segmentation", student_bundle), ("classifier", classifier_bundle)):
        before = load_config(source)
        assert parts[part]["weights_sha256"] == sha256(source / "model.safetensors")
        assert (parts[part]["folder"], parts[part]["method"]) == (str(source), before.method)
        assert (parts[part]["recipe"], parts[part]["provenance"]) == (before.recipe, before.provenance)
    assert config.recipe == load_config(student_bundle).recipe
    assert config.provenance["parameters"]["kept"] == sum(p.numel() for p in deployable.parameters())
    assert config.metrics == {}


def test_a_gate_that_learned_from_other_labels_is_said_to(
    student_bundle: Path, classifier_bundle: Path, write_classifier: WriteBundle, tmp_path: Path
) -> None:
    partition = {"digest": "4567def", "counts": {"labeled": 120, "unlabeled": 360}}
    other = write_classifier(provenance=load_config(classifier_bundle).provenance | {"partition": partition})
    told: list[list[str]] = []
    for number, gate in enumerate((classifier_bundle, other)):
        told.append([])
        folder = compose(
            student_bundle, Composition(gate=gate), tmp_path / f"made{number}", told[number].append
        )
    assert not any("labeled images" in line for line in told[0])
    assert (
        "the gate was trained on 120 labeled images (partition 4567def), the model on 30 (0123abc): compare "
        "the result only with methods that use the same images"
    ) in told[1]
    card = (folder / CARD_NAME).read_text()
    segmentation, classifier = (line for line in card.splitlines() if "labeled / unlabeled" in line)
    assert segmentation.startswith("| segmentation | s4gan, ")
    assert "images 30 / 450 (partition 0123abc)" in segmentation
    assert "images 120 / 360 (partition 4567def)" in classifier


def test_the_figures_of_a_part_are_not_those_of_the_whole(
    make: Callable[..., Path], ensemble_bundle: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(ensemble_bundle, tmp_path / "measured")
    stored = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(stored | {"metrics": {"val": {"miou": 0.7}}}))
    folder = make(source, branch="1")
    assert load_config(folder).metrics == {}
    assert load_config(folder).provenance["parts"]["segmentation"]["metrics"] == {"val": {"miou": 0.7}}
    assert "Not evaluated yet" in (folder / CARD_NAME).read_text()


def test_the_card_tells_of_branches_and_gate(
    make: Callable[..., Path], ensemble_bundle: Path, classifier_bundle: Path
) -> None:
    card = (make(ensemble_bundle, fuse_weight=0.3, gate=classifier_bundle) / CARD_NAME).read_text()
    assert "# rrn + mlmt on shapes" in card
    assert (
        "average of the logits, weighted 0.3 to 0.7, of two networks, deeplabv3plus with test_resnet each"
        in card
    )
    assert "not above 0.2 is removed from the mask; background never is." in card
    assert "\n- semi-supervised\n- rrn\n- mlmt\n" in card
    weights = sha256(classifier_bundle / "model.safetensors")
    assert f"| classifier | mlmt, teacher, step 7, weights {weights[:12]}; labeled" in card


def test_a_new_bundle_lies_beside_the_first_under_a_name_that_tells(
    ensemble_bundle: Path, classifier_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(ensemble_bundle, tmp_path / "run" / "bundle")
    said: list[str] = []
    for composition, name in (
        (Composition(branch="1"), "bundle-branch_1"),
        (Composition(fuse_weight=0.25), "bundle-fused_0.25"),
        (Composition(branch="2", gate=classifier_bundle), "bundle-branch_2-gated"),
    ):
        assert compose(source, composition, None, said.append) == tmp_path / "run" / name
    assert any("never removes background" in line for line in said)
    monkeypatch.chdir(source)
    assert (
        compose(source.relative_to(source), Composition(branch="1"), None, said.append).name
        == "bundle-branch_1"
    )


def test_nothing_to_make_is_the_bundle_itself(student_bundle: Path, tmp_path: Path) -> None:
    assert compose(student_bundle, Composition(), tmp_path / "out", print) == student_bundle
    assert not (tmp_path / "out").exists()


def test_another_gate_over_the_same_weights_makes_older_artifacts_unusable(
    make: Callable[..., Path], student_bundle: Path, classifier_bundle: Path
) -> None:
    first = sha256(make(student_bundle, gate=classifier_bundle) / "model.safetensors")
    again = sha256(make(student_bundle, gate=classifier_bundle) / "model.safetensors")
    folder = make(student_bundle, gate=classifier_bundle, gate_threshold=0.5)
    assert again == first
    assert sha256(folder / "model.safetensors") != first
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["deployable"])["threshold"] == 0.5


@pytest.mark.parametrize(
    ("composition", "message"),
    [
        ({"branch": "1"}, "need an ensemble, such as rrn's, got a model of kind student"),
        ({"fuse_weight": 0.4}, "need an ensemble"),
        ({"fuse_weight": 1.0}, "--fuse-weight 1 drops a branch"),
        ({"fuse_weight": 0.4, "branch": "2"}, "--fuse-weight 0.4 needs both branches, got --branch 2"),
        ({"gate_threshold": 0.4}, "expected --gate with them"),
        ({"background": "none"}, "expected --gate with them"),
    ],
)
def test_what_cannot_be_made_is_an_error(
    make: Callable[..., Path], student_bundle: Path, composition: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        make(student_bundle, **composition)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"names": list("abcdefg")},
            r"has the classes a, b, c, .* expected the model's .*background, disc",
        ),
        (
            {"preprocessing": {"imgsz": (48, 48), "mean": (0.5, 0.5, 0.5)}},
            r"mean \(0\.5, 0\.5, 0\.5\) .* expected",
        ),
    ],
)
def test_a_classifier_of_other_classes_or_another_input_is_an_error(
    make: Callable[..., Path],
    student_bundle: Path,
    write_classifier: WriteBundle,
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ExportError, match=message):
        make(student_bundle, gate=write_classifier(**changes))


def test_a_classifier_of_another_size_fits(
    make: Callable[..., Path], student_bundle: Path, write_classifier: WriteBundle
) -> None:
    classifier = write_classifier(preprocessing={"imgsz": (48, 48), "resize": "stretch"})
    config = load_config(make(student_bundle, gate=classifier))
    assert config.preprocessing == load_config(student_bundle).preprocessing


def test_a_model_has_one_gate_only(
    make: Callable[..., Path], student_bundle: Path, classifier_bundle: Path, tmp_path: Path
) -> None:
    gated = make(student_bundle, gate=classifier_bundle)
    with pytest.raises(ExportError, match="MODEL has a gate already"):
        compose(gated, Composition(gate=classifier_bundle), tmp_path / "twice", print)


def test_a_gate_must_be_a_classifier_and_a_model_none(
    make: Callable[..., Path], student_bundle: Path, classifier_bundle: Path
) -> None:
    with pytest.raises(BundleError, match=r"is a segmentation model .*, expected a classifier"):
        make(student_bundle, gate=student_bundle)
    with pytest.raises(BundleError, match=r"is a classifier .*, expected a segmentation model"):
        make(classifier_bundle, gate=classifier_bundle)


def test_a_part_is_not_overwritten(student_bundle: Path, classifier_bundle: Path, tmp_path: Path) -> None:
    for out in (student_bundle, classifier_bundle):
        with pytest.raises(ExportError, match=r"is a part of the new bundle"):
            compose(student_bundle, Composition(gate=classifier_bundle), out, print)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="exists and is not a bundle"):
        compose(student_bundle, Composition(gate=classifier_bundle), tmp_path, print)


def test_the_class_called_background_is_kept_unless_another_is_named() -> None:
    names = ("road", "background", "car")
    assert background_label(names, None) == 1
    assert background_label(names, "car") == 2
    assert background_label(names, "none") is None
    assert background_label(("road", "car"), None) is None
    assert background_label(("none", "car"), "none") == 0
    with pytest.raises(
        ExportError, match=r"--background sky is not a class, expected none or one of road, back"
    ):
        background_label(names, "sky")
