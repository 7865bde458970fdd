"""Self-contained HTML pages, without other files, hosts or scripts. All text is escaped."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

COLORS = {
    "ink": ("#202124", "#e8eaed"),
    "quiet": ("#5f6368", "#9aa0a6"),
    "line": ("#dadce0", "#3c4043"),
    "paper": ("#ffffff", "#17191c"),
    "soft": ("#f6f8fa", "#202327"),
    "warn": ("#8a5a00", "#fdd663"),
    "warn-paper": ("#fff6e0", "#2e2a1c"),
    "bad-paper": ("#fce8e6", "#321d1b"),
    "good": ("#137333", "#81c995"),
    "good-paper": ("#e6f4ea", "#1b2a20"),
    "blue": ("#1a73e8", "#8ab4f8"),
    "orange": ("#e8710a", "#fcad70"),
    "green": ("#188038", "#81c995"),
    "purple": ("#9334e6", "#c58af9"),
    "red": ("#c5221f", "#f28b82"),
    "teal": ("#129eaf", "#78d9ec"),
    "gray": ("#80868b", "#bdc1c6"),
    "pink": ("#d01884", "#ff8bcb"),
    "olive": ("#8d6e00", "#fdd663"),
    "navy": ("#174ea6", "#c6dafc"),
}
"""Colors on light and on dark pages. Plots are drawn in the light colors, which are all distinct."""


def render(template: str, **values: Any) -> str:
    """Return a page from a template, given by its path in the package."""
    return _environment().get_template(template).render(values)


def data_uri(data: bytes, kind: str) -> str:
    """Return an encoded image (`png`, `jpeg`) as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


@cache
def _environment() -> Environment:
    loader = PackageLoader("zoo", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["colors"] = COLORS
    return environment
