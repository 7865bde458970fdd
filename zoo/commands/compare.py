"""`zoo compare`: methods side by side on the user's images."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from shlex import quote
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
        typer.Option(
            metavar="N|0,1,2",
            help="How many, or which; each draws its own labeled images. Default: 1, with --until-clear 3.",
        ),
    ] = None,
    encoder: EncoderOption = None,
    pretrained: PretrainedOption = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of every row, warm start included; phases keep their share."),
    ] = None,
    imgsz: CropOption = None,
    batch: BatchOption = None,
    precision: AmpOption = None,
    device: DeviceOption = None,
    warm_steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Steps on labels alone, once a seed, that every row continues; part of --steps. Default: "
            "the longest share in a method's recipe for these data. 0: every row starts anew.",
        ),
    ] = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls/--no-controls",
            help="Rows for labels only with strong augmentation, for two averaged labels-only networks "
            "beside rrn, and for every network of a method (teacher, branches).",
        ),
    ] = True,
    own_recipes: Annotated[
        bool,
        typer.Option(
            "--own-recipes",
            help="Keep optimizer, schedule, batch and network of each method's recipe; no shared warm start.",
        ),
    ] = False,
    until_clear: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Add seeds, up to N in all, until the gain of every method is clear; widens the intervals.",
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(min=1, help="Runs side by side; they share the cores. Also with --resume."),
    ] = 1,
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
    """Train methods under the same conditions and write one report.

    All rows share images, labels, network, optimizer, batch, steps and, for each seed, a warm start on labels
    alone. Figures are those of the last step. A failed run does not end the others. Ctrl-C saves the current
    runs and reports those that are finished.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    changes = {
        "data.partition": partition,
        "data.imgsz": None if imgsz is None else list(parse_size(imgsz)),
        "data.batch_l": batch,
        "data.batch_u": batch,
        "network.encoder": encoder,
        "pretrained": pretrained,
        "precision": precision,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    chosen, numbers = _names(methods), parse_seeds(seeds or ("1" if until_clear is None else "3"))
    if until_clear is not None and not 2 <= len(numbers) <= until_clear:
        raise typer.BadParameter(
            f"got {until_clear} with --seeds {seeds}, expected two seeds or more, and N no less",
            param_hint="--until-clear",
        )

    from zoo.serve.bench.machine import describe_machine, versions
    from zoo.train.compare.record import ComparisonFolder
    from zoo.train.compare.report import write_report
    from zoo.train.compare.run_all import Facts, newest, run_all, start
    from zoo.train.compare.shared import Request
    from zoo.train.loop.engine import TrainingStoppedError

    if resume:
        planned = (changes, settings, chosen, seeds, steps, device, until_clear, own_recipes, not controls)
        if data or any(planned) or warm_steps is not None:
            raise RecipeError(
                "--resume continues a comparison as it was started: leave the other options out"
            )
        folder = ComparisonFolder(out or newest())
    else:
        request = Request(
            chosen,
            data or "shapes",
            numbers,
            tuple(settings or ()),
            steps,
            changes,
            device,
            warm_steps=warm_steps,
            own_recipes=own_recipes,
            controls=controls,
            until_clear=until_clear,
        )
        command = shlex.join(["zoo", *sys.argv[1:]])
        folder = start(request, out, Facts(command, describe_machine(), versions()))
    try:
        comparison = run_all(folder, jobs)
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


def _steps(comparison: Comparison) -> str:
    """Return how many steps a row has, as those of its warm start and its own."""
    own = str(comparison.settings["steps"])
    return f"{comparison.warm_steps} + {own}" if comparison.warm_steps else own


def _report(folder: ComparisonFolder, comparison: Comparison, *, as_json: bool) -> None:
    """Write and show the report.

    Raises:
        ZooError: a run failed; what the others gave is written and shown before.
    """
    from zoo.train.compare.report import QUALITY, cells, failures, heads, write_report
    from zoo.train.compare.stats import headline, verdicts

    files = write_report(folder, comparison)
    head, lines, said = heads(comparison), cells(comparison), headline(comparison)
    shown: list[Any] = [
        table(
            f"{_steps(comparison)} steps on {comparison.data['spec']}",
            head[:QUALITY],
            [line[:QUALITY] for line in lines],
        ),
        table(
            "What they cost",
            (head[0], *head[QUALITY:]),
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
            f"the cause and go on with zoo compare --resume --out {quote(str(folder.path))}"
        )
