"""The command line. Commands import what is heavy when they run: `zoo --help` loads no torch."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from zoo import __version__
from zoo.commands.benchmark import benchmark
from zoo.commands.calibrate import calibrate
from zoo.commands.catalog import info, list_models
from zoo.commands.compare import compare
from zoo.commands.console import log_to_stderr
from zoo.commands.data.group import app as data_app
from zoo.commands.doctor import doctor
from zoo.commands.evaluate import evaluate
from zoo.commands.export import export
from zoo.commands.label import label
from zoo.commands.load_test import load_test
from zoo.commands.predict import predict
from zoo.commands.pull import pull
from zoo.commands.push import push
from zoo.commands.runs import report, runs
from zoo.commands.serve import serve
from zoo.commands.train import train
from zoo.errors import ZooError, without_library
from zoo.faults import fault_line


class Commands(TyperGroup):
    """Command group whose usage errors say what was got, without pydantic's prefix."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = without_library(error.message)
            if errors := getattr(error.__cause__ or error.__context__, "errors", None):  # of pydantic
                error.message = f"got {errors()[0]['input']!r}: {error.message}"
            raise


app = typer.Typer(
    name="zoo",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Semi-supervised semantic segmentation: train on few masks, export, benchmark, serve.",
)
app.command()(train)
app.command()(compare)
app.command()(runs)
app.command()(report)
app.command()(evaluate)
app.command()(calibrate)
app.command()(predict)
app.command()(label)
app.command()(export)
app.command("bench")(benchmark)
app.command("benchmark", hidden=True)(benchmark)
app.command()(serve)
app.command("load-test")(load_test)
app.command()(pull)
app.command()(push)
app.command("list")(list_models)
app.command()(info)
app.command()(doctor)
app.add_typer(data_app, name="data")


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"zoo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[  # noqa: ARG001 - handled by the callback
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Apply the options that all commands share."""
    log_to_stderr()
    if debug:
        os.environ["ZOO_DEBUG"] = "1"


def main() -> None:
    """Run the command line; a `ZooError` or a full disk or memory becomes one line on stderr, exit code 1."""
    try:
        app()
    except Exception as error:
        line = str(error) if isinstance(error, ZooError) else fault_line(error)
        if line is None or os.environ.get("ZOO_DEBUG"):
            raise
        sys.exit(f"error: {line}")
