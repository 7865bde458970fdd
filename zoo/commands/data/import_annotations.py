"""`zoo data import`: masks from annotation files of CVAT, Label Studio or COCO."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from zoo.commands.console import AsJson, emit, remarks, table

SHOWN = 3
"""Number of images named in a line."""
DONE = {"moved": "moved from unlabeled", "copied": "copied", "kept": "in train already"}


def import_annotations(
    annotations: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Annotations: XML of CVAT (CVAT for images 1.1), JSON of Label Studio, or JSON of COCO.",
        ),
    ],
    spec: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="The data set: a folder or its data.toml, which names the classes if it is new.",
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the annotated images that are not in unlabeled/ of DATA."
        ),
    ] = None,
    predictions: Annotated[
        bool,
        typer.Option(
            "--predictions", help="Take predictions of Label Studio that no one submitted as annotations."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace masks of images that have others.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add annotated images to the training images of DATA, with masks drawn from FILE.

    Images in unlabeled/ are moved to train/images, others are copied. Pixels that no region covers are of the
    class background if DATA has it, and otherwise ignored; a region labeled ignore is ignored.
    """
    from zoo.data.annotations import Options
    from zoo.data.annotations import import_annotations as run
    from zoo.data.formats.regions import Labels

    with remarks.status("drawing masks"):
        names, found = run(annotations, spec, Options(images, predictions, overwrite))
    shown = Counter(label for one in found for label in one.labels)
    counts = {name: shown[label] for label, name in enumerate(names)}
    value = {
        "data": spec,
        "annotations": str(annotations),
        "images": [
            {"image": str(one.image), "mask": str(one.mask), "from": str(one.source), "action": one.action}
            for one in found
        ],
        "classes": counts,
    }
    actions = Counter(one.action for one in found)
    done = ", ".join(f"{count} {DONE[action]}" for action, count in actions.items())
    rows = [(name, str(count)) for name, count in counts.items()]
    bare = [str(one.image) for one in found if not set(one.labels) - {Labels(names).blank}]
    emit(
        value,
        table(f"Masks added to {spec}", ("class", "images"), rows),
        f"{len(found)} image{'s' * (len(found) != 1)}: {done}",
        *_without_regions(bare),
        f"use them: zoo train eln --from RUN --data {spec}",
        as_json=as_json,
    )


def _without_regions(images: list[str]) -> list[str]:
    """Return a line about images whose masks show no class but the background: they may not be annotated."""
    if not images:
        return []
    named = ", ".join(images[:SHOWN]) + ", ..." * (len(images) > SHOWN)
    remedy = "move those that are not annotated yet back to unlabeled/, and remove their masks"
    return [f"{len(images)} without a region of a class ({named}): {remedy}"]
