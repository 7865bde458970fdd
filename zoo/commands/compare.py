"""`zoo compare`: methods side by side on the user's images."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.api.compare import compare as run_comparison
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
from zoo.commands.console import AsJson, emit, table
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.api.compare import CompareResult


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
    chosen = _names(methods)
    numbers = None if seeds is None else parse_seeds(seeds)
    if until_clear is not None and numbers is not None and not 2 <= len(numbers) <= until_clear:
        raise typer.BadParameter(
            f"got {until_clear} with --seeds {seeds}, expected two seeds or more, and N no less",
            param_hint="--until-clear",
        )
    result = run_comparison(
        data,
        methods=chosen,
        partition=partition,
        seeds=numbers,
        encoder=encoder,
        pretrained=pretrained,
        steps=steps,
        imgsz=None if imgsz is None else parse_size(imgsz),
        batch=batch,
        precision=precision,
        device=device,
        warm_steps=warm_steps,
        controls=controls,
        own_recipes=own_recipes,
        until_clear=until_clear,
        jobs=jobs,
        settings=settings or (),
        out=out,
        resume=resume,
    )
    _report(result, as_json=as_json)


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


def _report(result: CompareResult, *, as_json: bool) -> None:
    """Show the figures.

    Raises:
        ZooError: a run failed; what the others gave is shown before.
    """
    comparison = result.comparison
    shown = [table(*each) for each in result.tables]
    wrote = f"Wrote {', '.join(map(str, result.files))}"
    emit(comparison.model_dump(mode="json"), *shown, *result.verdicts, wrote, as_json=as_json)
    if failed := result.failures:
        raise ZooError(
            f"{len(failed)} of {len(comparison.runs)} runs gave no figures ({'; '.join(failed)}): correct "
            f"the cause and go on with zoo compare --resume --out {quote(str(result.path))}"
        )
