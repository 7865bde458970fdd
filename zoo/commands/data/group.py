"""`zoo data`: commands for images and masks before training."""

from __future__ import annotations

import typer

from zoo.commands.data.bench import bench
from zoo.commands.data.check import check
from zoo.commands.data.import_annotations import import_annotations
from zoo.commands.data.prepare import prepare
from zoo.commands.data.split import split

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Prepare, check and split images and masks before training, import annotations, and measure how "
    "fast images load.",
)
app.command()(check)
app.command()(split)
app.command()(bench)
app.command()(prepare)
app.command("import")(import_annotations)
