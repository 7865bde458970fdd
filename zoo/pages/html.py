"""Parts of the HTML pages that need nothing else: no other file, no host, no script. All text is escaped."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that scrolls inside the page where it is wider; the first cell of a row is its name."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(map(table_row, rows))
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def table_row(cells: Sequence[str]) -> str:
    """Return a row of a table."""
    first, *others = map(escape, cells)
    return f"<tr><th>{first}</th>{''.join(f'<td>{text}</td>' for text in others)}</tr>"


def bullets(lines: Sequence[str]) -> str:
    """Return a list, nothing if it is empty."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and values, the inside of a `<dl>`."""
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)


def embedded(path: Path, alternative: str) -> str:
    """Return a PNG as part of the page.

    Args:
        path: of the PNG.
        alternative: text for those who do not see it.
    """
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{escape(alternative)}" src="data:image/png;base64,{data}">'
