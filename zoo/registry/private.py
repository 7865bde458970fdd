"""Removal of local paths from pushed files: they reveal names, and are useless elsewhere."""

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
"""Absolute path in a text: it follows a space, a quote or a sign, which excludes URLs and fractions."""

WHOLE = re.compile(r"(?P<scheme>[a-z][a-z0-9-]+:)?(?P<path>~?/.*|[A-Za-z]:[/\\].*)", re.DOTALL)
"""Text that consists of a path, which may contain spaces, with an optional prefix such as `voc:`."""


def remove_paths(path: Path) -> None:
    """Shorten each absolute path in a JSON or Markdown file to its last part; other files are unchanged.

    Args:
        path: path of the file.
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
    """Return a JSON value with each absolute path shortened to its last part."""
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
