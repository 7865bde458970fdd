"""`zoo compare`: methods side by side on the user's images."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.arguments import (
    AmpOption,
    BatchOption,
    CropOption,
    DeviceOption,
    EncoderOption,
    PartitionOption,
    PretrainedOption,
    parse_size,
)
from zoo.commands.console import AsJson, emit, remarks, table
from zoo.errors import RecipeError, ZooError

if TYPE_CHECKING:
    from zoo.train.compare.record import Comparison, ComparisonFolder


def compare(
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="shapes (built in, the default), voc:DIR, a folder or a data.toml."
        ),
    ] = None,
    partition: PartitionOption = None,
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Default: labels only and every method that segments."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="N|0,1,2", help="How many, or which; each draws its own labeled images."),
    ] = None,
    encoder: EncoderOption = None,
    pretrained: PretrainedOption = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length of every run; phases keep their share of it.")
    ] = None,
    imgsz: CropOption = None,
    batch: BatchOption = None,
    precision: AmpOption = None,
    device: DeviceOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For all methods, or METHOD.KEY=VALUE for one."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; default: a dated one under runs/.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the comparison in --out, or the newest one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train methods on the same images, labels, encoder, steps and seeds, and write one report.

    Figures are of the last step. A run that fails does not end the others. Ctrl-C saves the current one and
    reports those that are finished.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    changes = {
        "data.partition": partition,
        "data.imgsz": None if imgsz is None else list(parse_size(imgsz)),
        "data.batch_l": batch,
        "network.encoder": encoder,
        "pretrained": pretrained,
        "precision": precision,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    chosen, numbers = _names(methods), parse_seeds(seeds or "1")

    from zoo.serve.bench.machine import describe_machine, versions
    from zoo.train.compare.plan import Request
    from zoo.train.compare.record import ComparisonFolder
    from zoo.train.compare.report import write_report
    from zoo.train.compare.run_all import Facts, newest, run_all, start
    from zoo.train.loop.engine import TrainingStoppedError

    if resume:
        if data or changes or settings or chosen or seeds or steps or device:
            raise RecipeError(
                "--resume continues a comparison as it was started: leave the other options out"
            )
        folder = ComparisonFolder(out or newest())
    else:
        request = Request(chosen, data or "shapes", numbers, tuple(settings or ()), steps, changes, device)
        command = shlex.join(["zoo", *sys.argv[1:]])
        folder = start(request, out, Facts(command, describe_machine(), versions()))
    try:
        comparison = run_all(folder)
    except TrainingStoppedError:
        so_far = folder.read()
        if so_far.finished:
            remarks.print(f"So far: {', '.join(map(str, write_report(folder, so_far)))}")
        raise
    _report(folder, comparison, as_json=as_json)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a list, or 0, 1, ... of a number; `5,` is seed 5 alone.

    Raises:
        typer.BadParameter: neither.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    is_count = "," not in text
    if not parts or not all(part.isdecimal() for part in parts) or (is_count and int(text) == 0):
        raise typer.BadParameter(
            f"{text!r} is neither a number of seeds nor a list, expected e.g. 3 or 0,1,2",
            param_hint="--seeds",
        )
    return tuple(range(int(text))) if is_count else tuple(dict.fromkeys(map(int, parts)))


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise typer.BadParameter(
            f"{text!r} names no method, expected e.g. supervised,eln", param_hint="--methods"
        )
    return names


def _report(folder: ComparisonFolder, comparison: Comparison, *, as_json: bool) -> None:
    """Write and show the report.

    Raises:
        ZooError: a run failed; what the others gave is written and shown before.
    """
    from zoo.train.compare.report import COLUMNS, QUALITY, cells, failures, write_report
    from zoo.train.compare.stats import headline, verdicts

    files = write_report(folder, comparison)
    lines, said = cells(comparison), headline(comparison)
    shown: list[Any] = [
        table(
            f"{comparison.settings['steps']} steps on {comparison.data['spec']}",
            COLUMNS[:QUALITY],
            [line[:QUALITY] for line in lines],
        ),
        table(
            "What they cost",
            (COLUMNS[0], *COLUMNS[QUALITY:]),
            [(line[0], *line[QUALITY:]) for line in lines],
        ),
        *([said] if said else []),
        *verdicts(comparison),
        f"Wrote {', '.join(map(str, files))}",
    ]
    emit(comparison.model_dump(mode="json"), *shown, as_json=as_json)
    failed = failures(comparison)
    if failed:
        raise ZooError(
            f"{len(failed)} of {len(comparison.runs)} runs gave no figures ({'; '.join(failed)}): correct "
            f"the cause and go on with zoo compare --resume --out {folder.path}"
        )
