"""Results of reading a whole data set, kept for later starts while none of its files changes.

A memo is a file in the user's cache folder, one for each path of a data set. Its key is a hash of the version
of `zoo`, the description, and path, size and times of every file, so that a memo never goes stale. The folder
may be removed at any time. Small data sets are read anew each time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from zoo import __version__
from zoo.bundle.bundle import write_text
from zoo.machine import cache_home

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

FORMAT = 1
FEWEST, LEAST_BYTES = 500, 2**26
"""Numbers of files and of bytes from which results are kept."""
SHARE = 2**12
"""Number of files whose times one thread reads at once."""


class Memo:
    """Results about a data set in its present state.

    Args:
        spec: spec of the data set.
        description: all that the results depend on beside the files.
        paths: every file of the data set.
    """

    def __init__(self, spec: str, description: str, paths: Iterable[str]) -> None:
        every = list(paths)
        parts = [every[begin : begin + SHARE] for begin in range(0, len(every), SHARE)]
        digest = hashlib.blake2b(f"{FORMAT} {__version__} {description}".encode(), digest_size=16)
        total = 0
        with ThreadPoolExecutor() as pool:
            for text, size in pool.map(_stamps, parts):
                digest.update(text)
                total += size
        name = hashlib.blake2b(os.path.abspath(spec).encode(), digest_size=8).hexdigest()  # noqa: PTH100
        self.path = (
            cache_home() / "data" / f"{name}.json" if len(every) >= FEWEST or total >= LEAST_BYTES else None
        )
        self._key = digest.hexdigest()
        self._found = self._read()

    def __getitem__(self, name: str) -> Any:
        """Return an earlier result, or None."""
        return self._found.get(name)

    def __setitem__(self, name: str, value: Any) -> None:
        """Keep a result of JSON values; a folder that cannot be written is logged."""
        if self.path is None:
            return
        self._found[name] = value
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps({"key": self._key, "found": self._found}))
        except OSError as error:
            log.info("%s: not written (%s): the next start reads every file again", self.path, error.strerror)

    def _read(self) -> dict[str, Any]:
        """Return the earlier results about the present state; empty if there are none."""
        try:
            content = json.loads(self.path.read_bytes()) if self.path else {}
            return dict(content["found"]) if content.get("key") == self._key else {}
        except (OSError, ValueError, KeyError, AttributeError):
            return {}


def _stamps(paths: list[str]) -> tuple[bytes, int]:
    """Return paths, sizes and times of files as text, and their total size; of missing files only paths."""
    lines, total = [], 0
    for path in paths:
        try:
            found = os.stat(path)  # noqa: PTH116 - of 100,000 files
        except OSError:
            lines.append(path)
            continue
        total += found.st_size
        lines.append(f"{path}\0{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")
    return "\0".join(lines).encode(errors="surrogateescape"), total
