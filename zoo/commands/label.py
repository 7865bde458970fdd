"""`zoo label`: the images to label next, with pre-annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zoo.commands.arguments import DeviceOption
from zoo.commands.compare import parse_seeds
from zoo.commands.console import AsJson, emit, table
from zoo.errors import BundleError
from zoo.machine import choose_device
from zoo.resolve import is_url, resolve_model

SHOWN = 20
STRATEGIES = ("reliability", "random", "entropy", "core-set")


def label(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] POOL",
            help="A run or bundle (default: the newest run under runs/), then a data set, whose images "
            "without masks are the candidates, or a folder or pattern of images.",
        ),
    ],
    count: Annotated[int, typer.Option(min=1, help="Number of images to choose.")] = 50,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="New folder for the list, the page and the pre-annotations.")
    ] = Path("to-label"),
    strategy: Annotated[
        Literal["reliability", "random", "entropy", "core-set"],
        typer.Option(
            help="reliability: unreliable, and unlike labeled and chosen images; core-set: unlike them; "
            "entropy: uncertain; random."
        ),
    ] = "reliability",
    score: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Output that says how reliable each pixel is; default: reliability if the model has it, "
            "or else confidence.",
        ),
    ] = None,
    labeled: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Data set with the labeled images, for a POOL of images; default: that of the run.",
        ),
    ] = None,
    partition: Annotated[
        str | None,
        typer.Option(
            metavar="full|1/8|N|FILE",
            help="Training images that count as labeled; default: those of the run, or else all with masks.",
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Choose from each group of names before a second image of one; the first group of this "
            "expression names it; `video`: names that end in a frame number.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --strategy random.")] = 0,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images per batch; default: 8, fewer if they are large.")
    ] = None,
    device: DeviceOption = None,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="Instead, compare the strategies on POOL, a data set with all masks: train, choose, train "
            "again, for --rounds and --seeds; without MODEL.",
        ),
    ] = False,
    strategies: Annotated[
        str, typer.Option(metavar="A,B", help="Strategies to simulate.")
    ] = "reliability,random,entropy,core-set",
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds to simulate, of --count images.")] = 4,
    seeds: Annotated[str, typer.Option(metavar="N|A,B", help="Seeds of the simulation.")] = "3",
    first: Annotated[
        str, typer.Option(metavar="1/16|N", help="Random labels that the simulation starts from.")
    ] = "1/16",
    target: Annotated[
        str, typer.Option(metavar="1/4|N", help="Random labels whose mIoU the simulation is to reach.")
    ] = "1/4",
    method: Annotated[str, typer.Option(help="Method that the simulation trains.")] = "supervised",
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Recipe of the simulated runs.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each simulated run.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Setting of the simulated recipe; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the images of POOL to label next, and write pre-annotations for CVAT, Label Studio and COCO.

    Labeled images, those of val, and near-duplicates are never chosen. `zoo data import` adds the corrected
    annotations to a data set.
    """
    if len(arguments) > 2:
        raise typer.BadParameter(f"got {' '.join(arguments)}, expected [MODEL] POOL", param_hint="MODEL")
    *models, pool_text = arguments
    if simulate:
        if models:
            raise typer.BadParameter("got a MODEL, expected the data set alone", param_hint="--simulate")
        options: dict[str, Any] = {
            "method": method,
            "recipe": recipe,
            "steps": steps,
            "settings": tuple(settings or ()),
        }
        options |= {"first": first, "target": target, "score": score, "groups": groups}
        options |= {"strategies": _strategies(strategies), "seeds": parse_seeds(seeds)}
        value = _simulated(out, {"spec": pool_text, "count": count, "rounds": rounds} | options, device)
        emit(value, *_curves(value, out), as_json=as_json)
        return

    from zoo.label.folder import REPORT, check_new, write_labeling
    from zoo.label.pool import Known, open_pool
    from zoo.label.session import Request, choose_images
    from zoo.train.runs.folder import RunFolder

    check_new(out)
    model = _model(models[0] if models else None)
    run = model.parent if RunFolder(model.parent).is_run else None
    pool = open_pool(pool_text, Known(run, labeled, partition), out)
    request = Request(count, strategy, score, groups, seed, batch)
    header = {"model": str(model), "pool": pool_text}
    record = write_labeling(out, *choose_images(pool, model, choose_device(device), request, header))
    emit({"out": str(out), **record}, *_shown(record, out / REPORT), as_json=as_json)


def _model(text: str | None) -> Path:
    """Return the bundle of MODEL.

    Raises:
        BundleError: a server or an exported file, which returns no features.
    """
    path = None if text is not None and is_url(text) else resolve_model(text)
    if path is None or path.is_file():
        raise BundleError(
            f"{text} is not a bundle, expected a run or bundle folder, whose encoder measures how alike "
            f"images are: choose the one that it was exported from"
        )
    return path


def _strategies(text: str) -> tuple[str, ...]:
    """Return the strategies in a list.

    Raises:
        typer.BadParameter: an unknown or duplicate strategy.
    """
    names = tuple(text.split(","))
    if not set(names) <= set(STRATEGIES) or len(set(names)) < len(names):
        raise typer.BadParameter(
            f"got {text}, expected some of {','.join(STRATEGIES)}, each once", param_hint="--strategies"
        )
    return names


def _simulated(out: Path, options: dict[str, Any], device: Literal["cpu", "cuda"] | None) -> dict[str, Any]:
    from zoo.label.simulate import Plan, simulate
    from zoo.train.loop.hardware import Hardware

    return simulate(Plan(**options), out, Hardware(device))


def _curves(value: dict[str, Any], out: Path) -> list[Any]:
    """Return the terminal output of a simulation: mean mIoU by strategy and number of labels."""
    curves = value["curves"]
    labeled = [f"{point['labeled']:.0f} labels" for point in next(iter(curves.values()))["points"]]
    rows = [
        (
            strategy,
            *(f"{point['mean']:.3f}" for point in row["points"]),
            "not reached" if row["labels_to_target"] is None else f"{row['labels_to_target']:.0f}",
        )
        for strategy, row in curves.items()
    ]
    seeds = ", ".join(map(str, value["seeds"]))
    title = f"mIoU of {value['method']} on {value['spec']}, mean over the seeds {seeds}"
    reached = f"{value['target_miou']['mean']:.3f}, of {value['target_labels']} random labels"
    return [
        table(title, ("strategy", *labeled, "labels to target"), rows),
        f"target: {reached}; intervals: {out / 'curves.html'}",
    ]


def _shown(record: dict[str, Any], report: Path) -> list[Any]:
    """Return the terminal output: the first images, what was left out, and what to do next."""
    rows = [
        (one["image"], f"{one['unreliability']:.1%}", one["nearest"] or "none")
        for one in record["images"][:SHOWN]
    ]
    columns = ("image", "expected errors", "nearest labeled or chosen image")
    shown: list[Any] = [table(f"Images to label in {report.parent}", columns, rows)]
    if more := len(record["images"]) - len(rows):
        shown.append(f"and {more:,} more: {report}")
    if record["near_duplicates"]:
        shown.append(f"left out {_counted(len(record['near_duplicates']), 'near-duplicate')}")
    if record["unreadable"]:
        shown.append(f"{_counted(len(record['unreadable']), 'image')} could not be read")
    if len(record["images"]) < record["count"]:
        shown.append(
            f"chose only {_counted(len(record['images']), 'image')} of {record['count']:,}: none is left"
        )
    return [
        *shown,
        f"see {report}; once they are annotated: zoo data import FILE DATA --images {report.parent}/images",
    ]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
