"""What a comparison says of its runs: means, spreads, differences by seed, and no more than is known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from zoo.train.compare.report import notes
from zoo.train.compare.stats import (
    Ranking,
    Spread,
    class_iou,
    curve,
    difference,
    headline,
    ranking,
    rows,
    spread,
    verdicts,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.compare.record import Comparison

    Compared = Callable[..., Comparison]
    RunMetrics = Callable[..., dict[str, Any]]

T_95_OF_2 = 4.303
"""Quantile of Student's t for three seeds."""


def literal_interval(values: list[float], quantile: float) -> tuple[float, float]:
    """Return mean -+ t s / sqrt(n) from the formula."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    reach = quantile * math.sqrt(variance / n)
    return mean - reach, mean + reach


def test_a_spread_is_mean_and_sample_deviation() -> None:
    assert spread([]) is None
    assert spread([0.5]) == Spread(n=1, mean=0.5, sd=None)
    assert spread([0.25, 0.5, 0.75]) == Spread(n=3, mean=0.5, sd=0.25)


def test_an_interval_is_students() -> None:
    values = [0.1, 0.02, 0.06]
    found = spread(values)
    assert found is not None
    assert found.interval == pytest.approx(literal_interval(values, T_95_OF_2))
    many = spread([0.0, 1.0] * 20)
    assert many is not None
    assert many.interval == pytest.approx(literal_interval([0.0, 1.0] * 20, 2.228))


def test_one_seed_has_no_interval() -> None:
    found = spread([0.9])
    assert found is not None
    assert found.interval is None
    assert not found.excludes_zero


def test_methods_are_compared_seed_by_seed(compared: Compared) -> None:
    comparison = compared(supervised=[0.5, 0.25, None, 0.5], eln=[0.75, 0.5, 0.9, None])
    gap = difference(comparison, "eln", "supervised")
    assert gap == Spread(n=2, mean=0.25, sd=0.0)
    assert difference(comparison, "supervised", "eln") == Spread(n=2, mean=-0.25, sd=0.0)
    assert difference(compared(supervised=[None], eln=[0.5]), "eln", "supervised") is None


def test_a_row_is_what_its_runs_give(compared: Compared) -> None:
    comparison = compared(supervised=[0.5, 0.25], eln=[0.75, 0.75])
    supervised, eln = rows(comparison)
    assert supervised.difference is None
    assert eln.difference == spread([0.25, 0.5])
    assert eln.miou == Spread(n=2, mean=0.75, sd=0.0)
    assert (eln.wall_s, eln.peak_mib, eln.parameters) == (150.0, 750.0, 1234)
    assert eln.step_ms == (15 * 10 + 5 * 40) / 20


def test_a_resumed_run_counts_the_phases_it_timed(compared: Compared, run_metrics: RunMetrics) -> None:
    comparison = compared(eln=[0.5])
    resumed = comparison.runs[0].model_copy(update={"metrics": run_metrics(0.5, {"second": 40.0})})
    assert rows(comparison.with_run(resumed))[0].step_ms == 40


def test_a_run_broken_off_after_its_last_step_has_no_time_of_a_step(
    compared: Compared, run_metrics: RunMetrics
) -> None:
    comparison = compared(eln=[0.5, 0.5])
    resumed = comparison.runs[0].model_copy(update={"metrics": run_metrics(0.5, {})})
    assert rows(comparison.with_run(resumed))[0].step_ms == (15 * 10 + 5 * 40) / 20
    alone = compared(eln=[0.5])
    assert rows(alone.with_run(resumed))[0].step_ms is None


def test_a_run_whose_end_nobody_saw_has_no_duration(compared: Compared) -> None:
    comparison = compared(eln=[0.5, 0.5])
    unseen = comparison.runs[0].model_copy(update={"attempts": 2, "untimed": 1})
    changed = comparison.with_run(unseen)
    assert rows(changed)[0].wall_s == 200  # of the other seed alone
    assert "Not counted in run, as the comparison was killed meanwhile: eln-0." in notes(changed)
    assert any(line.startswith("Broken off and continued: eln-0 in 2 attempts;") for line in notes(changed))
    only = compared(eln=[0.5])
    assert rows(only.with_run(unseen))[0].wall_s is None


def test_methods_are_ranked_on_the_seeds_that_all_finished(compared: Compared) -> None:
    comparison = compared(supervised=[0.3, 0.9, 0.9], eln=[0.4, None, None], u2pl=[None, None, None])
    assert ranking(comparison) == Ranking(["eln", "supervised"], [0])
    assert verdicts(comparison) == [
        "eln is 10.0 points above supervised with one seed.",
        "Ranked on seed 0, which all of eln and supervised finished.",
    ]


def test_methods_without_a_common_seed_are_not_ranked(compared: Compared) -> None:
    comparison = compared(supervised=[0.3, None], eln=[None, 0.4])
    assert ranking(comparison) == Ranking([], [])
    assert verdicts(comparison) == []
    assert headline(comparison) == "No seed was finished by all methods: they cannot be ranked."


@pytest.mark.parametrize(
    ("mious", "expected"),
    [
        ({"supervised": [0.5], "eln": [0.6]}, "eln is highest, but one seed cannot tell a difference from "),
        (
            {"supervised": [0.50, 0.52], "eln": [0.54, 0.62]},
            (
                "On 2 seeds, no method is clearly above labels only; the highest mean is that of eln, "
                "not told apart from supervised."
            ),
        ),
        (
            {"supervised": [0.5, 0.51, 0.52], "eln": [0.6, 0.61, 0.63], "rrn": [0.6, 0.9, 0.5]},
            (
                "On 3 seeds, clearly above labels only: eln; the highest mean is that of rrn, not told apart "
                "from eln and supervised."
            ),
        ),
        (
            {"supervised": [0.6, 0.61, 0.62], "eln": [0.5, 0.51, 0.53]},
            (
                "On 3 seeds, no method is clearly above labels only; the highest mean is that of supervised, "
                "told apart from all others."
            ),
        ),
        ({"eln": [0.5, 0.51], "rrn": [0.6, 0.61]}, "On 2 seeds, the highest mean is that of rrn, told "),
        ({"eln": [0.5, 0.51]}, ""),
    ],
)
def test_the_headline_says_what_is_known_and_no_more(
    compared: Compared, mious: dict[str, list[float | None]], expected: str
) -> None:
    said = headline(compared(**mious))
    assert said.startswith(expected)
    assert bool(said) == bool(expected)


def test_seeds_that_overlap_are_said_to(compared: Compared) -> None:
    told = verdicts(compared(supervised=[0.639, 0.656, 0.721], eln=[0.729, 0.680, 0.753]))
    low, high = literal_interval([0.09, 0.024, 0.032], T_95_OF_2)
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
    assert told == [
        (
            "eln is 4.9 points above supervised on the mean of 3 seeds, 95 % interval "
            f"{interval}: these seeds do not tell them apart."
        )
    ]


def test_a_clear_difference_is_said_without_a_but(compared: Compared) -> None:
    (told,) = verdicts(compared(supervised=[0.5, 0.51, 0.52], eln=[0.6, 0.62, 0.63]))
    assert told.startswith("eln is 10.7 points above supervised on the mean of 3 seeds, 95 % interval +")
    assert "apart" not in told


def test_one_seed_is_said_to_tell_nothing(compared: Compared) -> None:
    comparison = compared(supervised=[0.5], eln=[0.6], u2pl=[0.55])
    assert headline(comparison) == (
        "eln is highest, but one seed cannot tell a difference from chance: give --seeds 3."
    )
    assert verdicts(comparison) == [
        "eln is 5.0 points above u2pl with one seed.",
        "eln is 10.0 points above supervised with one seed.",
    ]


def test_a_curve_is_mean_and_range_where_all_seeds_were_evaluated(
    compared: Compared, run_metrics: RunMetrics
) -> None:
    comparison = compared(eln=[0.5, 0.25])
    assert curve(comparison, "eln") == ([10, 20], [0.1875, 0.375], [0.125, 0.25], [0.25, 0.5])
    shorter = run_metrics(0.5) | {"curve": [[20, 0.5]]}
    changed = comparison.with_run(comparison.runs[1].model_copy(update={"metrics": shorter}))
    assert curve(changed, "eln").steps == [20]


def test_a_class_that_is_absent_has_no_iou(compared: Compared) -> None:
    found = class_iou(compared(eln=[0.5, 0.25]), "eln")
    assert found == {"class-0": [0.5, 0.25], "class-1": [], "class-2": [0.25, 0.125]}
