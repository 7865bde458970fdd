"""Proposed `data.toml`, derived from the masks."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from zoo.bundle.bundle import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.data.data_file import DataFile

HEAD = "# Written by zoo data check: rename the classes.\n"
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
FOLDERS = ("train", "val", "unlabeled")


def proposal_text(data: DataFile, root: str = ".") -> str:
    """Return a description as TOML.

    Args:
        data: contents of the description.
        root: root folder of the images, relative to the file.
    """
    lines = [HEAD]
    lines += [f"root = {_text(root)}\n"] if root != "." else []
    lines += [f"{key} = {_text(getattr(data, key))}\n" for key in FOLDERS if key in data.model_fields_set]
    if data.names is not None:
        lines.append(f"names = [{', '.join(map(_text, data.names))}]\n")
    if data.palette is not None:
        lines.append(f"palette = {json.dumps(data.palette)}\n")
    if data.ignore:
        lines.append(f"ignore = {json.dumps(data.ignore)}\n")
    if data.labels is not None:
        lines.append("\n[labels] # value in the mask files = class; several may have the same\n")
        lines += [f"{value} = {_text(name)}\n" for value, name in data.labels.items()]
    if data.colors is not None:
        lines.append("\n[colors] # class = its color in the mask files, or a list of its colors\n")
        lines += [f"{_key(name)} = {json.dumps(color)}\n" for name, color in data.colors.items()]
    return "".join(lines)


def write_proposal(data: DataFile, root: Path, path: Path) -> None:
    """Write a description of the folder `root` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    relative = os.path.relpath(root.resolve(), path.parent.resolve())
    write_text(path, proposal_text(data, relative.replace(os.sep, "/")))


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else _text(name)
