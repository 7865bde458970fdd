"""`zoo data`: the commands about images and masks before any training."""

from __future__ import annotations

import typer

from zoo.commands.data_check import check

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Check a folder of images and masks before training."
)
app.command()(check)
