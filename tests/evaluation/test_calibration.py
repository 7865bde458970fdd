from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.conftest import make_network
from tests.evaluation.conftest import Noise
from zoo.bundle.bundle import CONFIG_NAME, load_config
from zoo.bundle.reliability import Calibration, FittedOn
from zoo.classes import IGNORE, Classes
from zoo.data.shapes import NAMES, ShapesSource
from zoo.errors import BundleError, ZooError
from zoo.evaluation.calibration import (
    calibrate,
    count_right,
    cross_fitted_errors,
    fit_isotonic,
    fit_temperature,
    halves_of,
    pool_adjacent_violators,
)
from zoo.evaluation.protocols import PROTOCOLS
from zoo.evaluation.scored import BINS, CENTERS, Subset, bin_of, halves, image_digest, scored_images, unseen
from zoo.models.config import EnsembleConfig
from zoo.models.deployable import Agreement, FusedEnsemble
from zoo.predictors.eager import EagerPredictor, load_eager
from zoo.predictors.scores import calibrated, certainty, max_softmax

if TYPE_CHECKING:
    from pathlib import Path


def isotonic_oracle(means: list[float], weights: list[float]) -> list[float]:
    """Return the max-min formula of isotonic regression: max over starts of min over ends of the mean."""
    n = len(means)

    def mean(i: int, j: int) -> float:
        total = sum(w for w in weights[i : j + 1])
        return sum(m * w for m, w in zip(means[i : j + 1], weights[i : j + 1], strict=True)) / total

    return [max(min(mean(i, j) for j in range(k, n)) for i in range(k + 1)) for k in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_pooled_blocks_are_the_max_min_formula_of_isotonic_regression(seed: int) -> None:
    generator = np.random.default_rng(seed)
    means, weights = generator.random(20), generator.integers(1, 9, 20)
    values, sizes = pool_adjacent_violators(means, weights)
    assert np.repeat(values, sizes) == pytest.approx(isotonic_oracle(means.tolist(), weights.tolist()))


def test_knots_never_fall_and_keep_flat_blocks_flat() -> None:
    counts = np.zeros((10, 2), np.int64)
    counts[2], counts[3], counts[7] = (1, 3), (3, 1), (0, 5)
    assert fit_isotonic(counts, np.arange(0.05, 1, 0.1).round(2)) == ((0.25, 0.5), (0.35, 0.5), (0.75, 1.0))


def test_the_temperature_has_the_smallest_negative_log_likelihood() -> None:
    torch.manual_seed(0)
    true = torch.randn(20_000, 5) * 2
    labels = torch.distributions.Categorical(logits=true).sample()
    found = fit_temperature(3 * true, labels)
    assert found == pytest.approx(3, rel=0.05)
    loss = {t: cross_entropy(3 * true / t, labels).item() for t in (0.99 * found, found, 1.01 * found)}
    assert min(loss, key=loss.__getitem__) == found


def test_the_errors_of_halves_choose_the_calibration_that_fits() -> None:
    torch.manual_seed(0)
    true = torch.randn(40_000, 5) * 2
    labels = torch.distributions.Categorical(logits=true).sample()
    heated = cross_fitted_errors(*(3 * true).chunk(2), *labels.chunk(2))
    assert max(heated.values()) < 0.015  # both undo a temperature
    coin = torch.where(torch.rand(len(true)) < 0.6, true.argmax(dim=1), true.argmin(dim=1))
    flat = cross_fitted_errors(*true.chunk(2), *coin.chunk(2))  # right with 0.6, whatever the logits say
    assert flat["softmax"] < 0.015 < 0.1 < flat["temperature"]


def test_the_error_of_a_half_is_that_of_the_other_halfs_calibration() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(600, 3).double(), torch.randint(3, (600,))
    (a, b), (of_a, of_b) = logits.chunk(2), labels.chunk(2)

    def literal(measured: torch.Tensor, truth: torch.Tensor, temperature: float) -> float:
        prob, prediction = (measured / temperature).softmax(dim=1).max(dim=1)
        error = 0.0
        for low in range(15):
            held = (prob * 15).long().clip(max=14) == low
            if held.any():
                gap = prob[held].mean() - (prediction == truth)[held].double().mean()
                error += abs(gap.item()) * held.sum().item() / len(truth)
        return error

    expected = literal(b, of_b, fit_temperature(a, of_a)) / 2 + literal(a, of_a, fit_temperature(b, of_b)) / 2
    assert cross_fitted_errors(a, b, of_a, of_b)["temperature"] == pytest.approx(expected, abs=0.01)


def test_a_half_has_every_second_image() -> None:
    first, second = halves_of([torch.tensor([each]) for each in range(5)])
    assert (first.tolist(), second.tolist()) == ([0, 2, 4], [1, 3])
    first, second = halves_of([torch.tensor([7.0])])
    assert (first.tolist(), second.tolist()) == ([7], [])
    assert cross_fitted_errors(torch.zeros(0, 3), torch.zeros(9, 3), torch.zeros(0), torch.zeros(9)) == {}


def test_a_score_of_one_is_in_the_last_bin_and_bins_are_narrower_towards_one() -> None:
    counts = count_right(np.array([1, 0, 0.9999], np.float32), np.array([True, False, True]))
    assert (counts[-1].tolist(), counts[0].tolist()) == ([0, 1], [1, 0])
    assert (counts.shape, counts.sum()) == ((BINS, 2), 3)
    assert bin_of(CENTERS.astype(np.float32)).tolist() == list(range(BINS))


@pytest.mark.parametrize(
    "protocol", ["whole", "original", "resize", "center-crop-background", "padded", "half"]
)
def test_scored_pixels_are_those_of_the_protocol(tiny_bundle: Path, protocol: str) -> None:
    predictor, source = load_eager(tiny_bundle), Noise(load_config(tiny_bundle).names)
    found = [*scored_images(predictor, source, "val", protocol)]
    for each, id_ in zip(found, source.ids("val"), strict=True):
        image, label = source.read_image(id_), source.read_mask(id_)
        expected = PROTOCOLS[protocol].score(predictor, image, label)
        known = expected.label != IGNORE
        assert each.label.tolist() == expected.label[known].tolist()
        assert each.prediction.tolist() == expected.prediction[known].tolist()


@pytest.mark.parametrize("protocol", ["slide", "slide-logits", "resize-original", "multi-scale"])
def test_protocols_that_combine_logits_are_refused(tiny_bundle: Path, protocol: str) -> None:
    predictor = load_eager(tiny_bundle)
    with pytest.raises(ZooError, match=f"got protocol {protocol}, .* one forward pass: whole, original"):
        next(scored_images(predictor, Noise(predictor.classes.names), "val", protocol))


def test_scores_of_known_probabilities() -> None:
    prob = torch.tensor([0.5, 0.25, 0.25]).view(1, 3, 1, 1)
    assert max_softmax(prob.log()).item() == pytest.approx(0.5)
    assert max_softmax(prob.log(), 0.5).item() == pytest.approx(2 / 3)  # 1/4 : 1/16 : 1/16
    assert certainty(prob.log()).item() == pytest.approx(1 - 1.5 * np.log(2) / np.log(3))
    assert certainty(torch.zeros(1, 3, 1, 1)).item() == pytest.approx(0, abs=1e-6)
    other = torch.tensor([0.2, 0.7, 0.1]).view(1, 3, 1, 1)
    mask = torch.zeros(1, 1, 1, dtype=torch.int64)
    agreement = Agreement()
    assert agreement([prob.log(), other.log()], mask).item() == pytest.approx(0.2)
    assert agreement([prob.log(), torch.tensor([0.0, 200, 0]).view(1, 3, 1, 1)], mask).item() == 0


def test_a_calibration_interpolates_between_its_knots_and_is_flat_outside() -> None:
    calibration = Calibration(score="softmax", knots=((0.4, 0.2), (0.8, 0.6)))
    found = calibrated(torch.tensor([0.0, 0.4, 0.6, 0.8, 1.0]), calibration)
    assert found.tolist() == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6], abs=1e-3)


@pytest.fixture
def few() -> Subset:
    source = ShapesSource()
    return Subset(source, "val", source.ids("val")[:4])


def test_all_scores_of_a_network_are_fitted_on_labeled_images(shapes_predictor: EagerPredictor) -> None:
    few, _ = halves(Subset(ShapesSource(), "val", ShapesSource().ids("val")[:4]), "val")
    found = calibrate(shapes_predictor, few, "val")
    assert list(found.calibrations) == ["temperature", "softmax", "entropy"]
    assert found.score == min(found.cross_fitted, key=found.cross_fitted.__getitem__)
    assert calibrate(shapes_predictor, few, "val", "entropy").cross_fitted == {}
    assert list(found.fitted.images) == list(ShapesSource().ids("val")[:4:2])
    for name in ("softmax", "entropy"):
        knots = found.calibrations[name].knots
        assert all(x <= u and y <= v for (x, y), (u, v) in pairwise(knots))
    assert found.calibrations["temperature"].temperature != 1


def test_the_agreement_of_branches_can_be_the_output(few: Subset, tiny_bundle: Path) -> None:
    branches = make_network(), make_network()
    setting = EnsembleConfig(branches=(branches[0].config, branches[1].config))
    config = load_config(tiny_bundle).model_copy(update={"names": NAMES})
    fused = EagerPredictor(FusedEnsemble(branches, setting).eval(), config)
    found = calibrate(fused, few, "val", "agreement")
    # both branches are one network, so that the smaller probability is the largest softmax
    assert found.calibrations["agreement"].knots == found.calibrations["softmax"].knots
    assert found.chosen.score == "agreement"
    fused.calibration = found.chosen
    image = few.read_image(few.ids("val")[0])
    outputs = fused.predict_outputs(image, ("mask", "reliability")).outputs
    fused.calibration = found.calibrations["softmax"]
    expected = fused.predict_outputs(image, ("mask", "reliability")).outputs
    assert len(np.unique(outputs["reliability"])) > 10
    assert all(np.array_equal(outputs[name], expected[name]) for name in expected)


def test_a_model_of_one_network_has_no_agreement(shapes_predictor: EagerPredictor, few: Subset) -> None:
    with pytest.raises(
        BundleError,
        match=r"got score agreement, .* expected one of temperature, softmax, entropy: .* zoo train rrn",
    ):
        calibrate(shapes_predictor, few, "val", "agreement")


@pytest.fixture
def shapes_predictor(tiny_bundle: Path) -> EagerPredictor:
    predictor = load_eager(tiny_bundle)
    predictor.classes = Classes.of(NAMES)
    return predictor


def test_images_that_a_calibration_was_fitted_on_are_left_out_under_any_name(few: Subset) -> None:
    used = {"renamed": image_digest(few.read_image(few.ids("val")[1]))}
    fitted = FittedOn(data="other", split="train", images=used, pixels=1)
    assert unseen(few, "val", fitted).ids("val") == (few.kept[0], *few.kept[2:])
    assert unseen(few, "val", fitted.model_copy(update={"images": {}})) is few
    everything = {id_: image_digest(few.read_image(id_)) for id_ in few.kept}
    with pytest.raises(ZooError, match=r"fitted on all 4 images of split val .*zoo calibrate --half"):
        unseen(few, "val", fitted.model_copy(update={"images": everything}))


def test_a_bundle_of_before_has_no_calibration(tiny_bundle: Path, bundle_copy: Path) -> None:
    path = bundle_copy / CONFIG_NAME
    config = json.loads(path.read_text())
    del config["reliability"]
    path.write_text(json.dumps(config))
    assert load_config(bundle_copy) == load_config(tiny_bundle)
    assert load_config(bundle_copy).reliability is None
