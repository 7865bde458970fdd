"""What the project aims at on a GPU, and what was measured of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zoo.suite.reading import fastest, queries_of, steps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoo.suite.reading import Query, Step
    from zoo.suite.record import Record

MIN_OVER_PLAIN = 2.0
MAX_LOSS_SHARE = 0.15
MAX_CONTRAST_SHARE = 0.10
MAX_PEAK_MIB = 24 * 1024
FRUGAL = ("eln", "u2pl")
MIN_OVER_EAGER = 3.0
FAST_BACKENDS = ("compile", "compile-amp", "ort")

NOT_MEASURED = "not measured"


class Aim(NamedTuple):
    """One line of the table."""

    aim: str
    measured: str
    met: str
    """`yes`, `no` or `not measured`."""


class Found(NamedTuple):
    """A figure and what it is of."""

    value: float
    where: str


def aims(records: Sequence[Record]) -> tuple[Aim, ...]:
    """Return the aims; only figures of a GPU at full size count.

    Each must hold for the worst of what was measured; of a method's variants the fastest is looked at.
    """
    counted = [
        record
        for record in records
        if record.inputs.device == "cuda" and not record.inputs.options.get("quick")
    ]
    best, queries = fastest(steps_of(counted)), queries_of(counted)
    frugal = [step for step in best if step.method in FRUGAL]
    return (
        _at_least(
            f"training: images/s of plain fp32 eager, at least {MIN_OVER_PLAIN:g}x",
            [Found(step.over_plain, step.name) for step in best if step.over_plain is not None],
            MIN_OVER_PLAIN,
            "{:.2f}x".format,
        ),
        _at_most(
            f"training: loss terms, at most {MAX_LOSS_SHARE:.0%} of a step",
            _figures(best, "loss_share"),
            MAX_LOSS_SHARE,
            "{:.1%}".format,
        ),
        _at_most(
            f"training: U2PL's contrastive part, at most {MAX_CONTRAST_SHARE:.0%} of a step",
            _figures([step for step in best if step.method == "u2pl"], "contrast_share"),
            MAX_CONTRAST_SHARE,
            "{:.1%}".format,
        ),
        _at_most("training: host syncs in a step, none", _figures(best, "host_syncs"), 0, "{:.0f}".format),
        _at_most(
            f"training: peak memory of ELN and U2PL, at most {MAX_PEAK_MIB // 1024} GiB",
            _figures(frugal, "peak_mib"),
            MAX_PEAK_MIB,
            lambda mib: f"{mib / 1024:.1f} GiB",
        ),
        _at_least(
            f"inference: compile or ONNX Runtime at batch 1, at least {MIN_OVER_EAGER:g}x eager fp32",
            over_eager(queries),
            MIN_OVER_EAGER,
            "{:.2f}x".format,
        ),
    )


def over_eager(queries: Sequence[Query]) -> list[Found]:
    """Return how many times as fast as eager fp32 the fastest one is at batch 1, for each model and size."""
    found: dict[str, float] = {}
    for query in queries:
        row = query.row
        if row.batch == 1 and row.backend in FAST_BACKENDS and row.speedup is not None:
            where = f"{query.model} {query.size[0]}x{query.size[1]}"
            found[where] = max(row.speedup.ratio, found.get(where, 0.0))
    return [Found(ratio, where) for where, ratio in found.items()]


def _figures(steps: Sequence[Step], key: str) -> list[Found]:
    """Return a figure of those steps that have it."""
    return [Found(step.figures[key], step.name) for step in steps if step.figures.get(key) is not None]


def _at_least(aim: str, found: Sequence[Found], bound: float, show: Callable[[float], str]) -> Aim:
    worst = min(found, default=None)
    return _line(aim, found, worst, worst is not None and worst.value >= bound, show)


def _at_most(aim: str, found: Sequence[Found], bound: float, show: Callable[[float], str]) -> Aim:
    worst = max(found, default=None)
    return _line(aim, found, worst, worst is not None and worst.value <= bound, show)


def _line(
    aim: str, found: Sequence[Found], worst: Found | None, holds: bool, show: Callable[[float], str]
) -> Aim:
    if worst is None:
        return Aim(aim, NOT_MEASURED, NOT_MEASURED)
    of = f", the worst of {len(found)}" if len(found) > 1 else ""
    return Aim(aim, f"{show(worst.value)} ({worst.where}{of})", "yes" if holds else "no")
