"""What the runs of a comparison say: means, spreads and differences by seed, and no more than that.

Methods are compared seed by seed, as runs of one seed share their labeled images. A difference is called one
only if its 95 % interval (Student's t on the differences by seed) leaves zero out. With one seed there is no
interval, with two it is wide.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.frozen import Frozen
from zoo.train.compare.record import BASELINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.train.compare.record import Candidate, Comparison

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; the last serves all above."""


class Spread(Frozen):
    """A figure over seeds.

    Args:
        n: number of seeds.
        mean: over them.
        sd: of the sample, None for one seed.
    """

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


class Row(Frozen):
    """A method in the table of a comparison.

    Args:
        method: its name.
        miou: on `val` after the last step, None without a finished run.
        difference: in mIoU to labels only, by seed; None for labels only itself, or where no seed has both.
        step_ms: of a step of mean length, each phase by its median; None if no run took a step before it
            was broken off for the last time.
        wall_s: of a run, from start to end of its process, loading and evaluation included; None if no run
            was watched to its end.
        peak_mib: the largest of its runs.
        parameters: of what is deployed.
    """

    method: str
    miou: Spread | None
    difference: Spread | None
    step_ms: float | None
    wall_s: float | None
    peak_mib: float | None
    parameters: int


class Ranking(NamedTuple):
    """The methods with figures, the highest mean mIoU first, over the seeds that all of them finished."""

    methods: list[str]
    seeds: list[int]


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


def difference(
    comparison: Comparison, first: str, second: str, seeds: Sequence[int] | None = None
) -> Spread | None:
    """Return the mIoU of one method less that of another, None without a seed.

    Args:
        comparison: of both.
        first: a method.
        second: another.
        seeds: that are looked at; None for those that both finished.
    """
    of_first, of_second = (_miou_by_seed(comparison, method) for method in (first, second))
    if seeds is None:
        seeds = [seed for seed in of_first if seed in of_second]
    return spread([of_first[seed] - of_second[seed] for seed in seeds])


def ranking(comparison: Comparison) -> Ranking:
    """Return the methods in the order of their means; no seed, no order.

    Means over different seeds do not compare: one may hold the easier images.
    """
    found = {method: _miou_by_seed(comparison, method) for method in comparison.methods}
    found = {method: by_seed for method, by_seed in found.items() if by_seed}
    seeds = [seed for seed in comparison.seeds if all(seed in by_seed for by_seed in found.values())]
    if not seeds:
        return Ranking([], [])
    return Ranking(sorted(found, key=lambda method: -fmean(found[method][seed] for seed in seeds)), seeds)


def rows(comparison: Comparison) -> list[Row]:
    """Return the table of a comparison, in the order of its methods."""
    return [_row(comparison, candidate) for candidate in comparison.candidates]


def headline(comparison: Comparison) -> str:
    """Return in a sentence what the figures say of which method to take; empty with fewer than two."""
    methods, seeds = ranking(comparison)
    if len(methods) < 2:
        many = len({run.method for run in comparison.finished}) > 1
        return "No seed was finished by all methods: they cannot be ranked." if many else ""
    best = methods[0]
    if len(seeds) == 1:
        return f"{best} is highest, but one seed cannot tell a difference from chance: give --seeds 3."
    unclear = [other for other, gap in _gaps(comparison).items() if not gap.excludes_zero]
    apart = f"not told apart from {_listed(unclear)}" if unclear else "told apart from all others"
    highest = f"the highest mean is that of {best}, {apart}."
    if BASELINE not in methods:
        return f"On {len(seeds)} seeds, {highest}"
    return f"On {len(seeds)} seeds, {_above_labels_only(comparison)}; {highest}"


def verdicts(comparison: Comparison) -> list[str]:
    """Return what the figures say of the best mean beside each other one, in sentences."""
    methods, seeds = ranking(comparison)
    sentences = [_verdict(methods[0], other, gap) for other, gap in _gaps(comparison).items()]
    if sentences and len(seeds) < len(comparison.seeds):
        sentences.append(
            f"Ranked on {'seed' if len(seeds) == 1 else 'seeds'} {_listed([*map(str, seeds)])}, "
            f"which all of {_listed(sorted(methods))} finished."
        )
    return sentences


def summary(comparison: Comparison) -> dict[str, Any]:
    """Return table and sentences, ready for JSON."""
    table = [row.model_dump(mode="json") for row in rows(comparison)]
    return {"headline": headline(comparison), "rows": table, "verdicts": verdicts(comparison)}


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
    steps = [_step_ms(candidate, each["step_ms"]) for each in metrics if each["step_ms"]]
    return Row(
        method=candidate.method,
        miou=spread([each["val"]["miou"] for each in metrics]),
        difference=None if is_baseline else difference(comparison, candidate.method, BASELINE),
        step_ms=_mean(steps),
        wall_s=_mean([run.wall_s for run in runs if not run.untimed]),
        peak_mib=max(peaks, default=None),
        parameters=candidate.kept,
    )


def _step_ms(candidate: Candidate, by_phase: dict[str, float]) -> float:
    """Return the mean over the steps of the phases that were timed: a resumed run times the rest alone."""
    steps = {phase: candidate.phases[phase] for phase in by_phase}
    return sum(by_phase[phase] * count for phase, count in steps.items()) / sum(steps.values())


def _above_labels_only(comparison: Comparison) -> str:
    methods, seeds = ranking(comparison)
    gains = {method: difference(comparison, method, BASELINE, seeds) for method in methods}
    clear = [method for method, gain in gains.items() if gain and gain.mean > 0 and gain.excludes_zero]
    if not clear:
        return "no method is clearly above labels only"
    return f"clearly above labels only: {_listed(clear)}"


def _gaps(comparison: Comparison) -> dict[str, Spread]:
    """Return how far the best mean is above each other one, in their order."""
    methods, seeds = ranking(comparison)
    found = {other: difference(comparison, methods[0], other, seeds) for other in methods[1:]}
    return {other: gap for other, gap in found.items() if gap is not None}


def _verdict(best: str, other: str, gap: Spread) -> str:
    facts = f"{best} is {100 * gap.mean:.1f} points above {other}"
    if gap.interval is None:
        return f"{facts} with one seed."
    low, high = (f"{100 * end:+.1f}" for end in gap.interval)
    facts = f"{facts} on the mean of {gap.n} seeds, 95 % interval {low} to {high}"
    return f"{facts}." if gap.excludes_zero else f"{facts}: these seeds do not tell them apart."


def _listed(names: Sequence[str]) -> str:
    """Return names as people list them.

    Example:
        >>> _listed(["eln", "rrn", "u2pl"])
        'eln, rrn and u2pl'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


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
