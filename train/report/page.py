"""Report of a run as a self-contained HTML page, without other files, hosts or scripts.

It is generated from the run folder, so that it can be regenerated, also for unfinished runs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import write_text
from zoo.evaluation.figures import duration, shown
from zoo.pages.html import data_uri, render
from zoo.pages.plots import new_figure, svg
from zoo.train.report.pictures import draw, panels
from zoo.train.report.story import RunContents, class_table, facts, read_story, warnings
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.log import BY_CONFIDENCE, FILTER, last_figures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from markupsafe import Markup

    from zoo.classes import Color
    from zoo.train.runs.record import Attempt

ABSENT = "\N{EN DASH}"


def write_report(folder: Path) -> Path:
    """Write `report.html` of a run and return its path.

    Raises:
        BundleError: the folder is not a run, or its files cannot be read.
    """
    path = RunFolder(folder).report
    write_text(path, html(read_story(folder)))
    return path


def html(story: RunContents) -> str:
    """Return the report as an HTML page."""
    run = story.run
    attempts = [] if story.record is None else story.record.attempts
    preview = RunFolder(story.folder).preview
    return render(
        "train/report/run.html",
        title=f"{run.method} on {run.data}",
        state=run.state,
        subtitle=_subtitle(story),
        warnings=warnings(story),
        cards=_cards(story),
        curves=_curves(story),
        class_heads=list(story.figures.by_class.values()),
        classes=list(_classes(story)),
        quality=_quality(story),
        picture=data_uri(preview.read_bytes(), "png") if preview.is_file() else "",
        facts=facts(story),
        attempts=[_attempt_row(each) for each in attempts],
        commands="\n".join(each.command for each in attempts),
        recipe=flat(story.recipe),
    )


def _subtitle(story: RunContents) -> str:
    run = story.run
    return f"{run.path}, begun {run.begun.replace('T', ' ').removesuffix('+00:00')} UTC"


def _cards(story: RunContents) -> Iterator[tuple[str, str, str]]:
    """Yield title, value and remark of each card."""
    run = story.run
    when = "before the first evaluation" if run.evaluated is None else f"after step {run.evaluated:,}"
    yield run.figure, ABSENT if run.value is None else f"{run.value:.3f}", when
    yield "steps", f"{run.step:,}", f"of {run.steps:,}"
    speed = next((row["images_per_s"] for row in reversed(story.rows) if "images_per_s" in row), None)
    yield (
        "time",
        duration(run.seconds),
        "" if speed is None else f"{speed:,.1f} images/s, evaluations included",
    )
    memory = story.metrics.get("peak_memory", {})
    if memory.get("mib") is not None:
        yield "peak memory", f"{memory['mib']:,.0f} MiB", memory["kind"]
    times = story.metrics.get("step_ms", {})
    if times:
        slowest = max(times, key=lambda name: times[name])
        yield "step", f"{times[slowest]:,.0f} ms", f"median in {slowest}"


def _curves(story: RunContents) -> Iterator[Markup]:
    """Yield the plots: metrics on val, loss terms, learning rate, speed."""
    for panel in panels(story.rows, story.figures, story.run.protocol.rpartition(" ")[2]):
        figure = new_figure(2.9)
        draw(figure.subplots(), panel, story.phases)
        yield svg(figure)


def _classes(story: RunContents) -> Iterator[tuple[str, Color, list[tuple[float, str]]]]:
    """Yield name, color and metrics (share, text) of each class; none before the end of the run."""
    tables = [class_table(story, number) for number in range(len(story.figures.by_class))]
    for name, color in story.classes if story.metrics else ():
        yield name, color, [(each[name] or 0, shown(each[name], "{:.3f}".format)) for each in tables]


CHOICE = {"accuracy": "accuracy of kept", "precision": "precision", "recall": "recall", "f1": "F1"}
"""Columns of the table of pseudo-labels; the last three rate dropped pixels as errors."""


BY_CLASS = {
    "share": "of all pixels",
    "accuracy_of_all": "right",
    "kept": "kept",
    "accuracy": "right of kept",
    "recall": "errors caught",
    f"{BY_CONFIDENCE}kept": "kept by confidence",
    f"{BY_CONFIDENCE}accuracy": "right of these",
    f"{BY_CONFIDENCE}recall": "errors caught by it",
}
"""Columns of the table of pseudo-labels by class."""


def _quality(story: RunContents) -> dict[str, Any] | None:
    """Return the last metrics of pseudo-labels and of a plain threshold; None if there are none."""
    last = last_figures(story.rows, FILTER)
    if last is None:
        return None
    rows = [
        (name, *(shown(last.get(f"{prefix}{key}"), "{:.3f}".format) for key in CHOICE))
        for name, prefix in ((story.run.method, ""), ("confidence, as many", BY_CONFIDENCE))
    ]
    remark = (
        f"After step {last['step']:,.0f}, {last['kept']:.1%} of the pixels are kept; "
        f"{last['accuracy_of_all']:.3f} of all pseudo-labels are right. Precision, recall and F1 are of "
        f"the dropped pixels as errors. Training never sees these masks."
    )
    by_class = story.metrics.get("filter_by_class") or {}  # runs of older versions have none
    return {
        "head": ("kept by", *CHOICE.values()),
        "rows": rows,
        "remark": remark,
        "class_head": ("class", *BY_CLASS.values()),
        "classes": [
            (name, *(shown(found.get(key), "{:.3f}".format) for key in BY_CLASS))
            for name, found in by_class.items()
        ],
    }


def _attempt_row(attempt: Attempt) -> tuple[str, ...]:
    last = "?" if attempt.last is None else attempt.last
    where = f"{attempt.machine['devices']} {attempt.machine['device']} of {attempt.host}"
    return attempt.begun.removesuffix("+00:00"), f"{attempt.first} to {last}", attempt.state, where


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of a recipe by dotted key, with their values as text."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, json.dumps(value, ensure_ascii=False)
