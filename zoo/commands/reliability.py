"""Tables of the reliability of a model, for `zoo evaluate` and `zoo calibrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.commands.console import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

COLUMNS = {
    "ece": "ECE",
    "class_ece": "ECE by class",
    "brier": "Brier",
    "auroc": "AUROC",
    "aurc": "AURC",
    "miou_at_100": "mIoU at 100 %",
    "miou_at_95": "95 %",
    "miou_at_90": "90 %",
    "miou_at_80": "80 %",
}
"""Metrics in the table, by key."""

TITLES = {"localizer": "ELN's localizer", "agreement": "the agreement of both branches"}
"""Words for the scores of models that have one of their own."""

COST = "time"
"""Column of the time of mask and reliability over that of the plain mask."""


def reliability_lines(result: Mapping[str, Any]) -> list[Any]:
    """Return the terminal output for the reliability in a result."""
    found = result["reliability"]
    protocol = f", protocol {result['protocol']}" if "protocol" in result else ""
    title = f"Reliability on {found['images']} {result['split']} images of {result['data']}{protocol}"
    return [scores_table(title, found), *_remarks(found), *advice_lines(found, result["model"])]


def scores_table(title: str, found: Mapping[str, Any]) -> Table:
    """Return the table of metrics by score, and of the time of the output over that of the plain mask."""
    scores, costs = found["scores"], found["costs"]
    rows = [
        (
            name,
            *(_shown(each[key]["value"]) for key in COLUMNS),
            *([_times(costs.get(name))] if costs else []),
        )
        for name, each in scores.items()
    ]
    return table(title, ("score", *COLUMNS.values(), *([COST] if costs else [])), rows)


def advice_lines(found: Mapping[str, Any], model: str) -> list[str]:
    """Return which score to use, in words; empty for a model without a score of its own."""
    advice = found["advice"]
    if advice is None:
        return []
    own, difference, rival, costs = (advice[key] for key in ("own", "difference", "rival", "costs"))
    change = "AURC {:+.4f} ({:+.4f} to {:+.4f}, 95 % interval)".format(
        *(difference[key] for key in ("value", "low", "high"))
    )
    cost = f"it takes {_times(costs[own])} the time of the plain mask, {rival} {_times(costs[rival])}"
    if advice["score"] == rival:
        said = f"{TITLES[own]} is not better than {rival}, {change}, and {cost}: use the cheaper score"
    else:
        said = f"{TITLES[own]} is better than {rival}, {change}, but {cost}: use it if it is worth that"
    return [f"{said}, zoo calibrate {model} --score {advice['score']}"]


def _remarks(found: Mapping[str, Any]) -> list[str]:
    """Return lines on the intervals of the chosen score and on the images of the calibration."""
    calibrated = found["calibrated"]
    name = "uncalibrated" if calibrated is None else calibrated["score"]
    score = found["scores"][name]
    first = (
        f"{name}: ECE {_shown(score['ece']['value'])} ({_interval(score['ece'])}), AURC "
        f"{_shown(score['aurc']['value'])} ({_interval(score['aurc'])}), mIoU of the surest 90 % of pixels "
        f"{_points(score['gain_at_90']['value'])} points ({_points(score['gain_at_90']['low'])} to "
        f"{_points(score['gain_at_90']['high'])}) over that of all; 95 % intervals over images"
    )
    if calibrated is None:
        return [first, "not calibrated: zoo calibrate fits the reliability on held-out images"]
    left = f"; {found['left_out']} images that it was fitted on are left out" if found["left_out"] else ""
    where = f"{calibrated['images']} {calibrated['split']} images of {calibrated['data']}"
    return [first, f"calibrated on {where}{left}"]


def _interval(metric: Mapping[str, float | None]) -> str:
    return f"{_shown(metric['low'])} to {_shown(metric['high'])}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
