"""A load test on disk: `load.html`, `load.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.bundle import replacing, write_json
from zoo.serve.load.page import html

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.serve.load.measurement import Report


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write a report as page and JSON and return the paths; none is ever half written."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "load.html", folder / "load.json"
    write_json(data, report.model_dump(mode="json"))
    with replacing(page) as temporary:
        temporary.write_text(html(report), encoding="utf-8")
    return [page, data]
