"""A run as one HTML page that needs nothing else: no other file, no host, no script.

It is made of what stands in the run folder, so that it can be made again, of unfinished runs too.
"""

from __future__ import annotations

import json
import math
from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import replacing
from zoo.evaluation.figures import duration, shown
from zoo.pages.html import definitions, embedded, table
from zoo.train.report.plots import Curve, loss_axis, plain_axis, plot
from zoo.train.report.story import Story, class_table, facts, names_of, read_story, warnings
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.log import BY_CONFIDENCE, FILTER, last_figures

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from zoo.train.runs.log import Row
    from zoo.train.runs.record import Attempt

PAGE = "run.html"
ABSENT = "\N{EN DASH}"


def write_report(folder: Path) -> Path:
    """Write `report.html` of a run and return its path.

    Raises:
        BundleError: no run there, or its files cannot be read.
    """
    path = RunFolder(folder).report
    text = html(read_story(folder))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def html(story: Story) -> str:
    """Return the whole report as one page."""
    page = Template((resources.files("zoo.train.report") / PAGE).read_text(encoding="utf-8"))
    run = story.run
    attempts = [] if story.record is None else story.record.attempts
    return page.substitute(
        title=escape(f"{run.method} on {run.data}"),
        state=escape(run.state),
        subtitle=escape(_subtitle(story)),
        warnings="".join(f'<p class="{kind}">{escape(text)}</p>' for kind, text in warnings(story)),
        cards="".join(_card(*card) for card in _cards(story)),
        curves="".join(_curves(story)),
        classes=_classes(story) + _quality(story),
        pictures=_pictures(RunFolder(story.folder).preview),
        facts=definitions(facts(story)),
        attempts=table(ATTEMPT_COLUMNS, map(_attempt_row, attempts)) if attempts else "",
        commands=escape("\n".join(each.command for each in attempts)),
        recipe=table(("setting", "value"), flat(story.recipe)),
    )


def _pictures(path: Path) -> str:
    if not path.is_file():
        return ""
    return f"<section><h2>Pictures of val</h2>{embedded(path, 'image, truth, prediction')}</section>"


def _subtitle(story: Story) -> str:
    run = story.run
    return f"{run.path}, begun {run.begun.replace('T', ' ').removesuffix('+00:00')} UTC"


def _cards(story: Story) -> Iterator[tuple[str, str, str]]:
    """Yield title, figure and remark of each card."""
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


def _card(title: str, figure: str, remark: str) -> str:
    body = f"<h3>{escape(title)}</h3><b>{escape(figure)}</b><span>{escape(remark)}</span>"
    return f'<div class="card">{body}</div>'


def _curves(story: Story) -> Iterator[str]:
    """Yield the plots: figures on val, loss terms, learning rate, speed."""
    rows, phases = story.rows, story.phases
    figures = [Curve(name, _points(rows, f"val/{key}")) for key, name in story.figures.overall.items()]
    losses = [Curve(name.removeprefix("loss/"), _points(rows, name)) for name in names_of(rows, "loss/")]
    speed = [Curve("images/s", _points(rows, "images_per_s"))]
    yield plot(f"On {story.run.protocol.rpartition(' ')[2]}", figures, phases, plain_axis, dots=True)
    yield plot("Loss terms, weighted", losses, phases, loss_axis)
    quality = [Curve(name, _points(rows, f"{FILTER}{key}")) for key, name in QUALITY.items()]
    yield plot("Pseudo-labels, on hidden masks", quality, phases, plain_axis, dots=True)
    yield plot("Learning rate", [Curve("lr", _points(rows, "lr"))], phases, plain_axis)
    yield plot("Images/s since the start", speed, phases, plain_axis)


QUALITY = {
    "kept": "kept",
    "accuracy": "accuracy of kept",
    f"{BY_CONFIDENCE}accuracy": "accuracy, by confidence",
    "recall": "errors caught",
    f"{BY_CONFIDENCE}recall": "errors caught, by confidence",
}
"""Curves of the figures of pseudo-labels."""
CHOICE = {"accuracy": "accuracy of kept", "precision": "precision", "recall": "recall", "f1": "F1"}
"""Columns of the table of pseudo-labels; the last three are of the dropped pixels as errors."""


def _quality(story: Story) -> str:
    """Return the last figures of the pseudo-labels beside those of a threshold, empty if there are none."""
    last = last_figures(story.rows, FILTER)
    if last is None:
        return ""
    rows = [
        (name, *(shown(last.get(f"{prefix}{key}"), "{:.3f}".format) for key in CHOICE))
        for name, prefix in ((story.run.method, ""), ("confidence, as many", BY_CONFIDENCE))
    ]
    remark = (
        f"After step {last['step']:,.0f}, {last['kept']:.1%} of the pixels kept; "
        f"{last['accuracy_of_all']:.3f} of all pseudo-labels are right. Precision, recall and F1 are of the "
        f"dropped pixels as errors. Training never sees these masks."
    )
    title = "<h2>Pseudo-labels</h2>"
    return f"<section>{title}<p>{escape(remark)}</p>{table(('kept by', *CHOICE.values()), rows)}</section>"


def _points(rows: Iterable[Row], name: str) -> tuple[tuple[float, float], ...]:
    return tuple((row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan)))


def _classes(story: Story) -> str:
    """Return the figures of each class with bars, empty before the last evaluation."""
    if not story.metrics:
        return ""
    heads = list(story.figures.by_class.values())
    tables = [class_table(story, number) for number in range(len(heads))]
    rows = ""
    for name, color in story.classes:
        swatch = f'<i class="swatch" style="background:rgb{color}"></i>'
        cells = "".join(_bar(each[name]) for each in tables)
        rows += f"<tr><th>{swatch}{escape(name)}</th>{cells}</tr>"
    head = "".join(f'<th class="wide"></th><th>{escape(each)}</th>' for each in heads)
    return (
        f'<section><h2>Classes</h2><div class="scroll"><table><thead><tr><th>class</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


ATTEMPT_COLUMNS = ("begun, UTC", "steps", "ended", "on")


def _bar(value: float | None) -> str:
    """Return two cells, a bar and its figure."""
    bar = f'<td class="wide"><div class="track"><i style="width:{100 * (value or 0):.1f}%"></i></div></td>'
    return f"{bar}<td>{shown(value, '{:.3f}'.format)}</td>"


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
