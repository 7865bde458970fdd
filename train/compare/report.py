"""A comparison for people: `table.md`, pictures, and `report.html`, one file that needs nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.bundle.bundle import write_text
from zoo.data.open import open_source
from zoo.evaluation.figures import duration
from zoo.pages.html import data_uri, render
from zoo.pages.plots import svg, write_png
from zoo.train.compare.plots import classes, curves, write_pictures
from zoo.train.compare.stats import Row, headline, rows, verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from zoo.train.compare.record import Comparison, ComparisonFolder
    from zoo.train.compare.stats import Spread

ABSENT = "\N{EN DASH}"
COLUMNS = (
    "method",
    "mIoU",
    "seeds",
    "gain, points",
    "95 % interval",
    "clear",
    "step, ms",
    "run",
    "peak memory, MiB",
    "parameters kept",
)
QUALITY = 6
"""How many of the columns say how good a method is; the others say what it costs."""
PICTURES = {"curves.png": curves, "classes.png": classes}
GRID = "pictures.png"
READING = (
    "mIoU: on all val images after the last step, never the best one; mean ± sample sd over the seeds.",
    "Gain: mIoU above labels only, by seed, as runs of a seed share their labeled images; mean ± sample sd.",
    "95 % interval: of the mean gain, by Student's t; not corrected for looking at several methods.",
    "Clear: whether the interval leaves zero out.",
    "Step: median of each phase, weighted by the phase's steps; without waiting for data.",
    "Run: from start to end of the process, with loading, evaluations and the bundle; mean over the seeds.",
)


def write_report(folder: ComparisonFolder, comparison: Comparison) -> list[Path]:
    """Write the files of a report and return their paths; pictures need a finished run."""
    page, table, grid = (folder.path / name for name in ("report.html", "table.md", GRID))
    figures = {}
    if comparison.finished:
        figures = {folder.path / name: draw(comparison) for name, draw in PICTURES.items()}
        for path, figure in figures.items():
            write_png(figure, path)
        write_pictures(grid, folder, comparison, open_source(comparison.data["spec"]))
    write_text(table, markdown(comparison))
    write_text(page, html(comparison, list(figures.values()), grid if figures else None))
    return [page, table, *figures, *([grid] if figures else [])]


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
    """Return what all methods share, and where it was measured, by name."""
    data, settings = comparison.data, comparison.settings
    height, width = settings["data.imgsz"]
    start = "ImageNet weights" if settings["pretrained"] else "random weights"
    # comparisons of version 0.1 have `network.architecture`
    decoder = settings.get("network.decoder.name") or settings["network.architecture"]
    gpu = comparison.machine.get("gpu") if comparison.device == "cuda" else None
    versions = [f"{name} {version}" for name, version in comparison.versions.items() if version]
    counts = ", ".join(f"{data[kind]} {kind} images" for kind in ("labeled", "unlabeled", "val"))
    batch = f"{settings['data.batch_l']} labeled and {settings['data.batch_u']} unlabeled images"
    if settings["accumulate"] > 1:
        batch = f"{settings['accumulate']} times {batch}"
    return [
        (
            "data",
            f"{data['spec']}, partition {data['partition']}: {counts}, {len(data['classes'])} classes",
        ),
        ("network", f"{decoder}, {settings['network.encoder']} from {start}"),
        ("training", f"{settings['steps']} steps, crop {height} x {width}, {batch}, {settings['precision']}"),
        ("seeds", ", ".join(map(str, comparison.seeds))),
        (
            "machine",
            gpu["name"] if gpu else f"{comparison.machine['cpu']}, {comparison.machine['cores']} cores",
        ),
        ("versions", ", ".join(versions)),
        ("begun", comparison.timestamp),
        ("command", comparison.command),
    ]


def notes(comparison: Comparison) -> list[str]:
    """Return how to read the table, and where recipes were overridden."""
    kind = next((run.metrics["peak_memory"]["kind"] for run in comparison.finished if run.metrics), None)
    lines = [*READING, *([f"Peak memory: {kind}, the largest of a method's runs."] if kind else [])]
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
        changed = [f"{key} {own} became {used}" for key, (own, used) in candidate.overridden.items()]
        if changed:
            lines.append(
                f"{candidate.method} otherwise than in its recipe {candidate.recipe}: {', '.join(changed)}."
            )
    return lines


def warnings(comparison: Comparison) -> list[str]:
    """Return what a reader must know before the figures."""
    note = comparison.data.get("hidden_note")
    return [] if note is None else [note]


def markdown(comparison: Comparison) -> str:
    """Return the table with what was compared and how to read it, as Markdown."""
    rule = ["---", *["--:"] * (len(COLUMNS) - 1)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in (COLUMNS, rule, *cells(comparison)))
    listed = [
        _listed(verdicts(comparison)),
        _listed([f"no figures: {line}" for line in failures(comparison)]),
    ]
    shared = _listed([f"{name}: {value}" for name, value in facts(comparison)])
    title = f"# {_title(comparison)}"
    notices = [f"**{text}**" for text in warnings(comparison)]
    parts = [title, *notices, headline(comparison), table, *listed, shared, _listed(notes(comparison))]
    return "\n\n".join(filter(None, parts)) + "\n"


def html(comparison: Comparison, figures: Sequence[Figure], grid: Path | None) -> str:
    """Return the whole report as one page, pictures included."""
    return render(
        "train/compare/compare.html",
        title=_title(comparison),
        warnings=warnings(comparison),
        headline=headline(comparison),
        head=COLUMNS,
        rows=cells(comparison),
        verdicts=verdicts(comparison),
        failures=failures(comparison),
        plots=[svg(figure) for figure in figures],
        grid=data_uri(grid.read_bytes(), "png") if grid else "",
        facts=facts(comparison),
        notes=notes(comparison),
        commands="\n".join(run.command for run in comparison.runs),
    )


def _title(comparison: Comparison) -> str:
    return f"{', '.join(comparison.methods)} on {comparison.data['spec']}"


def _line(row: Row) -> tuple[str, ...]:
    return (
        row.method,
        _with_sd(row.miou, "{:.3f}", 1),
        str(0 if row.miou is None else row.miou.n),
        _with_sd(row.difference, "{:+.1f}", 100),
        *_interval(row.difference),
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
