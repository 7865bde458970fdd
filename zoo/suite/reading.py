"""The figures of the records as rows: of each way to compute a step, of each backend and batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.serve.bench.measurement import Row
from zoo.suite.roofline import Roof, roof

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from zoo.suite.record import Record

PLAIN = "plain fp32"
"""Of the variants of a step: what the others are compared with, see `zoo.train.profile.step_bench`."""


class Step(NamedTuple):
    """The figures of a step of one phase, computed in one way.

    Args:
        method: that is trained.
        encoder: of its networks.
        variant: how the step is computed.
        phase: of the method.
        is_last: whether it is the method's last phase, in which all of its losses are at work.
        figures: see `zoo.train.profile.step_bench`.
        over_plain: how many times the images per second of the plain variant in the same phase.
        recipe: crop and batch.
    """

    method: str
    encoder: str
    variant: str
    phase: str
    is_last: bool
    figures: dict[str, Any]
    over_plain: float | None
    recipe: dict[str, Any]

    @property
    def name(self) -> str:
        """Return method and encoder."""
        return f"{self.method} {self.encoder}"


class Query(NamedTuple):
    """The figures of a backend at one batch size.

    Args:
        model: name in the suite.
        row: as the benchmark gives it.
        flops: of a batch.
        moved: bytes of a batch in the precision of the row; None where its elements have no one size.
        roof: what the machine allows; None where its peaks were not measured.
    """

    model: str
    row: Row
    flops: float
    moved: int | None
    roof: Roof | None

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width."""
        assert self.row.imgsz is not None
        return self.row.imgsz

    @property
    def ms(self) -> float:
        """Return what is compared with the roofline: the GPU's own time where it was measured."""
        times = self.row.gpu_compute_ms or self.row.end_to_end_ms
        assert times is not None
        return times.p50

    @property
    def over_roof(self) -> float | None:
        """Return how many times as long as the roofline it takes."""
        return None if self.roof is None else self.ms / self.roof.ms


def of_kind(records: Iterable[Record], kind: str) -> list[Record]:
    """Return the records of a kind that have figures."""
    return [record for record in records if record.kind == kind and record.figures is not None]


def machine_of(records: Iterable[Record]) -> dict[str, Any]:
    """Return the figures of the part `machine`, empty without them."""
    found = of_kind(records, "machine")
    return (found[0].figures or {}) if found else {}


def steps_of(records: Sequence[Record]) -> list[Step]:
    """Return the figures of training, by part, variant and phase."""
    return [step for record in of_kind(records, "train") for step in _steps(record)]


def unmeasured_variants(records: Sequence[Record]) -> list[str]:
    """Return a line for each variant without figures: which and why."""
    return [
        f"{record.inputs.options['method']} {record.inputs.options['encoder']}, {name}: {found['reason']}"
        for record in of_kind(records, "train")
        for name, found in (record.figures or {})["variants"].items()
        if "reason" in found
    ]


def conditions(records: Sequence[Record]) -> list[str]:
    """Return a line for each condition of training that the machine and PyTorch decide."""
    variants = [
        found
        for record in of_kind(records, "train")
        for found in (record.figures or {})["variants"].values()
        if "phases" in found
    ]
    lines = [f"Peak memory: {kind}." for kind in dict.fromkeys(found["memory"] for found in variants)]
    other = [found for found in variants if not found["variant"]["plain"]]
    if any(found["device"].startswith("cuda") for found in other):
        uses = {kind: any(found["tf32"][kind] for found in other) for kind in ("conv", "matmul")}
        conv, matmul = ("TF32" if uses[kind] else "fp32" for kind in ("conv", "matmul"))
        lines.append(
            f"Variants in fp32 but the plain one: convolutions in {conv}, other products in {matmul}."
        )
    return lines


def fastest(steps: Iterable[Step]) -> list[Step]:
    """Return the fastest variant of each method and encoder in its last phase, but for the plain one."""
    found: dict[str, Step] = {}
    for step in steps:
        if not step.is_last or step.variant == PLAIN:
            continue
        best = found.get(step.name)
        if best is None or step.figures["images_per_s"] > best.figures["images_per_s"]:
            found[step.name] = step
    return list(found.values())


def queries_of(records: Sequence[Record]) -> list[Query]:
    """Return the figures of inference that were measured, by part, batch size and backend."""
    machine = machine_of(records)
    return [query for record in of_kind(records, "infer") for query in _queries(record, machine)]


def missing_rows(record: Record) -> list[Row]:
    """Return the rows of a part of inference that have no figures."""
    rows = map(_row, (record.figures or {})["rows"])
    return [row for row in rows if row.end_to_end_ms is None]


def _steps(record: Record) -> Iterator[Step]:
    figures, options = record.figures or {}, record.inputs.options
    measured = [(name, found) for name, found in figures["variants"].items() if "phases" in found]
    variants = {name: found["phases"] for name, found in sorted(measured, key=lambda item: _effort(item[1]))}
    plain = {phase["phase"]: phase["images_per_s"] for phase in variants.get(PLAIN, ())}
    for name, phases in variants.items():
        for phase in phases:
            base = plain.get(phase["phase"])
            yield Step(
                method=options["method"],
                encoder=options["encoder"],
                variant=name,
                phase=phase["phase"],
                is_last=phase is phases[-1],
                figures=phase,
                over_plain=phase["images_per_s"] / base if base else None,
                recipe=figures["recipe"],
            )


def _effort(found: dict[str, Any]) -> tuple[bool, ...]:
    """Return how far a variant is from the plain one, to be sorted by."""
    asked = found["variant"]
    return not asked["plain"], asked["precision"] != "fp32", asked["channels_last"], asked["compile"]


def _queries(record: Record, machine: dict[str, Any]) -> Iterator[Query]:
    figures = record.figures or {}
    work = figures["work"]
    for row in map(_row, figures["rows"]):
        if row.end_to_end_ms is None or row.batch is None:
            continue
        precision = row.precision or ""
        moved = work["bytes"][str(row.batch)].get(precision)
        flops = work["flops"] * row.batch
        bound = None if moved is None else roof(flops, moved, precision, machine)
        yield Query(row.model, row, flops, moved, bound)


def _row(found: dict[str, Any]) -> Row:
    return Row.model_validate(found)
