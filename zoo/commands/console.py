"""What commands print: a result on standard output (text or `--json`), remarks on standard error.

Rich is loaded when something is printed: `zoo --help` starts without it.
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
    typer.Option("--overwrite", help="Replace files of the same names in DIR that zoo did not write."),
]

PIPE_WIDTH = 1000


class Remarks:
    """What commands say on standard error while they work."""

    @property
    def console(self) -> Console:
        """Return the console of standard error."""
        return stderr_console()

    def print(self, text: str) -> None:
        """Print a remark."""
        self.console.print(text, markup=False)

    def status(self, text: str) -> Status:
        """Return a context in which a line that `update` changes says what is going on."""
        return self.console.status(text)


remarks = Remarks()


class LogHandler(logging.Handler):
    """Prints log messages on standard error, above a progress bar if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of a record."""
        remarks.print(self.format(record))


def log_to_stderr() -> None:
    """Show the messages of `zoo` from INFO on, and of other libraries from WARNING on."""
    zoo = logging.getLogger("zoo")
    zoo.setLevel(logging.INFO)
    if not any(isinstance(handler, LogHandler) for handler in zoo.handlers):
        zoo.addHandler(LogHandler())
    logging.getLogger("lightning").setLevel(logging.ERROR)
    logging.getLogger("timm.models._builder").setLevel(logging.ERROR)  # names each tensor without a use


def emit(value: object, *renderables: object, as_json: bool) -> None:
    """Print a result.

    Args:
        value: what `--json` prints.
        renderables: what a person sees instead: strings and rich renderables, one below the other.
        as_json: which of the two.
    """
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
        return
    from rich.console import Console

    # paths and class names may hold brackets; a file or a pipe is as wide as it takes
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    for renderable in renderables:
        console.print(renderable, soft_wrap=isinstance(renderable, str))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table; the first column is left-aligned, the others right."""
    from rich.table import Table

    result = Table(title=title, title_justify="left", min_width=len(title))  # a title wraps at the width
    for index, column in enumerate(columns):
        first = index == 0
        result.add_column(column, justify="left" if first else "right", no_wrap=first, overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result
