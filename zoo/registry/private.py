"""Paths of this machine in what is pushed: they tell who works where, and nobody else can use them."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import write_json

if TYPE_CHECKING:
    from pathlib import Path

PART = r"""[^\s"'`,;:()/\\]+"""
PATH = re.compile(
    rf"""(?:^|(?<=[\s"'`=:(,]))(?:~?(?:/{PART}){{2,}}|[A-Za-z]:(?:[/\\]{PART})+)[/\\]?""", re.ASCII
)
"""An absolute path in a text: after a space, a quote or a sign, so that no URL and no fraction is one."""

WHOLE = re.compile(r"(?P<scheme>[a-z][a-z0-9-]+:)?(?P<path>~?/.*|[A-Za-z]:[/\\].*)", re.DOTALL)
"""A text that is a path and nothing else, with the spaces it may have; `voc:` and the like before it."""


def remove_paths(path: Path) -> None:
    """Leave the last name of each absolute path in a file of JSON or Markdown; others are left as they are.

    Args:
        path: of the file; written only if there is something to remove.
    """
    if path.suffix == ".json":
        value = json.loads(path.read_bytes())
        cleaned = without_paths(value)
        if cleaned != value:
            write_json(path, cleaned)
    elif path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
        path.write_text(_in_text(text), encoding="utf-8")


def without_paths(value: Any) -> Any:
    """Return a value of JSON with the last name of each absolute path in its place."""
    if isinstance(value, dict):
        return {key: without_paths(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_paths(each) for each in value]
    if not isinstance(value, str):
        return value
    whole = WHOLE.fullmatch(value)
    if whole and not whole["path"].startswith("//"):
        return (whole["scheme"] or "") + _name(whole["path"])
    return _in_text(value)


def _in_text(text: str) -> str:
    return PATH.sub(lambda match: _name(match.group()), text)


def _name(path: str) -> str:
    return (PureWindowsPath if "\\" in path else PurePosixPath)(path).name or path
