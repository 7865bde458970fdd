"""What a comparison says of its runs: means, spreads, differences by seed, and no more than is known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import scipy.stats

from zoo.train.compare.intervals import Spread, planned_looks, quantile_of_t, spread
from zoo.train.compare.report import notes
from zoo.train.compare.stats import (
    Ranking,
    class_iou,
    curve,
    difference,
    headline,
    is_clear,
    ranking,
    rows,
    verdicts,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.compare.record import Comparison

    Compared = Callable[..., Comparison]
    RunMetrics = Callable[..., dict[str, Any]]

T_95_OF_2 = 4.302652729749464
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
    assert many.interval == pytest.approx(literal_interval([0.0, 1.0] * 20, 2.0226909200367578))


def test_quantiles_are_students() -> None:
    for confidence in (0.5, 0.95, 0.9875):
        for degrees in (1, 2, 3, 4, 13, 60):
            expected = scipy.stats.t.ppf((1 + confidence) / 2, degrees)
            assert quantile_of_t(confidence, degrees) == pytest.approx(expected, rel=1e-7)


def test_an_interval_that_looks_several_times_is_wider(compared: Compared) -> None:
    mious = {"supervised": [0.5, 0.5, 0.5], "eln": [0.53, 0.56, 0.59]}
    once, thrice = (rows(compared(*looks, **mious))[1].difference for looks in ((3,), (3, 6, 12)))
    assert once is not None
    assert thrice is not None
    assert once.interval == pytest.approx(literal_interval([0.03, 0.06, 0.09], T_95_OF_2))
    assert thrice.interval == pytest.approx(literal_interval([0.03, 0.06, 0.09], 7.648803937915533))


def test_looks_are_planned_by_doubling() -> None:
    assert planned_looks(3, 14) == (3, 6, 12, 14)
    assert planned_looks(4, 8) == (4, 8)
    assert planned_looks(5, 5) == (5,)


def test_the_seeds_that_a_difference_needs_are_those_at_which_its_interval_leaves_zero_out() -> None:
    found = Spread(n=3, mean=0.02, sd=0.02)
    more = found.seeds_to_settle
    assert more == 4  # 2.4469 * 0.02 / sqrt(7) = 0.0185, 2.5706 * 0.02 / sqrt(6) = 0.0210
    assert Spread(n=3 + more, mean=0.02, sd=0.02).excludes_zero
    assert not Spread(n=2 + more, mean=0.02, sd=0.02).excludes_zero
    assert Spread(n=3, mean=0.2, sd=0.02).seeds_to_settle == 0
    assert Spread(n=3, mean=0.0001, sd=0.02).seeds_to_settle is None
    assert Spread(n=1, mean=0.02, sd=None).seeds_to_settle is None


def test_only_methods_must_be_clear(compared: Compared) -> None:
    mious: dict[str, list[float | None]] = {"supervised": [0.5, 0.5, 0.5], "eln": [0.6, 0.61, 0.62]}
    assert is_clear(compared(**mious, supervised_strong=[0.5, 0.4, 0.6]))
    assert not is_clear(compared(**mious, u2pl=[0.5, 0.4, 0.6]))
    assert not is_clear(compared(**mious, u2pl=[None, None, None]))


def test_a_further_network_of_a_run_has_a_row(compared: Compared, run_metrics: RunMetrics) -> None:
    comparison = compared(supervised=[0.5, 0.25], eln=[0.75, 0.75])
    supervised, eln = comparison.candidates
    eln = eln.model_copy(update={"networks": ("student", "teacher")})
    comparison = comparison.model_copy(update={"candidates": (supervised, eln)})
    for run in comparison.of("eln"):
        metrics = run_metrics(0.75, networks={"teacher": 0.8})
        comparison = comparison.with_run(run.model_copy(update={"metrics": metrics}))
    names = [(row.name, row.role) for row in rows(comparison)]
    assert names == [("supervised", "method"), ("eln", "method"), ("eln teacher", "control")]
    teacher = rows(comparison)[2]
    assert teacher.difference == spread([0.8 - 0.5, 0.8 - 0.25])
    assert (teacher.step_ms, teacher.wall_s, teacher.peak_mib, teacher.parameters) == (None, None, None, 4321)
    assert class_iou(comparison, "eln teacher")["class-2"] == [0.4, 0.4]
    assert "The row eln is its network student." in notes(comparison)


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
            f"{interval}: these seeds do not tell them apart; 2 more would, if the difference stayed so."
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
