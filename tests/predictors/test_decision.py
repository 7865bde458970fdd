from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo.bundle.bundle import BundleConfig
from zoo.bundle.weights import load_bundle
from zoo.classes import Classes
from zoo.models.classifier import ImageClassifier
from zoo.models.config import ClassifierConfig, EnsembleConfig, GatedConfig, NetworkConfig, StudentConfig
from zoo.models.deployable import REMOVED, Deployable, FusedEnsemble, Gated, Student
from zoo.predictors.base import Prediction
from zoo.predictors.decision import choose, confidence
from zoo.predictors.eager import EagerPredictor
from zoo.preprocess import Preprocessing, normalize

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class Linear(Deployable):
    """As little as can be run, of any number of classes."""

    config = StudentConfig(network=NetworkConfig())

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 1)

    def decoder_logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.conv(images)
        return logits


def pixels(*logits: list[float]) -> Tensor:
    """Return the logits of some pixels as (1, K, 1, W)."""
    return torch.tensor(logits).T[None, :, None]


def config_of(num_classes: int) -> BundleConfig:
    two, classes = Classes.of(("a", "b")), Classes.of(tuple(map(str, range(num_classes))))
    config = BundleConfig(
        deployable=Linear.config,
        method="supervised",
        names=two.names,
        palette=two.palette,
        preprocessing=Preprocessing(imgsz=(32, 32)),
    )
    return config.model_copy(update={"names": classes.names, "palette": classes.palette})


def max_prob(prob: Tensor) -> NDArray[np.float32]:
    """Return the largest probability of each pixel times 255."""
    scaled: NDArray[np.float32] = (255 * prob.amax(dim=1)).numpy()
    return scaled


def test_confidence_is_the_probability_of_the_chosen_class_in_255_steps() -> None:
    logits = pixels([0, 0, -50], [math.log(3), 0, -50], [9, 0, 90])
    assert choose(logits).tolist() == [[[0, 0, 2]]]
    assert confidence(logits).tolist() == [[[128, 191, 255]]]
    assert confidence(logits).dtype == torch.uint8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_confidence_is_the_largest_of_a_softmax(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(2, 9, 13, 17) * 4).to(dtype)
    expected = max_prob(logits.float().softmax(dim=1))
    np.testing.assert_allclose(confidence(logits).numpy(), expected, atol=0.501)


def test_a_class_that_a_gate_removed_has_no_share() -> None:
    assert torch.equal(confidence(pixels([1.0, 2.0, REMOVED])), confidence(pixels([1.0, 2.0])))
    assert confidence(pixels([REMOVED, 2.0, REMOVED])).item() == 255


@pytest.mark.parametrize(("num_classes", "dtype"), [(255, torch.uint8), (256, torch.int32)])
def test_labels_above_254_take_int32(num_classes: int, dtype: torch.dtype) -> None:
    logits = torch.zeros(1, num_classes, 1, 1)
    logits[0, -1] = 1
    assert choose(logits).dtype == dtype
    assert choose(logits).item() == num_classes - 1


def test_eager_masks_of_many_classes_are_not_cut_to_a_byte() -> None:
    torch.manual_seed(0)
    predictor = EagerPredictor(Linear(300), config_of(300))
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    mask = predictor.predict(image)
    logits = predictor.logits(image[None])
    assert mask.dtype == np.int32
    assert mask.max() > 255
    assert np.array_equal(predictor.run(image[None])[0], logits[0].argmax(axis=0))
    assert mask.shape == (20, 30)


def test_eager_gives_the_mask_and_its_confidence_in_one_pass(tiny_bundle: Path) -> None:
    predictor = EagerPredictor(*load_bundle(tiny_bundle))
    images = np.random.default_rng(0).integers(0, 256, (2, 33, 47, 3), np.uint8)
    mask, sure = Prediction(predictor.infer(images, predictor.available))
    assert np.array_equal(mask, predictor.run(images))
    expected = max_prob(torch.from_numpy(predictor.logits(images)).softmax(dim=1))
    assert sure is not None
    np.testing.assert_allclose(sure, expected, atol=0.51)
    assert len(np.unique(sure)) > 20


def test_the_confidence_of_an_image_has_its_size_and_is_of_the_masks_pixel(tiny_bundle: Path) -> None:
    predictor = EagerPredictor(*load_bundle(tiny_bundle))
    image = np.random.default_rng(0).integers(0, 256, (128, 64, 3), np.uint8)  # seen at 64x32
    mask, sure = predictor.predict_with_confidence(image)
    assert sure is not None
    assert mask.shape == sure.shape == (128, 64)
    assert np.array_equal(mask, predictor.predict(image))
    assert np.array_equal(sure[::2, ::2], sure[1::2, 1::2])  # nearest, as the mask


@torch.no_grad()
def test_a_gated_model_is_as_sure_as_the_model_without_the_removed_classes(tiny_bundle: Path) -> None:
    student, config = load_bundle(tiny_bundle)
    torch.manual_seed(1)
    classifier = ImageClassifier(ClassifierConfig(encoder="test_resnet", num_classes=7, imgsz=(32, 32)))
    gate = GatedConfig(segmentation=student.config, classifier=classifier.config, threshold=0.5)
    gated = Gated(student, classifier, gate).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)
    planes = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), config.preprocessing)
    kept = gated.kept(classifier.prob(classifier(planes)))
    assert 0 < (~kept).sum() < kept.numel()
    odds = student(planes).exp() * kept[:, :, None, None]
    _, sure = Prediction(EagerPredictor(gated, config).infer(images, ("mask", "confidence")))
    np.testing.assert_allclose(sure, max_prob(odds / odds.sum(dim=1, keepdim=True)), atol=0.51)


@torch.no_grad()
def test_an_ensemble_is_as_sure_as_its_average_probability(tiny_bundle: Path) -> None:
    first, config = load_bundle(tiny_bundle)
    second, _ = load_bundle(tiny_bundle)
    assert isinstance(first, Student)
    assert isinstance(second, Student)
    torch.manual_seed(1)
    for parameter in second.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    branches = first.network, second.network
    setting = EnsembleConfig(
        branches=(branches[0].config, branches[1].config),
        weight_1=0.3,
        average="probabilities",
        resolution="image",
    )
    ensemble = FusedEnsemble(branches, setting).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    planes = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), config.preprocessing)
    average = 0.3 * first.eval()(planes).softmax(dim=1) + 0.7 * second.eval()(planes).softmax(dim=1)
    mask, sure = Prediction(EagerPredictor(ensemble, config).infer(images, ("mask", "confidence")))
    np.testing.assert_allclose(sure, max_prob(average), atol=0.51)
    assert (mask == average.argmax(dim=1).numpy()).mean() > 0.999
