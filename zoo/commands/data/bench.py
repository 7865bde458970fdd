"""`zoo data bench`: throughput of the data loader, its cost by part, and recommended settings."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from zoo.commands.arguments import CropOption, PartitionOption, parse_size
from zoo.commands.console import AsJson, emit, table
from zoo.progress import Progress

DEFAULT_METHOD = "eln"
"""Method whose recipe is used by default, because it needs every kind of view."""


def bench(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="shapes, voc:DIR, a folder or a data.toml.")],
    imgsz: CropOption = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Labeled images per batch; the same number of unlabeled ones is added."),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(metavar="N,N,...", help="Numbers of data workers; ratios are relative to the first."),
    ] = "0,1,2",
    partition: PartitionOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.toml", help="Recipe; default: ELN's recipe for this data set."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each measurement.")] = 6.0,
    step_ms: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Duration of a training step in ms, to report whether the loader keeps up."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the loader on SPEC by number of workers and kind of cache, and recommend settings.

    Caches are measured when full, as from the second epoch of a run. The disk cache uses a temporary folder.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: workers need the cores
    counts = _parse_workers(workers)

    from zoo.data.open import open_source
    from zoo.train.profile.loader_bench import bench as measure
    from zoo.train.recipe.options import data_changes
    from zoo.train.recipe.read import default_recipe, load_recipe

    given = data_changes(spec, partition, None if imgsz is None else parse_size(imgsz), batch)
    changes = {key: value for key, value in given.items() if value is not None}
    name = recipe or default_recipe(DEFAULT_METHOD, spec)
    source = open_source(spec)
    resolved = load_recipe(name, settings or [], changes=changes)
    with ExitStack() as stack:
        bars: list[Progress] = []

        def on_round(_: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(Progress(total)))
            bars[0].advance()

        found = measure(resolved, source, counts, seconds=seconds, step_ms=step_ms, on_round=on_round)
    emit(found, *_shown(found), as_json=as_json)


def _parse_workers(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 0 or len(set(counts)) < len(counts):
        raise typer.BadParameter(
            f"got {text!r}, expected different numbers such as 0,1,2", param_hint="--workers"
        )
    return counts


def _shown(found: dict[str, Any]) -> list[Any]:
    """Return the terminal output."""
    rows = [
        (
            row["cache"],
            str(row["workers"]),
            f"{row['images_per_s']:.1f}",
            f"{min(row['each_round']):.1f} to {max(row['each_round']):.1f}",
            f"{row['ratio']:.2f}x",
            "unknown" if row["idle"] is None else f"{row['idle']:.0%}",
        )
        for row in found["variants"]
    ]
    parts = [
        (cache, *(f"{ms:.2f}" for ms in by_part.values()), f"{sum(by_part.values()):.2f}")
        for cache, by_part in found["parts"].items()
    ]
    heads = tuple(next(iter(found["parts"].values())))
    height, width = found["imgsz"]
    labeled, unlabeled = found["batch"]
    title = (
        f"Images/s of {found['data']}, batches of {labeled} + {unlabeled} at {height}x{width}, phase "
        f"{found['phase']} of {found['recipe']}, {found['cores']} cores"
    )
    return [
        table(title, ("cache", "workers", "images/s", "rounds", "ratio", "CPU idle"), rows),
        table("Processor time per image, ms", ("cache", *heads, "sum"), parts),
        *advice_lines(found["advice"], found["decoded_gb"]),
    ]


def advice_lines(advice: dict[str, Any], decoded_gb: float) -> list[str]:
    """Return the recommended settings, and whether the loader keeps up with the step."""
    settings = f"--set data.workers={advice['workers']} --set data.cache={advice['cache']}"
    lines = [f"All images decoded: {decoded_gb:.2f} GB."]
    if not advice["memory_holds_all"]:
        lines.append("They do not fit in half of the free memory: the memory cache is not recommended.")
    if advice["feeds"] is None:
        return [*lines, f"Recommended: {settings} ({advice['images_per_s']:.0f} images/s)."]
    rates = f"{advice['images_per_s']:.0f} images/s, the step needs {advice['need']:.0f}"
    if advice["feeds"]:
        return [*lines, f"Recommended: {settings} ({rates})."]
    idle = 1 - advice["images_per_s"] / advice["need"]
    waiting = f": the step would wait {idle:.0%} of its time" if idle > 0 else ", which is too close"
    return [*lines, f"No measured setting keeps up with the step. Nearest: {settings} ({rates}){waiting}."]
