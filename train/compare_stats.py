"""What the runs of a comparison say: means, spreads and differences by seed, and no more than that.

Methods are compared seed by seed, as runs of one seed share their labeled images. A difference is called one
only if its 95 % interval (Student's t on the differences by seed) leaves zero out. With one seed there is no
interval, with two it is wide.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from zoo.train.comparison import BASELINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.train.comparison import Candidate, Comparison

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; the last serves all above."""


class Spread(BaseModel):
    """A figure over seeds.

    Args:
        n: number of seeds.
        mean: over them.
        sd: of the sample, None for one seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    mean: float
    sd: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean, None for one seed."""
        if self.sd is None:
            return None
        reach = T_95[min(self.n - 1, len(T_95)) - 1] * self.sd / math.sqrt(self.n)
        return self.mean - reach, self.mean + reach

    @property
    def excludes_zero(self) -> bool:
        """Return whether the interval leaves zero out."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


class Row(BaseModel):
    """A method in the table of a comparison.

    Args:
        method: its name.
        miou: on `val` after the last step, None without a finished run.
        difference: in mIoU to labels only, by seed; None for labels only itself, or where no seed has both.
        step_ms: of a step of mean length, each phase by its median.
        wall_s: of a run, from start to end of its process, loading and evaluation included.
        peak_mib: the largest of its runs.
        parameters: of what is deployed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    miou: Spread | None
    difference: Spread | None
    step_ms: float | None
    wall_s: float | None
    peak_mib: float | None
    parameters: int


class Curve(NamedTuple):
    """The mIoU of a method by step, over its seeds."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and sample standard deviation, None of nothing."""
    if not values:
        return None
    return Spread(n=len(values), mean=fmean(values), sd=stdev(values) if len(values) > 1 else None)


def difference(comparison: Comparison, first: str, second: str) -> Spread | None:
    """Return the mIoU of one method less that of another over the seeds that both finished, None if none."""
    of_first, of_second = (_miou_by_seed(comparison, method) for method in (first, second))
    return spread([miou - of_second[seed] for seed, miou in of_first.items() if seed in of_second])


def rows(comparison: Comparison) -> list[Row]:
    """Return the table of a comparison, in the order of its methods."""
    return [_row(comparison, candidate) for candidate in comparison.candidates]


def verdicts(comparison: Comparison) -> list[str]:
    """Return what the figures say of the best mean beside each other one, in sentences."""
    means = {row.method: row.miou.mean for row in rows(comparison) if row.miou is not None}
    best, *others = sorted(means, key=lambda method: -means[method]) or ("",)
    found = {other: difference(comparison, best, other) for other in others}
    gaps = {other: gap for other, gap in found.items() if gap is not None}
    once = [f"{100 * gap.mean:.1f} points above {other}" for other, gap in gaps.items() if gap.n == 1]
    sentences = [_verdict(best, other, gap) for other, gap in gaps.items() if gap.n > 1]
    if once:
        sentences.append(
            f"{best} is {', '.join(once)} with one seed, which cannot tell a difference from chance: "
            f"give --seeds 0,1,2."
        )
    return sentences


def summary(comparison: Comparison) -> dict[str, Any]:
    """Return table and sentences, ready for JSON."""
    table = [row.model_dump(mode="json") for row in rows(comparison)]
    return {"rows": table, "verdicts": verdicts(comparison)}


def curve(comparison: Comparison, method: str) -> Curve:
    """Return the mean and the range of a method's mIoU at the steps at which all its runs were evaluated."""
    curves = [dict(map(tuple, metrics["curve"])) for metrics in _metrics(comparison, method)]
    steps = [step for step in (curves[0] if curves else ()) if all(step in each for each in curves)]
    at = [[each[step] for each in curves] for step in steps]
    return Curve([int(step) for step in steps], [*map(fmean, at)], [*map(min, at)], [*map(max, at)])


def class_iou(comparison: Comparison, method: str) -> dict[str, list[float]]:
    """Return the IoU of each class in each run of a method; empty for a class that is absent."""
    tables = [metrics["val"]["iou"] for metrics in _metrics(comparison, method)]
    return {
        name: [table[name] for table in tables if table[name] is not None]
        for name in comparison.data["classes"]
    }


def _row(comparison: Comparison, candidate: Candidate) -> Row:
    metrics = _metrics(comparison, candidate.method)
    runs = [run for run in comparison.finished if run.method == candidate.method]
    is_baseline = candidate.method == BASELINE
    peaks = [each["peak_memory"]["mib"] for each in metrics if each["peak_memory"]["mib"] is not None]
    return Row(
        method=candidate.method,
        miou=spread([each["val"]["miou"] for each in metrics]),
        difference=None if is_baseline else difference(comparison, candidate.method, BASELINE),
        step_ms=_mean([_step_ms(candidate, each["step_ms"]) for each in metrics]),
        wall_s=_mean([run.wall_s for run in runs]),
        peak_mib=max(peaks, default=None),
        parameters=candidate.kept,
    )


def _step_ms(candidate: Candidate, by_phase: dict[str, float]) -> float:
    """Return the mean over the steps of the phases that were timed: a resumed run times the rest alone."""
    steps = {phase: candidate.phases[phase] for phase in by_phase}
    return sum(by_phase[phase] * count for phase, count in steps.items()) / sum(steps.values())


def _verdict(best: str, other: str, gap: Spread) -> str:
    assert gap.interval is not None
    low, high = (f"{100 * end:+.1f}" for end in gap.interval)
    facts = (
        f"{best} is {100 * gap.mean:.1f} points above {other} on the mean of {gap.n} seeds, "
        f"95 % interval {low} to {high}"
    )
    return f"{facts}." if gap.excludes_zero else f"{facts}: these seeds do not tell them apart."


def _miou_by_seed(comparison: Comparison, method: str) -> dict[int, float]:
    return {
        run.seed: run.metrics["val"]["miou"]
        for run in comparison.finished
        if run.metrics is not None and run.method == method
    }


def _metrics(comparison: Comparison, method: str) -> list[dict[str, Any]]:
    return [run.metrics for run in comparison.runs if run.metrics is not None and run.method == method]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
