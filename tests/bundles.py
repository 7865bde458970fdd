"""Calibrated bundles, and the metadata of their artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import WEIGHTS_NAME, load_config, update_config
from zoo.bundle.manifest import sha256
from zoo.bundle.reliability import FittedOn, Reliability
from zoo.predictors.artifact import ArtifactMetadata

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.bundle.reliability import Calibration


def reliability_by(*calibrations: Calibration) -> Reliability:
    """Return a reliability with these calibrations; the score of the last one is the output's."""
    fitted = FittedOn(data="shapes", split="val", images={}, pixels=1)
    by_score = {each.score: each for each in calibrations}
    return Reliability(score=calibrations[-1].score, calibrations=by_score, fitted=fitted)


def calibrate_by(bundle: Path, *calibrations: Calibration) -> None:
    """Give a bundle a reliability with these calibrations."""
    update_config(bundle, reliability=reliability_by(*calibrations))


def metadata_of(bundle: Path, **changes: Any) -> ArtifactMetadata:
    """Return the metadata of a file in fp32 of a bundle, with these changes."""
    config = load_config(bundle)
    fields = {
        "names": config.names,
        "palette": config.palette,
        "preprocessing": config.preprocessing,
        "precision": "fp32",
        "weights_sha256": sha256(bundle / WEIGHTS_NAME),
    }
    return ArtifactMetadata(**fields | changes)
