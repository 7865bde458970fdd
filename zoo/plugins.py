"""Tables of what can be named on the command line: built-in rows, and rows of other packages by entry points.

Another package adds a row without touching this one, in its `pyproject.toml`:

    [project.entry-points."zoo.methods"]
    toy = "toy_package.method:ROW"

The groups are `zoo.methods`, `zoo.encoders`, `zoo.decoders`, `zoo.outputs`, `zoo.backends`. A row is loaded
when it is first asked for.
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
        group: of the entry points that add rows, e.g. `zoo.methods`.
        kind: type of the rows.
        rows: the built-in ones.
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
            KeyError: no such row.
            PluginError: a row of another package that cannot be loaded.
        """
        if name in self._rows:
            return self._rows[name]
        entry = self._entries()[name]
        if entry not in self._loaded:
            self._loaded[entry] = self._load(entry)
        return self._loaded[entry]

    def __iter__(self) -> Iterator[str]:
        """Return the names, the built-in ones first."""
        return iter(dict.fromkeys([*self._rows, *self._entries()]))

    @property
    def built_in(self) -> tuple[str, ...]:
        """Return the names of the rows of this process, for help texts: entry points take time to find."""
        return tuple(self._rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(list(iter(self)))

    def near(self, name: str) -> str:
        """Return the names to suggest for an unknown one: similar ones, or all."""
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
    """Return the entry points of a group by name, read again when `sys.path` changes: reading is slow."""
    from importlib import metadata

    return {entry.name: entry for entry in metadata.entry_points(group=group)}
