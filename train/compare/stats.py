"""What the runs of a comparison show: means, spreads and differences by seed, and no more than that.

Rows are compared seed by seed, as runs of one seed share their labeled images and their warm start. A
difference is called one only if its interval (`zoo.train.compare.intervals`) leaves zero out. With one seed
there is no interval, with two it is wide.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.frozen import Frozen
from zoo.train.compare.intervals import Spread, spread
from zoo.train.compare.record import BASELINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.train.compare.record import Candidate, Comparison, Entry, Run


class Row(Frozen):
    """A row in the table of a comparison: one network of a candidate.

    Args:
        name: name of the row.
        method: name of the method.
        role: `method` or `control`; further networks of a method are controls.
        miou: mIoU on `val` after the last step, None without a finished run.
        difference: difference in mIoU to labels only, by seed; None for labels only itself, or where no seed
            has both.
        more_seeds: how many more seeds would make the difference clear if it stayed as it is; None where that
            cannot be said.
        step_ms: duration of a step of mean length, each phase by its median; None if no run took a step
            before it was interrupted for the last time, or for a further network of the same runs.
        wall_s: duration of a run, from start to end of its process, loading and evaluation included; None if
            no run was watched to its end, or for a further network.
        peak_mib: the largest of its runs.
        parameters: parameters of what is deployed.
    """

    name: str
    method: str
    role: str
    miou: Spread | None
    difference: Spread | None
    more_seeds: int | None
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


def difference(
    comparison: Comparison, first: str, second: str, seeds: Sequence[int] | None = None
) -> Spread | None:
    """Return the mIoU of one row less that of another, None without a seed.

    Args:
        comparison: comparison with both.
        first: name of a row.
        second: name of another.
        seeds: seeds that are looked at; None for those that both finished.
    """
    of_first, of_second = (_miou_by_seed(comparison, comparison.entries[name]) for name in (first, second))
    if seeds is None:
        seeds = [seed for seed in of_first if seed in of_second]
    return spread([of_first[seed] - of_second[seed] for seed in seeds], comparison.confidence)


def ranking(comparison: Comparison) -> Ranking:
    """Return the methods in the order of their means; no seed, no order.

    Means over different seeds do not compare: one may hold the easier images.
    """
    entries = comparison.entries
    found = {name: _miou_by_seed(comparison, entries[name]) for name in comparison.methods}
    found = {method: by_seed for method, by_seed in found.items() if by_seed}
    seeds = [seed for seed in comparison.seeds if all(seed in by_seed for by_seed in found.values())]
    if not seeds:
        return Ranking([], [])
    return Ranking(sorted(found, key=lambda method: -fmean(found[method][seed] for seed in seeds)), seeds)


def rows(comparison: Comparison) -> list[Row]:
    """Return the table of a comparison, in the order of its methods."""
    return [_row(comparison, entry) for entry in comparison.entries.values()]


def is_clear(comparison: Comparison) -> bool:
    """Return whether every method is told apart from labels only; controls, further networks do not count."""
    names = [each.name for each in comparison.compared if each.role == "method" and each.name != BASELINE]
    gains = [difference(comparison, name, BASELINE) for name in names]
    return all(gain is not None and gain.excludes_zero for gain in gains)


def headline(comparison: Comparison) -> str:
    """Return in a sentence what the figures say of which method to take; empty with fewer than two."""
    methods, seeds = ranking(comparison)
    if len(methods) < 2:
        many = len({run.candidate for run in comparison.finished}) > 1
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


def curve(comparison: Comparison, name: str) -> Curve:
    """Return mean and range of a candidate's mIoU at the steps at which all its runs were evaluated."""
    curves = [dict(map(tuple, metrics["curve"])) for metrics in _metrics(comparison, name)]
    steps = [step for step in (curves[0] if curves else ()) if all(step in each for each in curves)]
    at = [[each[step] for each in curves] for step in steps]
    return Curve([int(step) for step in steps], [*map(fmean, at)], [*map(min, at)], [*map(max, at)])


def class_iou(comparison: Comparison, name: str) -> dict[str, list[float]]:
    """Return the IoU of each class in each run of a row; empty for a class that is absent."""
    entry = comparison.entries[name]
    values = [_val(run, entry) for run in comparison.of(entry.candidate.name)]
    tables = [val["iou"] for val in values if val is not None]
    return {
        name: [table[name] for table in tables if table[name] is not None]
        for name in comparison.data["classes"]
    }


def _row(comparison: Comparison, entry: Entry) -> Row:
    candidate = entry.candidate
    runs = comparison.of(candidate.name)
    metrics = _metrics(comparison, candidate.name)
    peaks = [each["peak_memory"]["mib"] for each in metrics if each["peak_memory"]["mib"] is not None]
    steps = [_step_ms(candidate, each["step_ms"]) for each in metrics if each["step_ms"]]
    has_gain = entry.label != BASELINE and BASELINE in comparison.methods
    gain = difference(comparison, entry.label, BASELINE) if has_gain else None
    return Row(
        name=entry.label,
        method=candidate.method,
        role=candidate.role if entry.is_main else "control",
        miou=spread([*_miou_by_seed(comparison, entry).values()], comparison.confidence),
        difference=gain,
        more_seeds=None if gain is None else gain.seeds_to_settle,
        step_ms=_mean(steps) if entry.is_main else None,
        wall_s=_mean([run.wall_s for run in runs if not run.untimed]) if entry.is_main else None,
        peak_mib=max(peaks, default=None) if entry.is_main else None,
        parameters=candidate.kept[entry.network],
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
    facts = f"{facts} on the mean of {gap.n} seeds, {100 * gap.confidence:.4g} % interval {low} to {high}"
    if gap.excludes_zero:
        return f"{facts}."
    more = gap.seeds_to_settle
    need = "" if more is None else f"; {more} more would, if the difference stayed so"
    return f"{facts}: these seeds do not tell them apart{need}."


def _listed(names: Sequence[str]) -> str:
    """Return names as people list them.

    Example:
        >>> _listed(["eln", "rrn", "u2pl"])
        'eln, rrn and u2pl'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _val(run: Run, entry: Entry) -> dict[str, Any] | None:
    """Return the metrics on `val` of a row in one of its runs, None if there are none."""
    if run.metrics is None:
        return None
    found: dict[str, Any] | None = (
        run.metrics["val"] if entry.is_main else run.metrics["networks"].get(entry.network)
    )
    return found


def _miou_by_seed(comparison: Comparison, entry: Entry) -> dict[int, float]:
    values = {run.seed: _val(run, entry) for run in comparison.of(entry.candidate.name)}
    return {seed: val["miou"] for seed, val in values.items() if val is not None}


def _metrics(comparison: Comparison, candidate: str) -> list[dict[str, Any]]:
    return [run.metrics for run in comparison.of(candidate) if run.metrics is not None]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
