"""Live view in a notebook: the curves of a run and its predictions, the table of a comparison.

IPython is there whenever a notebook is; nothing else needs it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.api.compare import CompareResult
    from zoo.train.loop.events import Callback, Event
    from zoo.train.runs.folder import RunFolder
    from zoo.train.runs.log import Row

REDRAW_S = 2.0
"""Interval between two drawings of the curves."""

DPI = 90


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, which shows pictures."""
    ipython = sys.modules.get("IPython")  # loaded by every kernel
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def live_run(live: bool | None) -> list[Callback]:
    """Return the callback that shows a run, none if it is not to be shown.

    Args:
        live: whether to show it; None in a notebook.

    Raises:
        ZooError: it is to be shown, but there is no notebook.
    """
    if live and not in_notebook():
        raise ZooError("got live=True outside of a notebook, expected a Jupyter kernel: leave live out")
    return [LiveRun()] if live or (live is None and in_notebook()) else []


def live_table() -> Callable[[CompareResult], object] | None:
    """Return a function that shows the tables of a comparison in a notebook; None elsewhere."""
    if not in_notebook():
        return None
    place = Place()
    return lambda result: place.show(result._repr_html_() if result.comparison.finished else "")


class Place:
    """Place in the output of a cell whose content is replaced."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, html: str) -> None:
        """Show HTML in this place."""
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(html), display_id=True)
        else:
            self._handle.update(HTML(html))


class LiveRun:
    """Callback that shows step, figures and curves of a run, and predictions after each evaluation."""

    def __init__(self) -> None:
        self._curves, self._pictures = Place(), Place()
        self._rows: list[Row] = []
        self._drawn = -REDRAW_S

    def __call__(self, event: Event) -> None:
        """Show the state after a step."""
        from zoo.evaluation.figures import MASKS, TAGS
        from zoo.train.report.pictures import curves, preview

        if not self._rows:
            self._rows = _logged(event)
        self._rows.append({"step": float(event.step), **event.figures})
        is_evaluated = any(name.startswith("val/") for name in event.figures)
        if is_evaluated or time.monotonic() - self._drawn >= REDRAW_S:
            names = TAGS if any(f"val/{TAGS.main}" in row for row in self._rows) else MASKS
            picture = curves(self._rows, event.phases, names, DPI)
            self._curves.show(f"<p>{_headline(event)}</p>{_image(picture)}")
            self._drawn = time.monotonic()
        if is_evaluated:
            self._pictures.show(_image(preview(event.predictor(), event.source, DPI)))


def _logged(event: Event) -> list[Row]:
    """Return the rows of the log before this event, of a run that is resumed."""
    from zoo.train.runs.folder import RunFolder
    from zoo.train.runs.log import read_log

    return [row for row in read_log(RunFolder(event.run).log) if row["step"] < event.step]


def _headline(event: Event) -> str:
    figures = (
        f"{name} {value:.4g}" for name, value in event.figures.items() if not name.startswith("filter/")
    )
    return escape(f"{event.run}: {event.phase}, step {event.step} of {event.steps}; {', '.join(figures)}")


def _image(png: bytes) -> str:
    from zoo.pages.html import data_uri

    return f'<img src="{data_uri(png, "png")}" style="max-width: 100%">'


def run_page(files: RunFolder) -> str:
    """Return the HTML of a run: its state, curves and predictions."""
    pictures = (path for path in (files.curves, files.preview) if path.is_file())
    return f"<p>{escape(str(files.path))}</p>" + "".join(_image(path.read_bytes()) for path in pictures)
