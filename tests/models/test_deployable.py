from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from zoo.models.classifier import ImageClassifier
from zoo.models.config import ClassifierConfig, EnsembleConfig, GatedConfig, NetworkConfig, StudentConfig
from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import (
    REMOVED,
    Deployable,
    FusedEnsemble,
    Gated,
    Student,
    build_deployable,
    log_add_exp,
)
from zoo.models.segmentation import SegmentationNetwork

SIZES = [(64, 64), (65, 49), (34, 71)]


def tiny(architecture: str = "deeplabv3plus") -> SegmentationNetwork:
    config = {"architecture": architecture, "encoder": "mobilenetv3_small_050", "rates": (1, 2)}
    sizes = {"num_classes": 3, "low_level_channels": 8, "decoder_channels": 16, "embedding_channels": 4}
    return SegmentationNetwork(NetworkConfig.model_validate(config | sizes)).eval()


def tiny_classifier(**changes: Any) -> ImageClassifier:
    config = {"encoder": "test_resnet", "num_classes": 3, "imgsz": (32, 48)}
    return ImageClassifier(ClassifierConfig(**(config | changes))).eval()


@pytest.fixture
def branches() -> tuple[SegmentationNetwork, SegmentationNetwork]:
    torch.manual_seed(0)
    return sharp(tiny()), sharp(tiny("deeplabv2"))


@torch.no_grad()
def sharp(network: SegmentationNetwork) -> SegmentationNetwork:
    """Return a network whose probabilities are far from even."""
    decoder: Any = network.decoder
    for conv in [decoder.segment[-1]] if hasattr(decoder, "segment") else decoder.branches:
        conv.weight.normal_()
    return network


def fuse(branches: tuple[SegmentationNetwork, SegmentationNetwork], **config: Any) -> FusedEnsemble:
    return FusedEnsemble(branches, EnsembleConfig(branches=tuple(b.config for b in branches), **config))


class Fixed(Deployable):
    """A segmentation model with given logits."""

    config = StudentConfig(network=NetworkConfig(num_classes=3))

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def decoder_logits(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1, -1, -1)


class Says(ImageClassifier):
    """A classifier that is sure of its word, whatever it sees, and keeps what it saw."""

    def __init__(self, prob: Tensor) -> None:
        super().__init__(tiny_classifier().config)
        self.word = prob.logit()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return self.word.to(images.dtype).expand(len(images), -1)


def gate(logits: Tensor, prob: list[float], **config: Any) -> Gated:
    """Return fixed logits under a gate that has fixed probabilities."""
    model, classifier = Fixed(logits), Says(torch.tensor(prob))
    return Gated(
        model, classifier, GatedConfig(segmentation=model.config, classifier=classifier.config, **config)
    )


IMAGES = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("architecture", ["deeplabv3plus", "deeplabv2"])
def test_logits_have_the_size_of_the_image(architecture: str, size: tuple[int, int]) -> None:
    assert Student(tiny(architecture))(torch.zeros(2, 3, *size)).shape == (2, 3, *size)


def test_logits_are_the_networks_resized() -> None:
    network, images = tiny(), torch.randn(1, 3, 40, 56)
    expected = network(images).logits
    student = Student(network)
    assert torch.equal(student.decoder_logits(images), expected)
    assert torch.equal(student(images), resize_logits(expected, (40, 56)))


def test_the_embedding_head_is_dropped_from_weights_and_configuration() -> None:
    student = Student(tiny())
    assert not [key for key in student.state_dict() if "embed" in key]
    assert student.config.network.embedding_channels == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weight", [0.5, 0.3])
def test_an_ensemble_is_the_average_of_its_branches(branches: Any, weight: float, size: Any) -> None:
    branches = (branches[0], tiny())  # whose decoders have one grid
    images = torch.randn(2, 3, *size)
    first, second = (Student(branch)(images) for branch in branches)
    expected = weight * first + (1 - weight) * second
    for resolution in ("decoder", "image"):
        ensemble = fuse(branches, weight_1=weight, resolution=resolution).eval()
        torch.testing.assert_close(ensemble(images), expected, rtol=1e-4, atol=1e-5)


def test_branches_of_other_grids_are_averaged_at_the_size_of_the_image(branches: Any) -> None:
    images = torch.randn(2, 3, 64, 48)
    first, second = (Student(branch)(images) for branch in branches)
    ensemble = fuse(branches, resolution="image").eval()
    torch.testing.assert_close(ensemble(images), (first + second) / 2)


@pytest.mark.parametrize("weight", [0.5, 0.3])
def test_averaged_probabilities_equal_their_formula_at_each_resolution(weight: float) -> None:
    branches, images = (sharp(tiny()), sharp(tiny())), torch.randn(2, 3, 65, 49)

    def average(logits: list[Tensor]) -> Tensor:
        first, second = (each.double().softmax(dim=1) for each in logits)
        return (weight * first + (1 - weight) * second).log()

    decoder = [branch(images).logits for branch in branches]
    image = [resize_logits(each, (65, 49)) for each in decoder]
    close = {"rtol": 1e-4, "atol": 1e-4, "check_dtype": False}
    options = {"weight_1": weight, "average": "probabilities"}
    found = fuse(branches, **options, resolution="image").eval()(images)
    torch.testing.assert_close(found, average(image), **close)
    found = fuse(branches, **options, resolution="decoder").eval()(images)
    torch.testing.assert_close(found, resize_logits(average(decoder), (65, 49)), **close)


def test_probabilities_and_logits_are_averaged_to_different_things() -> None:
    branches, images = (sharp(tiny()), sharp(tiny())), torch.randn(2, 3, 64, 64)
    logits, probabilities = (fuse(branches, average=a).eval()(images) for a in ("logits", "probabilities"))
    assert (logits.softmax(dim=1) - probabilities.softmax(dim=1)).abs().max() > 0.01


def test_swapped_branches_with_swapped_weights_are_the_same_model() -> None:
    branches, images = (tiny(), tiny()), torch.randn(1, 3, 48, 48)
    swapped = fuse((branches[1], branches[0]), weight_1=0.75).eval()
    torch.testing.assert_close(fuse(branches, weight_1=0.25).eval()(images), swapped(images))
    assert not torch.allclose(fuse(branches, weight_1=0.75).eval()(images), swapped(images), rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_logarithm_of_a_sum_is_right_where_its_terms_underflow(dtype: torch.dtype) -> None:
    first, second = (
        torch.tensor([-900.0, 0.0, -30.0], dtype=dtype),
        torch.tensor([-901, -800, -30], dtype=dtype),
    )
    expected = torch.logaddexp(first.double(), second.double())
    torch.testing.assert_close(log_add_exp(first, second).double(), expected, rtol=1e-3, atol=0)


def test_a_class_that_the_classifier_does_not_see_is_never_predicted() -> None:
    logits = torch.randn(1, 3, 4, 4) * 5
    mask = gate(logits, [0.9, 0.01, 0.9])(IMAGES).argmax(dim=1)
    assert 1 in resize_logits(logits, (8, 8)).argmax(dim=1)
    assert 1 not in mask
    without = logits.clone()
    without[:, 1] = -torch.inf
    assert torch.equal(mask, resize_logits(without.nan_to_num(neginf=-1e9), (8, 8)).argmax(dim=1))


def test_a_removed_class_does_not_win_where_all_logits_are_negative() -> None:
    logits = torch.tensor([-9.0, -1.0, -5.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert gate(logits, [0.9, 0.1, 0.9])(IMAGES).argmax(dim=1).unique().tolist() == [2]


def test_the_background_is_there_whatever_the_classifier_says() -> None:
    logits = torch.tensor([-9.0, 4.0, 5.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert gate(logits, [0.0, 0.0, 0.0])(IMAGES).argmax(dim=1).unique().tolist() == [0]
    assert gate(logits, [0.0, 0.0, 0.0], background=1)(IMAGES).argmax(dim=1).unique().tolist() == [1]


def test_a_class_stays_only_above_the_threshold() -> None:
    gated = gate(torch.zeros(1, 3, 2, 2), [0.0] * 3, threshold=0.25, background=None)
    above = torch.nextafter(torch.tensor(0.25), torch.tensor(1.0)).item()
    assert gated.kept(torch.tensor([[0.25, above, 0.1]])).tolist() == [[False, True, False]]


def test_without_a_background_nothing_is_removed_where_everything_would_be() -> None:
    logits = torch.randn(1, 3, 4, 4)
    gated = gate(logits, [0.1, 0.2, 0.0], background=None)
    assert torch.equal(gated(IMAGES), resize_logits(logits, (8, 8)))
    prob = torch.tensor([[0.1, 0.1, 0.1], [0.9, 0.1, 0.1]])
    assert gated.kept(prob).tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_removed_logit_is_finite_and_stays_low_when_resized(dtype: torch.dtype) -> None:
    gated = gate(torch.randn(1, 3, 5, 7) * 20, [0.9, 0.1, 0.9]).to(dtype)
    logits = gated(torch.zeros(1, 3, 33, 47, dtype=dtype))
    assert logits.isfinite().all()
    assert (logits[:, 1] - REMOVED).abs().max() <= 16  # a step of half precision there is 8
    assert logits[:, [0, 2]].abs().max() < 200


def test_each_image_has_a_gate_of_its_own() -> None:
    gated = gate(torch.zeros(1, 3, 2, 2), [0.5] * 3)
    gated.classifier.word = torch.tensor([[0.9, 0.1, 0.9], [0.9, 0.9, 0.1]]).logit()  # type: ignore[assignment]
    removed = gated(IMAGES.expand(2, -1, -1, -1))[:, :, 0, 0] < REMOVED / 2
    assert removed.tolist() == [[False, True, False], [False, False, True]]


def test_the_classifier_gets_the_image_as_the_network_does_and_sees_it_at_its_own_size() -> None:
    images = torch.randn(2, 3, 40, 56)
    gated = gate(torch.zeros(1, 3, 2, 2), [0.5] * 3)
    gated(images)
    assert torch.equal(gated.classifier.seen[0], images)
    classifier = tiny_classifier()
    seen: list[Any] = []
    classifier.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    for size in SIZES:
        classifier(torch.zeros(2, 3, *size))
    assert seen == [(2, 3, 32, 48)] * 3


def test_probabilities_are_those_that_the_classifier_was_trained_for() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    gated = gate(logits, [0.5, 0.5, 0.5], threshold=0.4, background=None)
    assert (gated(IMAGES) > REMOVED / 2).all()
    gated.classifier.config = gated.classifier.config.model_copy(update={"activation": "softmax"})
    gated.classifier.word = torch.tensor([2.0, 0.0, 0.0])  # type: ignore[assignment]
    assert (gated(IMAGES)[0, :, 0, 0] > REMOVED / 2).tolist() == [True, False, False]


def every_kind() -> list[Deployable]:
    student, ensemble = Student(tiny()), fuse((tiny(), tiny()), weight_1=0.3, average="probabilities")
    gates = []
    for model in (Student(tiny()), fuse((tiny(), tiny()))):
        classifier = tiny_classifier()
        config = GatedConfig(
            segmentation=model.config, classifier=classifier.config, threshold=0.5, background=None
        )
        gates.append(Gated(model, classifier, config))
    return [student, ensemble, *gates]


@pytest.mark.parametrize("index", range(4), ids=["student", "ensemble", "gated", "gated ensemble"])
def test_a_model_built_from_its_configuration_takes_its_weights(index: int) -> None:
    torch.manual_seed(0)
    model, images = every_kind()[index].eval(), torch.randn(2, 3, 48, 40)
    config = type(model.config).model_validate_json(model.config.model_dump_json())
    rebuilt = build_deployable(config).eval()
    assert not torch.equal(rebuilt(images), model(images))
    rebuilt.load_state_dict(model.state_dict())
    assert rebuilt.config == model.config
    assert torch.equal(rebuilt(images), model(images))


def test_a_background_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValidationError, match="background 3 is none of 3 classes"):
        gate(torch.zeros(1, 3, 2, 2), [0.5] * 3, background=3)


@pytest.mark.parametrize("weight", [0.0, 1.0, 1.5])
def test_both_branches_have_a_weight(weight: float) -> None:
    with pytest.raises(ValidationError, match="weight_1"):
        fuse((tiny(), tiny()), weight_1=weight)
