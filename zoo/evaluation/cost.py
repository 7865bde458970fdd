"""Cost of the output `reliability`, measured beside the plain mask."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from zoo.predictors.eager import EagerPredictor
from zoo.predictors.outputs import MASK, RELIABILITY
from zoo.preprocess import resize_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zoo.bundle.reliability import Calibration, Reliability
    from zoo.data.source import Source, Split
    from zoo.predictors.base import Predictor

ROUNDS = 21
SECONDS = 10.0
"""No further round starts after this time, unless there are fewer than `FEWEST`."""
FEWEST = 3


def output_costs(predictor: Predictor, fitted: Reliability, source: Source, split: Split) -> dict[str, float]:
    """Return the time of mask and reliability over that of the mask alone, by score.

    PyTorch predicts the first image in turns, once with each score in a round; the ratio is the median over
    the rounds. Scores that are no output are left out; other runtimes have one score and return nothing.

    Args:
        predictor: predictor of the model.
        fitted: calibrations of the model.
        source: source of the image.
        split: split of the source.
    """
    if not isinstance(predictor, EagerPredictor):
        return {}
    image = source.read_image(source.ids(split)[0])
    images = resize_image(image, predictor.preprocessing.model_size(*image.shape[:2]))[None]
    known = {
        name: each
        for name, each in fitted.calibrations.items()
        if each.is_from_logits or name == predictor.own_score
    }
    rounds: list[list[float]] = []
    stop = time.monotonic() + SECONDS
    while len(rounds) < FEWEST or (len(rounds) < ROUNDS and time.monotonic() < stop):
        plain = _seconds(predictor, images, (MASK,), None)
        rounds.append(
            [_seconds(predictor, images, (MASK, RELIABILITY), each) / plain for each in known.values()]
        )
    ratios = np.median(rounds[1:], axis=0)  # the first round allocates memory
    return dict(zip(known, map(float, ratios), strict=True))


def _seconds(
    predictor: EagerPredictor,
    images: NDArray[np.uint8],
    outputs: Sequence[str],
    calibration: Calibration | None,
) -> float:
    """Return the time of a prediction, with the outputs in host memory."""
    start = time.perf_counter()
    for each in predictor.derived(predictor.upload(images), outputs, calibration).values():
        predictor.download(each)
    return time.perf_counter() - start
