"""`zoo bench --suite`: every figure of a machine, in parts."""

from __future__ import annotations

import datetime
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from zoo.commands.console import emit, remarks, table
from zoo.commands.parsing import parts_of
from zoo.errors import ZooError
from zoo.machine import choose_device

if TYPE_CHECKING:
    from zoo.suite.parts import Part
    from zoo.suite.record import Record
    from zoo.suite.run import Job

SuiteOption = Annotated[
    bool,
    typer.Option(
        "--suite",
        help="Measure this machine, no MODEL: its peaks, training and inference at the size of the papers, "
        "the tests of a GPU, in parts that are kept; with --data also methods side by side.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Of the suite: folder of its results; default: docs/results/<gpu>."),
]
PartsOption = Annotated[
    str | None,
    typer.Option(metavar="machine,train-*", help="Of the suite: only these parts; --list shows all."),
]
LimitOption = Annotated[
    float | None,
    typer.Option(metavar="S", min=1, help="Of the suite: seconds after which a part is ended; default: 480."),
]
AgainOption = Annotated[
    bool, typer.Option("--again", help="Of the suite: measure also the parts that are finished.")
]
ListOption = Annotated[
    bool, typer.Option("--list", help="Of the suite: show the parts and their state, measure nothing.")
]


class SuiteOptions(NamedTuple):
    """The options that the suite alone takes, None where they are not given."""

    out: Path | None
    parts: str | None
    limit: float | None
    again: bool | None
    list: bool | None


def measure_suite(
    options: SuiteOptions, data: str | None, device: str | None, *, quick: bool, as_json: bool
) -> None:
    """Measure the parts that are not finished, then write and show the report.

    Args:
        options: of the suite alone.
        data: spec of the images that methods are compared on, if they are to be.
        device: `cpu` or `cuda`; None for a GPU if there is one.
        quick: smallest sizes.
        as_json: print the result so.

    Raises:
        ZooError: it cannot be run here; a part failed; or the user asked to stop.
    """
    from zoo.suite.parts import Settings, choose, plan
    from zoo.suite.record import SuiteFolder
    from zoo.suite.run import LIMIT_S, Job, check_device

    chosen = choose_device(device)
    settings = Settings(device="cpu" if chosen == "cpu" else "cuda", quick=quick, data=data)
    check_device(settings)
    if data is not None:
        from zoo.data.open import open_source

        open_source(data)
    everything = plan(settings)
    parts = choose(everything, _names(options.parts))
    job = Job(
        folder=SuiteFolder(options.out or default_folder(settings.device, quick=settings.quick)),
        settings=settings,
        limit_s=options.limit or LIMIT_S,
        again=bool(options.again),
    )
    if options.list:
        _list(job, parts, as_json=as_json)
        return
    _run(job, parts, everything, as_json=as_json)


def default_folder(device: str, *, quick: bool) -> Path:
    """Return the folder of the results: of the GPU; of a quick look, which is no result, under `runs/`."""
    from zoo.suite.run import processor_name

    name = re.sub(r"[^a-z0-9]+", "-", processor_name(device).lower()).strip("-")
    return Path("runs") / f"suite-quick-{device}" if quick else Path("docs") / "results" / name


def _run(job: Job, parts: tuple[Part, ...], everything: tuple[Part, ...], *, as_json: bool) -> None:
    from rich.text import Text

    from zoo.bundle.bundle import check_writable
    from zoo.suite.report import Made, write_report
    from zoo.suite.run import run_parts

    check_writable(job.folder.path)
    made = Made(
        command=shlex.join(["zoo", *sys.argv[1:]]),
        written=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        names=tuple(part.name for part in everything),
    )
    job.folder.read_all(made.names)  # a broken record is an error before anything is measured
    with remarks.status("starting") as status:
        try:
            records = run_parts(job, parts, lambda text: status.update(Text(text)), remarks.print)
        finally:
            files = write_report(job.folder, made)
    _show(job, records, files, as_json=as_json)


def _show(job: Job, records: tuple[Record, ...], files: list[Path], *, as_json: bool) -> None:
    """Show aims and parts.

    Raises:
        ZooError: a part is not finished.
    """
    from zoo.suite import tables
    from zoo.suite.aims import Aim, aims

    found = aims(job.folder.read_all(()))
    result = {
        "aims": [aim._asdict() for aim in found],
        "parts": [record.model_dump(mode="json") for record in records],
    }
    emit(
        result,
        table("Aims, of a GPU at full size", Aim._fields, [tuple(aim) for aim in found]),
        table("Parts", *tables.parts(records)),
        f"Made {', '.join(map(str, files))}",
        as_json=as_json,
    )
    if unfinished := [record for record in records if record.state != "finished"]:
        reasons = "; ".join(f"{record.name} {record.state}: {record.reason}" for record in unfinished)
        raise ZooError(
            f"{len(unfinished)} of {len(records)} parts are not finished ({reasons}): {_hint(unfinished)}"
        )


def _hint(unfinished: list[Record]) -> str:
    """Return what to do about parts that are not finished."""
    if any(record.state == "failed" for record in unfinished):
        return "correct the cause and give the same command again"
    if all(record.kind == "compare" for record in unfinished):
        return "the same command goes on"
    return "give more time by --limit S"


def _list(job: Job, parts: tuple[Part, ...], *, as_json: bool) -> None:
    from zoo.suite.run import states

    found = states(job, parts)
    emit(found, table(f"Parts in {job.folder.path}", ("part", "state"), list(found.items())), as_json=as_json)


def _names(text: str | None) -> tuple[str, ...] | None:
    """Return the patterns of a list.

    Raises:
        typer.BadParameter: there are none.
    """
    if text is None:
        return None
    found = tuple(parts_of(text))
    if not found:
        raise typer.BadParameter(
            f"{text!r} names no part, expected e.g. machine,train-*", param_hint="--parts"
        )
    return found
