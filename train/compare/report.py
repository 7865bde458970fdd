"""A comparison for people: `table.md`, pictures, and `report.html`, one file that needs nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import write_text
from zoo.card.tables import escaped, markdown_table
from zoo.data.open import open_source
from zoo.evaluation.figures import duration
from zoo.pages.html import data_uri, render
from zoo.pages.plots import svg, write_png
from zoo.train.compare.plan import CONTROLS
from zoo.train.compare.plots import classes, curves, gains, pseudo_labels, write_pictures
from zoo.train.compare.pseudo_labels import READING as READING_PSEUDO_LABELS
from zoo.train.compare.pseudo_labels import tables
from zoo.train.compare.record import BASELINE
from zoo.train.compare.stats import Row, headline, rows, verdicts
from zoo.train.report.story import label_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from zoo.train.compare.intervals import Spread
    from zoo.train.compare.record import Candidate, Comparison, ComparisonFolder

ABSENT = "\N{EN DASH}"
INTERVAL = "interval"
COLUMNS = (
    "row",
    "mIoU",
    "seeds",
    "gain, points",
    INTERVAL,
    "clear",
    "more seeds",
    "step, ms",
    "run",
    "peak memory, MiB",
    "parameters kept",
)
QUALITY = 7
"""How many of the columns say how good a method is; the others say what it costs."""
GRID = "pictures.png"
READING = (
    "mIoU: on all val images after the last step, never the best one; mean ± sample sd over the seeds.",
    "Gain: mIoU above labels only by seed: runs of a seed share labels and warm start; mean ± sample sd.",
    "Clear: whether the interval of the mean gain leaves zero out.",
    "More seeds: with so many more the interval leaves zero out, if mean and sd of the gain stay: a guess.",
    "Step: median of each phase, weighted by the phase's steps; without waiting for data.",
    "Run: a process from start to end, with loading, evaluations and the bundle; mean over the seeds.",
)


def write_report(folder: ComparisonFolder, comparison: Comparison) -> list[Path]:
    """Write the files of a report and return their paths; pictures need a finished run."""
    page, table, grid = (folder.path / name for name in ("report.html", "table.md", GRID))
    figures = {}
    if comparison.finished:
        figures = {folder.path / name: draw(comparison) for name, draw in plots(comparison).items()}
        for path, figure in figures.items():
            write_png(figure, path)
        write_pictures(grid, folder, comparison, open_source(comparison.data["spec"]))
    write_text(table, markdown(comparison))
    write_text(page, html(comparison, list(figures.values()), grid if figures else None))
    return [page, table, *figures, *([grid] if figures else [])]


def plots(comparison: Comparison) -> dict[str, Callable[[Comparison], Figure]]:
    """Return the plots that a comparison with a finished run has something for, by file name."""
    drawn: dict[str, Callable[[Comparison], Figure]] = {"curves.png": curves, "classes.png": classes}
    if any(row.difference is not None for row in rows(comparison)):
        drawn = {"gains.png": gains, **drawn}
    return drawn | ({"pseudo_labels.png": pseudo_labels} if tables(comparison) else {})


def heads(comparison: Comparison) -> tuple[str, ...]:
    """Return the headings of the table."""
    level = f"{100 * comparison.confidence:.4g} % interval"
    return tuple(level if name == INTERVAL else name for name in COLUMNS)


def cells(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return the lines of the table as text, in the order of `COLUMNS`."""
    return [_line(row) for row in rows(comparison)]


def failures(comparison: Comparison) -> list[str]:
    """Return a line for each run without figures: which and why."""
    return [
        f"{run.name} {run.state}" + (f": {run.reason}" if run.reason else "")
        for run in comparison.runs
        if run.metrics is None
    ]


def facts(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what all rows share, and where it was measured, by name."""
    data, settings = comparison.data, comparison.settings
    height, width = settings["data.imgsz"]
    gpu = comparison.machine.get("gpu") if comparison.device == "cuda" else None
    versions = [f"{name} {version}" for name, version in comparison.versions.items() if version]
    counts = ", ".join(f"{data[kind]} {kind} images" for kind in ("labeled", "unlabeled", "val"))
    network, optimizer, batch = ("as in each method's recipe",) * 3
    if not comparison.own_recipes:
        network, optimizer, batch = _network(settings), _optimizer(settings), _batch(settings)
    return [
        (
            "data",
            f"{data['spec']}, partition {data['partition']}: {counts}, {len(data['classes'])} classes",
        ),
        ("network", network),
        ("optimizer", optimizer),
        ("batch", batch),
        ("warm start", _warm_start(comparison)),
        ("training", f"{settings['steps']} steps, crop {height} x {width}, {settings['precision']}"),
        ("loss on labels", label_loss(settings, settings.get("data.rare_classes", 0))),
        ("seeds", ", ".join(map(str, comparison.seeds))),
        (
            "machine",
            gpu["name"] if gpu else f"{comparison.machine['cpu']}, {comparison.machine['cores']} cores",
        ),
        ("versions", ", ".join(versions)),
        ("begun", comparison.timestamp),
        ("command", comparison.command),
    ]


def _network(settings: dict[str, Any]) -> str:
    start = settings.get("encoder_weights") or (
        "ImageNet weights" if settings["pretrained"] else "random weights"
    )
    return f"{settings['network.decoder.name']}, {settings['network.encoder']} from {start}"


def _optimizer(settings: dict[str, Any]) -> str:
    keys = ("name", "lr", "encoder_lr_mult", "schedule")
    name, rate, factor, schedule = (settings[f"method.optimizer.{key}"] for key in keys)
    return f"{name}, lr {rate:g}, encoder {rate * factor:g}, {schedule}"


def _batch(settings: dict[str, Any]) -> str:
    batch = f"{settings['data.batch_l']} labeled and {settings['data.batch_u']} unlabeled images"
    return f"{settings['accumulate']} times {batch}" if settings["accumulate"] > 1 else batch


def _warm_start(comparison: Comparison) -> str:
    if not comparison.warm_steps:
        return "none: each row starts anew"
    return f"{comparison.warm_steps} steps on labels alone, once a seed; all rows continue it, optimizer anew"


def _intervals(comparison: Comparison) -> str:
    """Return what the intervals are."""
    kind = f"Interval: of the mean gain, {100 * comparison.confidence:.4g} %, by Student's t"
    if len(comparison.looks) > 1:
        looks = ", ".join(map(str, comparison.looks))
        kind += (
            f". Seeds are added until every method is clear, with looks at {looks} seeds: each look has this "
            f"level, so that all hold at once in 95 % of comparisons (repeated confidence intervals)"
        )
    return f"{kind}; not corrected for looking at several rows."


def _differences(candidate: Candidate) -> Iterator[str]:
    """Yield in what a candidate differs from its recipe, and from labels only."""
    name = candidate.name
    changed = [f"{key} {own} became {used}" for key, (own, used) in candidate.overridden.items()]
    if changed:
        yield f"{name} otherwise than in its recipe {candidate.recipe}: {', '.join(changed)}."
    own = [
        f"{key} {used}" if reference is None else f"{key} {used} instead of {reference}"
        for key, (reference, used) in candidate.own.items()
    ]
    if own:
        yield f"{name} otherwise than {BASELINE}, beside its losses and their settings: {', '.join(own)}."


def notes(comparison: Comparison) -> list[str]:
    """Return how to read the table, where recipes were overridden, and where rows still differ."""
    kind = next((run.metrics["peak_memory"]["kind"] for run in comparison.finished if run.metrics), None)
    lines = [*READING, _intervals(comparison)]
    lines += [f"Peak memory: {kind}, the largest of a row's runs."] if kind else []
    lines += [f"{each.name}: {each.shows}." for each in CONTROLS if each.name in comparison.methods]
    again = [f"{run.name} in {run.attempts}" for run in comparison.finished if run.attempts > 1]
    if again:
        lines.append(
            f"Broken off and continued: {', '.join(again)} attempts; step and peak memory are of the last, "
            f"run is of all."
        )
    unseen = [run.name for run in comparison.finished if run.untimed]
    if unseen:
        lines.append(f"Not counted in run, as the comparison was killed meanwhile: {', '.join(unseen)}.")
    for candidate in comparison.candidates:
        if candidate.networks[1:]:
            lines.append(f"The row {candidate.name} is its network {candidate.networks[0]}.")
        lines += _differences(candidate)
    return lines


def warnings(comparison: Comparison) -> list[str]:
    """Return what a reader must know before the figures."""
    note = comparison.data.get("hidden_note")
    return [] if note is None else [note]


def markdown(comparison: Comparison) -> str:
    """Return the table with what was compared and how to read it, as Markdown."""
    table = _table(heads(comparison), cells(comparison))
    pseudo = [f"## {each.title}\n\n{_table(each.head, each.rows)}" for each in tables(comparison)]
    if pseudo:
        pseudo.insert(1, READING_PSEUDO_LABELS)
    listed = [
        _listed(verdicts(comparison)),
        _listed([f"no figures: {line}" for line in failures(comparison)]),
    ]
    shared = _listed([f"{name}: {value}" for name, value in facts(comparison)])
    title = f"# {_title(comparison)}"
    notices = [f"**{text}**" for text in warnings(comparison)]
    parts = [
        title,
        *notices,
        headline(comparison),
        table,
        *listed,
        shared,
        _listed(notes(comparison)),
        *pseudo,
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown_table(head, [tuple(map(escaped, line)) for line in lines], "--:"))


def html(comparison: Comparison, figures: Sequence[Figure], grid: Path | None) -> str:
    """Return the whole report as one page, pictures included."""
    return render(
        "train/compare/compare.html",
        title=_title(comparison),
        warnings=warnings(comparison),
        headline=headline(comparison),
        head=heads(comparison),
        rows=cells(comparison),
        verdicts=verdicts(comparison),
        failures=failures(comparison),
        plots=[svg(figure) for figure in figures],
        pseudo_labels=tables(comparison),
        reading=READING_PSEUDO_LABELS,
        grid=data_uri(grid.read_bytes(), "png") if grid else "",
        facts=facts(comparison),
        notes=notes(comparison),
        commands="\n".join(run.command for run in comparison.runs),
    )


def _title(comparison: Comparison) -> str:
    names = dict.fromkeys(candidate.method for candidate in comparison.compared)
    return f"{', '.join(names)} on {comparison.data['spec']}"


def _line(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        _with_sd(row.miou, "{:.3f}", 1),
        str(0 if row.miou is None else row.miou.n),
        _with_sd(row.difference, "{:+.1f}", 100),
        *_interval(row.difference),
        ABSENT if row.more_seeds is None else str(row.more_seeds),
        ABSENT if row.step_ms is None else f"{row.step_ms:,.0f}",
        ABSENT if row.wall_s is None else duration(row.wall_s),
        ABSENT if row.peak_mib is None else f"{row.peak_mib:,.0f}",
        f"{row.parameters:,}",
    )


def _with_sd(figure: Spread | None, show: str, scale: float) -> str:
    """Return a mean, with its sample sd where there is one."""
    if figure is None:
        return ABSENT
    mean = show.format(scale * figure.mean)
    return mean if figure.sd is None else f"{mean} ± {show.replace('+', '').format(scale * figure.sd)}"


def _interval(gap: Spread | None) -> tuple[str, str]:
    """Return the interval of a difference and whether it leaves zero out."""
    if gap is None or gap.interval is None:
        return ABSENT, ABSENT
    low, high = (f"{100 * end:+.1f}" for end in gap.interval)
    return f"{low} to {high}", "yes" if gap.excludes_zero else "no"


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
