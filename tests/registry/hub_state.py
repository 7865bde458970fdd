"""What the Hub on loopback knows: repositories and their commits, and how it is to misbehave."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LFS_SUFFIXES = (".safetensors", ".onnx", ".png")


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """One model repository: the files of every commit, branches and tags."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    proposals: int = 0

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        listing = sorted((name, git_oid(data)) for name, data in files.items())
        text = json.dumps([listing, self.branches.get(branch), len(self.commits)])
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        known = {**self.branches, **self.tags, **{oid: oid for oid in self.commits}}
        return known.get(revision)


@dataclass
class Hub:
    """What the server knows, and how it is to misbehave."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    token: str | None = None
    """What every request must bear, if any."""
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers with a large file break off, one entry each."""
    stripped: set[str] = field(default_factory=set)
    """Headers that a proxy removes, in lower case."""
    bytes_per_second: float | None = None
    status: int | None = None
    """Of every answer, in place of the right one."""
    before_commit: Callable[[], object] = lambda: None
    """Called when a commit has arrived and is not yet looked at."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and range of what was asked."""
    leaked: bool = False
    """Whether a token was sent where it must not go."""
    url: str = ""

    @property
    def files_url(self) -> str:
        """Return the address of large files: another host, as the client expects."""
        return self.url.replace("127.0.0.1", "localhost")

    def add(self, name: str, files: dict[str, bytes]) -> str:
        """Put files into a repository and return the commit."""
        return self.repositories.setdefault(name, Repository()).commit(files)

    def fetched(self) -> list[str]:
        """Return the paths of the files that were downloaded."""
        return [path for method, path, _ in self.requests if method == "GET" and "/api/" not in path]
