"""Tables of methods, encoders, decoders, outputs and backends, which other packages extend by entry points.

Another package adds a row in its `pyproject.toml`:

    [project.entry-points."zoo.methods"]
    toy = "toy_package.method:ROW"

The groups are `zoo.methods`, `zoo.encoders`, `zoo.decoders`, `zoo.outputs` and `zoo.backends`. Rows are
loaded on first use.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, TypeVar

from zoo.errors import PluginError

if TYPE_CHECKING:
    from importlib import metadata

Row = TypeVar("Row")


class Table(MutableMapping[str, Row], Generic[Row]):
    """A mapping from names to rows.

    Args:
        group: group of the entry points that add rows, e.g. `zoo.methods`.
        kind: type of the rows.
        rows: built-in rows by name.
    """

    def __init__(self, group: str, kind: type[Row], rows: Mapping[str, Row]) -> None:
        self.group, self.kind = group, kind
        self._rows = dict(rows)
        self._loaded: dict[metadata.EntryPoint, Row] = {}

    def __setitem__(self, name: str, row: Row) -> None:
        """Add a row to the table of this process, or replace it."""
        self._rows[name] = row

    def __delitem__(self, name: str) -> None:
        """Remove a row from the table of this process."""
        del self._rows[name]

    def __getitem__(self, name: str) -> Row:
        """Return a row.

        Raises:
            KeyError: the table has no such row.
            PluginError: the row of another package cannot be loaded.
        """
        if name in self._rows:
            return self._rows[name]
        entry = self._entries()[name]
        if entry not in self._loaded:
            self._loaded[entry] = self._load(entry)
        return self._loaded[entry]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, built-in ones first."""
        return iter(dict.fromkeys([*self._rows, *self._entries()]))

    @property
    def built_in(self) -> tuple[str, ...]:
        """Return the names of the rows of this process, without searching entry points, which is slow."""
        return tuple(self._rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(list(iter(self)))

    def near(self, name: str) -> str:
        """Return the names to suggest for an unknown one: the similar names, or all."""
        return ", ".join(get_close_matches(name, self) or self)

    def _entries(self) -> Mapping[str, metadata.EntryPoint]:
        return _entry_points(self.group, tuple(sys.path))

    def _load(self, entry: metadata.EntryPoint) -> Row:
        """Return the row that an entry point names."""
        try:
            row = entry.load()
        except Exception as error:
            raise PluginError(
                f"{entry.name} ({entry.value}, entry point of {self.group}) cannot be loaded: "
                f"{type(error).__name__}: {error}; fix or uninstall the package that adds it"
            ) from error
        if not isinstance(row, self.kind):
            raise PluginError(
                f"{entry.name} ({entry.value}, entry point of {self.group}) is a {type(row).__name__}, "
                f"expected a {self.kind.__name__}"
            )
        return row


@lru_cache(maxsize=64)
def _entry_points(group: str, path: tuple[str, ...]) -> Mapping[str, metadata.EntryPoint]:  # noqa: ARG001
    """Return the entry points of a group by name, cached until `sys.path` changes."""
    from importlib import metadata

    return {entry.name: entry for entry in metadata.entry_points(group=group)}
