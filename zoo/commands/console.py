"""Output of commands: results on standard output (text or `--json`), remarks on standard error.

Rich is loaded on first use: `zoo --help` starts without it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.progress import stderr_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status
    from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace files in DIR that have the same names but were not written by zoo."
    ),
]

PIPE_WIDTH = 1000


class Remarks:
    """Messages of running commands on standard error."""

    @property
    def console(self) -> Console:
        """Return the console of standard error."""
        return stderr_console()

    def print(self, text: str) -> None:
        """Print a remark."""
        self.console.print(text, markup=False)

    def status(self, text: str) -> Status:
        """Return a context that shows a status line; `update` changes it."""
        return self.console.status(text)


remarks = Remarks()


class LogHandler(logging.Handler):
    """Log handler that prints to standard error, above the progress bar if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of a record."""
        remarks.print(self.format(record))


def log_to_stderr() -> None:
    """Show log messages of `zoo` from level INFO and of other libraries from level WARNING."""
    zoo = logging.getLogger("zoo")
    zoo.setLevel(logging.INFO)
    if not any(isinstance(handler, LogHandler) for handler in zoo.handlers):
        zoo.addHandler(LogHandler())
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    logging.getLogger("timm.models._builder").setLevel(logging.ERROR)  # names each tensor without a use


def emit(value: object, *renderables: object, as_json: bool) -> None:
    """Print a result.

    Args:
        value: result to print as JSON.
        renderables: strings and Rich renderables to print otherwise, one below the other.
        as_json: whether to print `value`.
    """
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
        return
    from rich.console import Console

    # paths and class names may contain brackets; files and pipes have no width limit
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    for renderable in renderables:
        console.print(renderable, soft_wrap=isinstance(renderable, str))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table with a left-aligned first column and right-aligned others."""
    from rich.table import Table

    result = Table(
        title=title, title_justify="left", min_width=len(title)
    )  # the title would wrap at the table's width
    for index, column in enumerate(columns):
        first = index == 0
        result.add_column(column, justify="left" if first else "right", no_wrap=first, overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result
