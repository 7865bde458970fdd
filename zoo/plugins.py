"""Tables of what can be named on the command line: built-in rows, and rows of other packages by entry points.

Another package adds a row without touching this one, in its `pyproject.toml`:

    [project.entry-points."zoo.methods"]
    toy = "toy_package.method:ROW"

The groups are `zoo.methods`, `zoo.encoders`, `zoo.decoders`, `zoo.outputs`, `zoo.backends`. A row is loaded
when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Generic, TypeVar

from zoo.errors import PluginError

if TYPE_CHECKING:
    from importlib import metadata

Row = TypeVar("Row")


class Table(Mapping[str, Row], Generic[Row]):
    """A mapping from names to rows.

    Args:
        group: of the entry points that add rows, e.g. `zoo.methods`.
        kind: type of the rows.
        rows: the built-in ones.
    """

    def __init__(self, group: str, kind: type[Row], rows: Mapping[str, Row]) -> None:
        self.group, self.kind = group, kind
        self._rows = dict(rows)

    def add(self, name: str, row: Row) -> None:
        """Add a row to the table of this process, or replace it."""
        self._rows[name] = row

    def __getitem__(self, name: str) -> Row:
        """Return a row.

        Raises:
            KeyError: no such row.
            PluginError: a row of another package that cannot be loaded.
        """
        if name not in self._rows:
            for entry in self._entries():
                if entry.name == name:
                    self._rows[name] = self._load(entry)
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names, the built-in ones first."""
        return iter(dict.fromkeys([*self._rows, *(entry.name for entry in self._entries())]))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(list(iter(self)))

    def near(self, name: str) -> str:
        """Return the names to suggest for an unknown one: similar ones, or all."""
        return ", ".join(get_close_matches(name, self) or self)

    def _entries(self) -> list[metadata.EntryPoint]:
        from importlib import metadata

        return list(metadata.entry_points(group=self.group))

    def _load(self, entry: metadata.EntryPoint) -> Row:
        """Return the row that an entry point names."""
        try:
            row = entry.load()
        except Exception as error:
            raise PluginError(
                f"{entry.name} ({entry.value}, entry point of {self.group}) cannot be loaded: "
                f"{type(error).__name__}: {error}; mend or uninstall the package that adds it"
            ) from error
        if not isinstance(row, self.kind):
            raise PluginError(
                f"{entry.name} ({entry.value}, entry point of {self.group}) is a {type(row).__name__}, "
                f"expected a {self.kind.__name__}"
            )
        return row
