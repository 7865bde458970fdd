"""Files of a folder tree: one rule for training, checks, predictions, splits and benchmarks.

Hidden folders are not entered. Linked folders are entered once, after the real ones; a link to a folder
that was entered already, or to one above the root, is not.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

HIDDEN_FOLDERS = frozenset(
    {"@eadir", "#recycle", "#snapshot", "$recycle.bin", "lost+found", "system volume information"}
)
"""Folders of file managers and network storage, in lower case, with copies, thumbnails and deleted files."""

JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
"""Files and folders of file managers, in lower case, which are skipped without being reported."""


class Tree(NamedTuple):
    """Files found in a folder tree, and what was skipped."""

    files: list[Path]
    """Files with a wanted suffix, sorted."""
    others: list[Path]
    """Files with another suffix, sorted; without hidden files."""
    hidden: list[Path]
    """Hidden folders."""
    again: list[Path]
    """Links to folders that were entered already or lie above."""

    def skipped(self) -> str:
        """Return what was skipped in words, by reason; empty if nothing was."""
        suffixes = Counter(path.suffix.lower() or "no suffix" for path in self.others)
        reasons = (
            (len(self.hidden), "hidden folder", sorted({path.name for path in self.hidden})),
            (len(self.again), "link to a folder listed already", sorted({path.name for path in self.again})),
            (len(self.others), "file of another kind", [name for name, _ in suffixes.most_common()]),
        )
        return ", ".join(
            f"{count} {_plural(what, count)} ({', '.join(names[:4])}{', ...' * (len(names) > 4)})"
            for count, what, names in reasons
            if count
        )


def walk(root: Path, suffixes: Collection[str], is_excluded: Callable[[str], bool] = lambda _: False) -> Tree:
    """Return the files of a folder tree; of a missing folder none.

    Args:
        root: folder, or a link to one.
        suffixes: wanted suffixes, in lower case.
        is_excluded: whether a folder, given by its path, is left out without being reported.
    """
    tree = Tree([], [], [], [])
    entered: set[str] = set()
    real = os.path.realpath(root)
    above = set(map(str, Path(real).parents))
    waiting = [(str(root), real)]
    while waiting:
        links: list[tuple[str, str]] = []
        for path, real in waiting:
            if real in entered or real in above:
                tree.again.append(Path(path))
            else:
                links += _enter(path, suffixes, is_excluded, tree, entered)
        waiting = sorted(links)
    for paths in tree:
        paths.sort(key=lambda path: str(path).replace(os.sep, "\0"))  # by parts, as paths compare, but faster
    return tree


def _enter(
    top: str, suffixes: Collection[str], is_excluded: Callable[[str], bool], tree: Tree, entered: set[str]
) -> Iterator[tuple[str, str]]:
    """Add the files below a folder to a tree; yield each link to a folder, and where it leads."""
    for parent, folders, names in os.walk(top):
        entered.add(os.path.realpath(parent))
        inner = []
        for name in sorted(set(folders) - _junk(folders)):
            path = os.path.join(parent, name)  # noqa: PTH118 - of 100,000 names
            real = os.path.realpath(path)
            if is_hidden_folder(name):
                tree.hidden.append(Path(path))
            elif os.path.islink(path) and not is_excluded(path):  # noqa: PTH114
                yield path, real
            elif real in entered:
                tree.again.append(Path(path))
            elif not is_excluded(path):
                inner.append(name)
        folders[:] = inner
        _add_files(Path(parent), names, suffixes, tree)


def _add_files(folder: Path, names: list[str], suffixes: Collection[str], tree: Tree) -> None:
    """Add the files of a folder to a tree."""
    listed = set(names) - _junk(names) - {name for name in names if name.startswith(".")}
    special = _special(folder)
    for path in folder.iterdir():  # makes paths faster than `folder / name`
        if path.name in listed:
            is_wanted = os.path.splitext(path.name)[1].lower() in suffixes and path.name not in special  # noqa: PTH122
            (tree.files if is_wanted else tree.others).append(path)


def _special(folder: Path) -> set[str]:
    """Return the names of pipes, sockets and devices, of which reading may never end."""
    with os.scandir(folder) as entries:
        return {
            entry.name
            for entry in entries
            if not (entry.is_file() or entry.is_dir()) and os.path.exists(entry.path)  # noqa: PTH110 - of 100,000 names
        }


def _junk(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.lower() in JUNK}


def is_hidden_folder(name: str) -> bool:
    """Return whether a folder of this name is not entered."""
    return name.startswith(".") or name.lower() in HIDDEN_FOLDERS


def by_stem(root: Path, paths: Collection[Path]) -> dict[str, list[Path]]:
    """Return files by their path relative to a folder, without suffix, sorted."""
    found: dict[str, list[Path]] = defaultdict(list)
    above = len(os.path.join(root, "")) if root != Path() else 0  # noqa: PTH118
    for path in paths:
        relative = str(path)[above:]  # faster than pathlib, for 100,000 files
        found[os.path.splitext(relative)[0].replace(os.sep, "/")].append(path)  # noqa: PTH122
    return dict(sorted(found.items()))


def files_by_stem(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Return the files in a folder tree by relative path without suffix, sorted; of several the first."""
    return {stem: paths[0] for stem, paths in by_stem(folder, walk(folder, suffixes).files).items()}


def _plural(what: str, count: int) -> str:
    head, space, rest = what.partition(" of " if " of " in what else " to ")
    return f"{head}{'s' * (count > 1)}{space}{rest}"
