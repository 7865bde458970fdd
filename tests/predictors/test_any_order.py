"""Every predictor of a CPU on sizes of all kinds, in any order, from one thread and from eight.

Each mask is compared with PyTorch's of the same image: no two images are alike, so that the mask of another
one would differ by far more than near ties do.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.predictors.conftest import FILES, Made, assert_same
from zoo.bundle.weights import load_bundle
from zoo.errors import BundleError, InvalidImageError
from zoo.models.classifier import ImageClassifier
from zoo.models.config import ClassifierConfig, GatedConfig
from zoo.models.deployable import Gated
from zoo.predictors.eager import CompiledPredictor, EagerPredictor, load_eager
from zoo.predictors.limits import Limits
from zoo.predictors.tags import TagPredictor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Images = NDArray[np.uint8]

SIDES = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 47, 64, 65, 90, 128)
"""Tiny, thin, odd, and twice what the networks are trained for."""

USUAL = ((64, 64), (64, 48))
"""Half of all images are of these."""

SMALLEST = {
    "test_resnet": {"eager": 1, "ort": 1, "ort bound": 1, "openvino": 5},
    "convnext_atto": {"eager": 16, "ort": 16, "ort bound": 16, "openvino": 16},
}
"""Pixels a side; OpenVINO lacks windows of pooling that reach over the edge."""


LOADERS: dict[str, Callable[[Made], Any]] = {
    "eager": lambda made: load_eager(made.bundle),
    **{name: lambda made, load=load: load(made.onnx) for name, load in FILES.items()},
}


def sequence(seed: int, count: int) -> list[Images]:
    """Return batches of 1 or 2 images in blocks of noise."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        height, width = USUAL[random.integers(2)] if random.random() < 0.5 else random.choice(SIDES, 2)
        block = int(random.integers(1, 9))
        shape = (int(random.integers(1, 3)), -(-height // block), -(-width // block), 3)
        cells = random.integers(0, 256, shape, np.uint8)
        found.append(cells.repeat(block, 1).repeat(block, 2)[:, :height, :width].copy())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("name", LOADERS)
def test_each_image_gets_its_own_mask(made: Made, name: str, threads: int, checked: bool) -> None:
    """With `checked` false the runtimes themselves meet what is too small for them."""
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    predictor, reference = LOADERS[name](made), load_eager(made.bundle)
    least = SMALLEST[made.encoder][name.partition(",")[0]]
    assert predictor.limits == Limits((1, least, least))
    if not checked:
        predictor._limits = Limits()
    batches = sequence(threads, 60)
    refused = 0
    for batch, found in zip(batches, run_all(predictor.run, batches, threads), strict=True):
        if min(batch.shape[1:3]) < least:
            assert isinstance(found, InvalidImageError if checked else (InvalidImageError, BundleError)), (
                found
            )
            refused += 1
        else:
            assert not isinstance(found, Exception), found
            assert_same(reference, batch, found)
    assert (refused > 5) is (least > 1)


def run_all(run: Callable[[Images], Any], batches: list[Images], threads: int) -> list[Any]:
    """Return the result of each batch, or its error."""

    def outcome(batch: Images) -> Any:
        try:
            return run(batch)
        except (BundleError, InvalidImageError) as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(outcome, batches))


@pytest.mark.slow
def test_threads_share_a_compiled_model(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    # takes half as long to compile as that of tiny_bundle
    bundle = make_bundle(tmp_path / "bundle", encoder="test_resnet", output_stride=8)
    deployable, config = load_bundle(bundle)
    predictor, reference = CompiledPredictor(deployable, config), load_eager(bundle)
    batches = [batch for batch in sequence(3, 60) if batch.shape[1:3] in USUAL]
    for batch, found in zip(batches, run_all(predictor.run, batches, 8), strict=True):
        assert_same(reference, batch, found)


def test_threads_share_a_gated_model_and_a_classifier(tiny_bundle: Path) -> None:
    torch.manual_seed(0)
    segmentation, config = load_bundle(tiny_bundle)
    classifier = ImageClassifier(
        ClassifierConfig(encoder="test_resnet", num_classes=len(config.names), imgsz=(32, 48))
    )
    gate = GatedConfig(segmentation=segmentation.config, classifier=classifier.config, threshold=0.5)
    predictor = EagerPredictor(Gated(segmentation, classifier, gate), config)
    tags = TagPredictor(classifier, config)
    batches = sequence(4, 30)
    expected = [(predictor.run(batch), tags.predict(batch[0])) for batch in batches]
    found = run_all(lambda batch: (predictor.run(batch), tags.predict(batch[0])), batches, 8)
    for (masks, prob), (same_masks, same_prob) in zip(expected, found, strict=True):
        assert np.array_equal(masks, same_masks)
        assert np.array_equal(prob, same_prob)
