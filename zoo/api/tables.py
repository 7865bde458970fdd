"""Tables of results, as text and as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape


class Table(NamedTuple):
    """A table with a title, which a notebook shows as HTML."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        from zoo.card.tables import markdown_table

        return "\n".join([self.title, "", *markdown_table(self.columns, self.rows)])

    def _repr_html_(self) -> str:
        head = Markup("").join(Markup("<th>{}</th>").format(each) for each in self.columns)
        lines = (
            Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row))
            for row in self.rows
        )
        body = Markup("").join(lines)
        return str(
            Markup("<table><caption>{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(
                escape(self.title), head, body
            )
        )


class Shown:
    """Result that is printed, and shown in a notebook, as its tables."""

    @property
    def tables(self) -> Sequence[Table]:
        """Return the tables of the result."""
        raise NotImplementedError

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.tables))

    def _repr_html_(self) -> str:
        return "".join(each._repr_html_() for each in self.tables)
