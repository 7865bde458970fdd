"""What commands print: a result on standard output (text or `--json`), remarks on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

remarks = Console(stderr=True, soft_wrap=True, highlight=False)


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
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    for renderable in renderables:
        console.print(renderable)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table; the first column is left-aligned, the others right."""
    result = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        result.add_row(*row)
    return result
