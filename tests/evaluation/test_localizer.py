"""The score of an error localizer: calibration, metrics, and the advice whether it is worth its cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from zoo.bundle.reliability import Calibration
from zoo.commands.reliability import advice_lines
from zoo.data.shapes import ShapesSource
from zoo.data.source import Subset
from zoo.errors import BundleError
from zoo.evaluation.calibration import calibrate, prior_shift, shifted
from zoo.evaluation.reliability import Counts, Pooled, advice, measure_reliability
from zoo.evaluation.scored import BINS, scored_images
from zoo.models.deployable import Localized
from zoo.predictors.eager import load_eager
from zoo.predictors.scores import own_score

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.predictors.eager import EagerPredictor


@pytest.fixture
def few() -> Subset:
    source = ShapesSource()
    return Subset(source, "val", source.ids("val")[:4])


@pytest.fixture
def predictor(localized_bundle: Path) -> EagerPredictor:
    return load_eager(localized_bundle)


def test_the_prior_undoes_the_balance_of_training() -> None:
    counts = np.zeros((BINS, 2), np.int64)
    counts[100], counts[900] = (30, 10), (10, 350)  # 9 right pixels for each wrong one
    shift = prior_shift(counts)
    assert shift == pytest.approx(np.log(9))
    balanced = torch.tensor([0.5, 0.1])
    calibration = Calibration(score="localizer", shift=shift)
    assert own_score(balanced.logit(), calibration).tolist() == pytest.approx([0.9, 0.5])
    assert shifted(np.array([0.5, 0.1]), shift) == pytest.approx([0.9, 0.5])
    assert np.isfinite(prior_shift(np.array([[0, 5]])))


def test_the_localizer_is_calibrated_with_the_other_scores(predictor: EagerPredictor, few: Subset) -> None:
    found = calibrate(predictor, few, "val", "localizer")
    assert list(found.calibrations) == ["temperature", "softmax", "entropy", "localizer"]
    chosen = found.chosen
    pixels = [*scored_images(predictor, few, "val")]
    right = np.concatenate([each.label == each.prediction for each in pixels])
    assert chosen.shift == pytest.approx(np.log(right.sum() / (~right).sum()))
    deployable = predictor.model.deployable
    assert isinstance(deployable, Localized)
    without_knots = Calibration(score="localizer", shift=chosen.shift)
    score = pixels[0].score(without_knots)
    assert score is not None
    assert score.std() > 0.1
    judged = pixels[0].judged
    assert judged is not None
    assert score.tolist() == own_score(judged, without_knots).numpy().ravel()[pixels[0].place].tolist()
    measured = measure_reliability(predictor, few, "val", fitted=found)
    assert measured["scores"]["localizer"]["ece"]["value"] < 0.01  # of the images that it was fitted on
    assert list(measured["costs"]) == ["temperature", "softmax", "entropy", "localizer"]
    assert measured["costs"]["localizer"] > 1.2  # a second encoder
    assert measured["advice"]["costs"]["localizer"] == measured["costs"]["localizer"]


def test_a_model_without_a_localizer_has_neither_score_nor_advice(tiny_bundle: Path, few: Subset) -> None:
    plain = load_eager(tiny_bundle)
    with pytest.raises(BundleError, match=r"got score localizer, .* zoo calibrate RUN --keep-localizer"):
        calibrate(plain, few, "val", "localizer")


def pooled(generator: np.random.Generator, noise: float) -> Pooled:
    """Return the counts of a score that tells right from wrong pixels the worse, the more noise it has."""
    counts, pixels = Counts(2), np.random.default_rng(7)
    for _ in range(12):
        right = pixels.random(2000) < 0.9
        score = np.where(right, 0.7, 0.3) + noise * generator.standard_normal(2000)
        counts.update(np.ones(2000, np.int64), right.astype(np.int64), score.clip(0, 1).astype(np.float32))
    return counts.pooled()


@pytest.mark.parametrize("own", ["localizer", "agreement"])
@pytest.mark.parametrize(
    ("noise", "rival", "recommended"), [(0.1, 0.3, "own"), (0.3, 0.1, "rival"), (0.3, 0.3, "rival")]
)
def test_the_cheaper_score_is_recommended_unless_that_of_the_model_is_better(
    own: str, noise: float, rival: float, recommended: str
) -> None:
    generator = np.random.default_rng(0)
    found = {"temperature": pooled(generator, rival), own: pooled(generator, noise)}
    found["entropy"] = pooled(generator, 0.5)  # the best of the cheaper scores counts
    said = advice(found, {"temperature": 1.01, own: 2.0})
    assert said is not None
    assert said["own"] == own
    assert said["score"] == {"own": own, "rival": "temperature"}[recommended]
    [line] = advice_lines({"advice": said}, "MODEL")
    words = {"localizer": "ELN's localizer is", "agreement": "the agreement of both branches is"}
    assert line.startswith(words[own] + (" better" if recommended == "own" else " not better"))
    assert line.endswith(f"zoo calibrate MODEL --score {said['score']}")
    difference = said["difference"]
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert difference["value"] == pytest.approx(found[own].aurc() - found["temperature"].aurc())
    assert said["costs"] == {own: 2.0, "temperature": 1.01}
    assert advice({"temperature": found["temperature"]}, {}) is None


def test_the_same_score_differs_by_nothing_in_every_resample() -> None:
    same = pooled(np.random.default_rng(0), 0.2)
    said = advice({"temperature": same, "localizer": same}, {})
    assert said is not None
    assert (said["difference"]["low"], said["difference"]["high"]) == (0, 0)


@pytest.mark.parametrize("score", ["temperature", "localizer"])
def test_the_mask_is_the_same_with_any_score(score: str, predictor: EagerPredictor, few: Subset) -> None:
    image = few.read_image(few.ids("val")[0])
    expected = predictor.predict(image)
    predictor.calibration = Calibration(score=score)
    assert "reliability" in predictor.available
    found = predictor.predict_outputs(image, ("mask", "reliability", "logits"))
    assert np.array_equal(found.mask, expected)
    assert len(np.unique(found.outputs["reliability"])) > 10
