"""Calibration of a model's reliability, the probability that the predicted class of a pixel is right.

Part of a bundle's `config.json` and of the metadata of exported files; does not need PyTorch.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from zoo.frozen import Frozen

Score = Literal["temperature", "softmax", "entropy", "agreement", "localizer"]
"""Scores of a pixel, 0 to 1: the largest softmax probability at a fitted temperature, or at temperature 1;
one minus the entropy over its maximum; the smaller probability that two branches give the predicted class;
ELN's probability that the predicted class is right."""

LOCALIZER: Score = "localizer"
FROM_LOGITS: tuple[Score, ...] = "temperature", "softmax", "entropy"
"""Scores that are computed from the logits alone."""
OWN: tuple[Score, ...] = "agreement", LOCALIZER
"""Scores that a model computes from more than its logits; a model has one at most."""

DEFAULT_SCORE: Score = "temperature"


class Calibration(Frozen):
    """Function from logits, or from what a model's own score is computed from, to reliability.

    Args:
        score: score that is computed from them.
        temperature: divisor of the logits; 1 for all scores but `temperature`.
        shift: sum with the localizer's logits, the logarithm of the number of right pixels over that of wrong
            ones, since training weights both alike; 0 for all scores but `localizer`.
        knots: (score, reliability) pairs, interpolated linearly; empty if the score is the reliability.
    """

    score: Score = DEFAULT_SCORE
    temperature: float = Field(1.0, gt=0)
    shift: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()

    @property
    def is_from_logits(self) -> bool:
        """Return whether the score is computed from the logits alone."""
        return self.score in FROM_LOGITS


class FittedOn(Frozen):
    """Images that a calibration was fitted on.

    Args:
        data: spec of the source.
        split: split of the source.
        images: SHA-256 of the pixels of each image, shortened, by its id.
        pixels: number of labeled pixels.
    """

    data: str
    split: str
    images: dict[str, str]
    pixels: int


class Reliability(Frozen):
    """Fitted calibrations of a model.

    Args:
        score: score of the output `reliability`.
        calibrations: calibration of each score.
        fitted: images that they were fitted on.
        measured: metrics by score on other images, with their `data`, `split` and number; empty if
            they were not measured.
        cross_fitted: ECE of the scores of which the default was chosen, fitted on one half of the images and
            measured on the other; empty if the score was named.
    """

    score: Score
    calibrations: dict[Score, Calibration]
    fitted: FittedOn
    measured: dict[str, Any] = Field(default_factory=dict)
    cross_fitted: dict[Score, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_score(self) -> Reliability:
        if self.score not in self.calibrations:
            raise ValueError(f"score {self.score} has no calibration, expected one of {self.calibrations}")
        return self

    @property
    def chosen(self) -> Calibration:
        """Return the calibration of the output `reliability`."""
        return self.calibrations[self.score]

    @property
    def about(self) -> dict[str, str | int]:
        """Return the chosen score and what the calibrations were fitted on, ready for JSON."""
        fitted = self.fitted
        return {
            "score": self.score,
            "data": fitted.data,
            "split": fitted.split,
            "images": len(fitted.images),
            "pixels": fitted.pixels,
        }
