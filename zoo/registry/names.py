"""Names of bundles: `owner/name[@revision]` on the Hub, `file:DIR/name[@revision]` in a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

from zoo.errors import RegistryError

FOLDER_PREFIX = "file:"

PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
"""Pattern of an owner or a name, valid on the Hub and safe as the name of a folder."""

REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")
"""A commit, a branch or a tag."""

EXPECTED = "expected owner/name or file:DIR/name, with @revision if it is not to be the newest"


class Name(NamedTuple):
    """A bundle in a registry."""

    registry: Literal["hub", "file"]
    path: str
    """`owner/name` on the Hub, `name` in a folder."""
    root: Path | None = None
    """The folder of a `file` registry."""
    revision: str | None = None
    """None for the newest revision."""

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{self.model}{revision}"

    @property
    def model(self) -> str:
        """Return the text of the name without its revision."""
        return self.path if self.root is None else f"{FOLDER_PREFIX}{(self.root / self.path).as_posix()}"


def parse_name(text: str) -> Name:
    """Return the parsed name, without accessing the registry.

    Raises:
        RegistryError: an invalid name.
    """
    model, at, revision = text.partition("@") if not text.startswith(FOLDER_PREFIX) else text.rpartition("@")
    if not at:  # rpartition leaves the text in its last part
        model, revision = text, ""
    if at and not (REVISION.fullmatch(revision) and ".." not in revision):
        raise RegistryError(f"{text!r} has the revision {revision!r}, expected a commit, a branch or a tag")
    if model.startswith(FOLDER_PREFIX):
        return _folder_name(text, Path(model.removeprefix(FOLDER_PREFIX)), revision or None)
    parts = model.split("/")
    if len(parts) != 2 or not all(map(_is_part, parts)):
        raise RegistryError(f"{text!r} is not the name of a model, {EXPECTED}")
    return Name("hub", model, revision=revision or None)


def _folder_name(text: str, folder: Path, revision: str | None) -> Name:
    if not _is_part(folder.name):
        raise RegistryError(f"{text!r} does not name a model in a folder, {EXPECTED}")
    return Name("file", folder.name, folder.expanduser().parent, revision)


def _is_part(text: str) -> bool:
    return bool(PART.fullmatch(text)) and ".." not in text and "--" not in text
