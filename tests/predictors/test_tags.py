from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from zoo.bundle.bundle import BundleConfig
from zoo.bundle.weights import load_bundle, load_classifier, save_bundle
from zoo.card.card import model_card
from zoo.classes import IGNORE, Classes
from zoo.data.source import Source, Split
from zoo.errors import BundleError, DatasetError, InvalidImageError
from zoo.evaluation.evaluate import evaluate_tags
from zoo.models.classifier import ImageClassifier
from zoo.models.config import ClassifierConfig
from zoo.predictors.load import load_predictor
from zoo.predictors.tags import TagPredictor, load_tag_predictor
from zoo.preprocess import Preprocessing, normalize

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

IMGSZ = (40, 48)
CLASSES = Classes.of(("dark", "bright", "void"))


@pytest.fixture
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    config = ClassifierConfig(encoder="test_resnet", num_classes=3, imgsz=IMGSZ)
    return ImageClassifier(config).eval()


@pytest.fixture
def config(classifier: ImageClassifier) -> BundleConfig:
    return BundleConfig(
        deployable=classifier.config,
        method="mlmt",
        weights="teacher",
        names=CLASSES.names,
        palette=CLASSES.palette,
        preprocessing=Preprocessing(imgsz=IMGSZ, resize="stretch"),
        recipe={"data": {"spec": "shapes"}, "pretrained": False},
        provenance={
            "step": 5,
            "partition": {"counts": {"labeled": 2, "unlabeled": 3}, "digest": "0123456789ab"},
            "parameters": {"kept": 7},
        },
    )


@pytest.fixture
def bundle(classifier: ImageClassifier, config: BundleConfig, tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", classifier, config, "# Tiny\n")
    return tmp_path / "bundle"


class Halves(Source):
    """Images that are dark, bright or both; some of the pixels are unknown."""

    def __init__(self, classes: Classes = CLASSES) -> None:
        super().__init__("halves", classes)

    def ids(self, split: Split) -> tuple[str, ...]:
        return ("00", "11", "01") if split == "val" else ()

    def read_image(self, id_: str) -> NDArray[np.uint8]:
        return np.repeat(self._values(id_)[..., None] * np.uint8(255), 3, axis=2)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        mask = self._values(id_)
        mask[:3] = IGNORE
        return mask

    def _values(self, id_: str) -> NDArray[np.uint8]:
        return np.repeat(np.array([int(half) for half in id_], np.uint8), 10)[None].repeat(16, axis=0)


class Thresholds(TagPredictor):
    """Knows dark from bright by the extremes of an image."""

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array([image.min() < 128, image.max() > 128, False], np.float32)


def test_a_probability_is_the_classifiers_on_the_squashed_image(
    classifier: ImageClassifier, config: BundleConfig
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*IMGSZ, 3), np.uint8)
    planes = normalize(torch.from_numpy(image).permute(2, 0, 1)[None], config.preprocessing)
    with torch.no_grad():
        expected = classifier(planes).sigmoid()[0].numpy()
    predictor = TagPredictor(classifier, config)
    np.testing.assert_allclose(predictor.predict(image), expected, atol=1e-6)
    larger = predictor.predict(image.repeat(2, axis=0).repeat(3, axis=1))  # of another aspect
    np.testing.assert_allclose(larger, expected, atol=0.05)


def test_a_bundle_gives_the_probabilities_of_its_classifier(
    bundle: Path, classifier: ImageClassifier, config: BundleConfig
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 70, 3), np.uint8)
    expected = TagPredictor(classifier, config).predict(image)
    np.testing.assert_array_equal(load_tag_predictor(bundle).predict(image), expected)
    assert load_classifier(bundle)[0].config == classifier.config


def test_an_image_that_is_none_is_refused(classifier: ImageClassifier, config: BundleConfig) -> None:
    with pytest.raises(InvalidImageError, match="expected \\(height, width, 3\\) uint8"):
        TagPredictor(classifier, config).predict(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("load", [load_bundle, load_predictor])
def test_a_classifier_is_no_segmentation_model(load: object, bundle: Path) -> None:
    assert callable(load)
    with pytest.raises(
        BundleError, match=r"is a classifier \(mlmt\), which predicts no masks.*export MODEL --gate"
    ):
        load(bundle)


def test_a_segmentation_model_is_no_classifier(tiny_bundle: Path) -> None:
    with pytest.raises(
        BundleError, match=r"is a segmentation model .* expected a classifier: train one with"
    ):
        load_tag_predictor(tiny_bundle)


def test_classes_are_scored_against_those_of_the_masks(
    classifier: ImageClassifier, config: BundleConfig
) -> None:
    seen: list[tuple[int, int]] = []
    metrics = evaluate_tags(
        Thresholds(classifier, config), Halves(), on_progress=lambda *done: seen.append(done)
    )
    assert metrics["class_f1"] == {"dark": 1.0, "bright": 1.0, "void": None}
    assert (metrics["f1"], metrics["map"], metrics["images"]) == (1.0, 1.0, 3)
    assert (metrics["split"], metrics["protocol"], metrics["data"]) == ("val", "whole", "halves")
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_classes_must_be_the_models(classifier: ImageClassifier, config: BundleConfig) -> None:
    with pytest.raises(DatasetError, match="has the 2 classes a, b, expected the model's 3"):
        evaluate_tags(TagPredictor(classifier, config), Halves(Classes.of(("a", "b"))))


def test_the_card_says_f1_and_ap_and_not_iou(classifier: ImageClassifier, config: BundleConfig) -> None:
    val = evaluate_tags(Thresholds(classifier, config), Halves())
    card = model_card(config.model_copy(update={"metrics": {"val": val}}))
    assert "**F1 1.000**, mAP 1.000. A class counts as present above 0.2." in card
    assert "| class | F1 | AP |\n|---|---:|---:|\n| dark | 1.000 | 1.000 |" in card
    assert "| void | not in val | not in val |" in card
    assert "IoU" not in card
    assert "pipeline_tag: image-classification" in card
    assert "zoo predict" not in card
