from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.conftest import make_network
from zoo.bundle.bundle import CONFIG_NAME, load_config
from zoo.bundle.reliability import Calibration, FittedOn
from zoo.classes import Classes
from zoo.data.shapes import NAMES, ShapesSource
from zoo.errors import BundleError, ZooError
from zoo.evaluation.calibration import (
    BINS,
    Subset,
    calibrate,
    count_right,
    fit_isotonic,
    fit_temperature,
    half_of,
    held_out,
    image_digest,
    pool_adjacent_violators,
)
from zoo.models.config import EnsembleConfig
from zoo.models.deployable import FusedEnsemble
from zoo.predictors.eager import EagerPredictor, load_eager
from zoo.predictors.scores import agreement, calibrated, certainty, max_softmax

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
    assert fit_isotonic(counts) == ((0.25, 0.5), (0.35, 0.5), (0.75, 1.0))


def test_the_temperature_has_the_smallest_negative_log_likelihood() -> None:
    torch.manual_seed(0)
    true = torch.randn(20_000, 5) * 2
    labels = torch.distributions.Categorical(logits=true).sample()
    found = fit_temperature(3 * true, labels)
    assert found == pytest.approx(3, rel=0.05)
    loss = {t: cross_entropy(3 * true / t, labels).item() for t in (0.99 * found, found, 1.01 * found)}
    assert min(loss, key=loss.__getitem__) == found


def test_ignored_pixels_are_not_counted_and_a_score_of_one_is_in_the_last_bin() -> None:
    label, mask = np.array([[0, 1, 255]], np.uint8), np.array([[0, 0, 0]], np.uint8)
    counts = count_right(np.array([[1, 0, 0.5]], np.float32), mask, label)
    assert counts[-1].tolist() == [0, 1]
    assert counts[0].tolist() == [1, 0]
    assert (counts.shape, counts.sum()) == ((BINS, 2), 2)


def test_scores_of_known_probabilities() -> None:
    prob = torch.tensor([0.5, 0.25, 0.25]).view(1, 3, 1, 1)
    assert max_softmax(prob.log()).item() == pytest.approx(0.5)
    assert max_softmax(prob.log(), 0.5).item() == pytest.approx(2 / 3)  # 1/4 : 1/16 : 1/16
    assert certainty(prob.log()).item() == pytest.approx(1 - 1.5 * np.log(2) / np.log(3))
    assert certainty(torch.zeros(1, 3, 1, 1)).item() == pytest.approx(0, abs=1e-6)
    other = torch.tensor([0.2, 0.7, 0.1]).view(1, 3, 1, 1)
    mask = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert agreement([prob.log(), other.log()], mask).item() == pytest.approx(0.2)


def test_a_calibration_interpolates_between_its_knots_and_is_flat_outside() -> None:
    calibration = Calibration(score="softmax", knots=((0.4, 0.2), (0.8, 0.6)))
    found = calibrated(torch.tensor([0.0, 0.4, 0.6, 0.8, 1.0]), calibration)
    assert found.tolist() == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6], abs=1e-3)


@pytest.fixture
def few() -> Subset:
    source = ShapesSource()
    return Subset(source, "val", source.ids("val")[:4])


def test_all_scores_of_a_network_are_fitted_on_labeled_images(shapes_predictor: EagerPredictor) -> None:
    few = half_of(Subset(ShapesSource(), "val", ShapesSource().ids("val")[:4]), "val")
    found = calibrate(shapes_predictor, few, "val")
    assert list(found.calibrations) == ["temperature", "softmax", "entropy"]
    assert list(found.fitted.images) == list(ShapesSource().ids("val")[:4:2])
    for name in ("softmax", "entropy"):
        knots = found.calibrations[name].knots
        assert all(x <= u and y <= v for (x, y), (u, v) in pairwise(knots))
    assert found.chosen.temperature != 1


def test_an_ensemble_has_the_agreement_of_its_branches_too(few: Subset, tiny_bundle: Path) -> None:
    branches = make_network(), make_network()
    setting = EnsembleConfig(branches=(branches[0].config, branches[1].config))
    config = load_config(tiny_bundle).model_copy(update={"names": NAMES})
    fused = EagerPredictor(FusedEnsemble(branches, setting).eval(), config)
    found = calibrate(fused, few, "val")
    # both branches are one network, so that the smaller probability is the largest softmax
    assert found.calibrations["agreement"].knots == found.calibrations["softmax"].knots
    with pytest.raises(BundleError, match="got score agreement, which needs both branches"):
        calibrate(fused, few, "val", "agreement")


@pytest.fixture
def shapes_predictor(tiny_bundle: Path) -> EagerPredictor:
    predictor = load_eager(tiny_bundle)
    predictor.classes = Classes.of(NAMES)
    return predictor


def test_images_that_a_calibration_was_fitted_on_are_refused_or_left_out_under_any_name(few: Subset) -> None:
    used = {"renamed": image_digest(few.read_image(few.ids("val")[1]))}
    fitted = FittedOn(data="other", split="train", images=used, pixels=1)
    with pytest.raises(ZooError, match=r"fitted on 1 of the 4 images of split val.*--held-out"):
        held_out(few, "val", fitted, leave_out=False)
    assert held_out(few, "val", fitted, leave_out=True).ids("val") == (few.kept[0], *few.kept[2:])
    everything = {id_: image_digest(few.read_image(id_)) for id_ in few.kept}
    for leave_out in (False, True):
        with pytest.raises(ZooError, match=r"fitted on 4 of the 4 images.*zoo calibrate --half"):
            held_out(few, "val", fitted.model_copy(update={"images": everything}), leave_out=leave_out)


def test_a_bundle_of_before_has_no_calibration(tiny_bundle: Path, bundle_copy: Path) -> None:
    path = bundle_copy / CONFIG_NAME
    config = json.loads(path.read_text())
    del config["reliability"]
    path.write_text(json.dumps(config))
    assert load_config(bundle_copy) == load_config(tiny_bundle)
    assert load_config(bundle_copy).reliability is None
