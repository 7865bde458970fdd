"""The pictures of a suite: steps and their memory by method, latency by backend, the roofline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zoo.bundle.bundle import replacing
from zoo.predictors.backends import color_of
from zoo.serve.bench.measurement import number
from zoo.suite.reading import queries_of, steps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from zoo.suite.reading import Query, Step
    from zoo.suite.record import Record

INK, QUIET, GRID = "#202124", "#5f6368", "#e8eaed"
PALETTE = ("#9aa0a6", "#1a73e8", "#188038", "#e8710a", "#9334e6", "#129eaf")
CEILINGS = {"bf16": "-", "fp16": "--", "tf32": "-.", "fp32": ":"}
MARKERS = "osD^v*"
APART = 1.3
"""Ratio of two ceilings from which each has a label of its own."""
BAR = 0.2
"""Height of a bar, in inches."""
WIDTH = 11.0
DPI = 150

Bars = dict[str, list[tuple[int, float]]]
"""Group and length of each bar, by name."""


def write_plots(folder: Path, records: Sequence[Record], machine: dict[str, Any], title: str) -> list[Path]:
    """Write the pictures that there are figures for and return their paths."""
    steps, queries = steps_of(records), queries_of(records)
    written = []
    if steps:
        written.append(_save(training(steps, title), folder / "training.png"))
    if queries:
        written.append(_save(latency(queries, title), folder / "latency.png"))
    if any(query.roof for query in queries):
        written.append(_save(roofline(queries, machine, title), folder / "roofline.png"))
    return written


def training(steps: Sequence[Step], title: str) -> Figure:
    """Return the time and the memory of a step in the last phase, by method, encoder and variant."""
    last = [step for step in steps if step.is_last]
    groups = list(dict.fromkeys(step.name for step in last))
    variants = list(dict.fromkeys(step.variant for step in last))
    colors = dict(zip(variants, PALETTE, strict=False))
    figure = _figure(len(groups), len(variants), f"A step of training in the last phase · {title}")
    left, right = figure.subplots(1, 2, sharey=True)

    def bars(value: Callable[[Step], float | None]) -> Bars:
        found: Bars = {variant: [] for variant in variants}
        for step in last:
            length = value(step)
            if length is not None:
                found[step.variant].append((groups.index(step.name), length))
        return found

    _draw(left, groups, bars(lambda step: step.figures["step_ms"]["p50"]), colors, "ms, median")
    _draw(right, groups, bars(_gib), colors, "peak memory, GiB")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def latency(queries: Sequence[Query], title: str) -> Figure:
    """Return the time of one image by model, size and backend: a panel for each size."""
    alone = [query for query in queries if query.row.batch == 1]
    sizes = list(dict.fromkeys(query.size for query in alone))
    models = list(dict.fromkeys(query.model for query in alone))
    names = list(dict.fromkeys(query.row.name for query in alone))
    colors = {name: color_of(name) for name in names}
    figure = _figure(len(models), len(names), f"One image, from host memory to host memory · {title}")
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, size in zip(panels, sizes, strict=True):
        bars: Bars = {name: [] for name in names}
        for query in alone:
            times = query.row.end_to_end_ms
            if query.size == size and times is not None:
                bars[query.row.name].append((models.index(query.model), times.p50))
        _draw(axes, models, bars, colors, f"{size[0]}x{size[1]}: ms, median")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    return figure


def roofline(queries: Sequence[Query], machine: dict[str, Any], title: str) -> Figure:
    """Return what every backend reaches under what the machine allows, by operations for each byte."""
    figure = Figure(figsize=(WIDTH, 6.2), layout="constrained", facecolor="white")
    figure.suptitle(f"Roofline · {title}", x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    axes = figure.subplots()
    points = [(query, query.flops / query.moved) for query in queries if query.moved]
    low, high = min(x for _, x in points) / 3, max(x for _, x in points) * 6
    _ceilings(axes, machine, low, high)
    models = list(dict.fromkeys(query.model for query, _ in points))
    for query, x in points:
        axes.scatter(
            x,
            query.flops / query.ms / 1e9,
            s=22 + 9 * (query.row.batch or 1),
            color=color_of(query.row.name),
            marker=MARKERS[models.index(query.model) % len(MARKERS)],
            alpha=0.8,
            linewidth=0,
        )
    _legends(figure, axes, list(dict.fromkeys(query.row.name for query, _ in points)), models)
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    axes.set_xlabel("operations for each byte that is moved", color=QUIET)
    _finish(axes, "TFLOP/s reached; a larger mark is a larger batch")
    return figure


def _ceilings(axes: Axes, machine: dict[str, Any], low: float, high: float) -> None:
    """Draw what the machine allows between two intensities; ceilings that nearly meet share a label."""
    bandwidth = machine["gb_per_s"]["memory"] / 1000  # TB/s
    labels: list[tuple[float, list[str]]] = []
    for name, tflops in sorted(machine["tflops"].items(), key=lambda item: item[1]):
        ridge = tflops / bandwidth
        line = [low, *([ridge] if low < ridge < high else []), high]
        heights = [min(x * bandwidth, tflops) for x in line]
        axes.plot(line, heights, CEILINGS[name], color=INK, linewidth=1)
        if labels and heights[-1] < labels[-1][0] * APART:
            labels[-1][1].append(f"{name} {number(tflops)}")
        else:
            labels.append((heights[-1], [f"{name} {number(tflops)}"]))
    for height, texts in labels:
        axes.annotate(
            "\n".join(reversed(texts)), (high, height), (4, 0), textcoords="offset points", va="center",
            fontsize=8.5, color=QUIET, annotation_clip=False,
        )  # fmt: skip


def _legends(figure: Figure, axes: Axes, names: list[str], models: list[str]) -> None:
    """Explain colors and marks below the plot."""
    for name in names:
        axes.scatter([], [], color=color_of(name), label=name)
    for index, model in enumerate(models):
        axes.scatter([], [], color=QUIET, marker=MARKERS[index % len(MARKERS)], label=model)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)


def _figure(groups: int, bars: int, title: str) -> Figure:
    """Return a figure with room for groups of bars."""
    height = groups * (bars + 1.2) * BAR + 1.5
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def _draw(axes: Axes, groups: list[str], bars: Bars, colors: dict[str, str], title: str) -> None:
    """Draw groups of bars from top to bottom, each bar with its figure."""
    pitch = len(bars) + 1.2
    for index, (name, found) in enumerate(bars.items()):
        places = [pitch * group + index for group, _ in found]
        lengths = [length for _, length in found]
        axes.barh(places, lengths, 0.86, color=colors[name], label=name)
        for place, length in zip(places, lengths, strict=True):
            axes.annotate(
                number(length), (length, place), (4, 0), textcoords="offset points", va="center", fontsize=8,
                color=INK,
            )  # fmt: skip
    middle = (len(bars) - 1) / 2
    axes.set_yticks([pitch * group + middle for group in range(len(groups))], groups)
    axes.set_ylim(pitch * len(groups) - 1.2 + 0.3, -0.8)
    axes.margins(x=0.16)
    _finish(axes, title)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9.5)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(which="both", length=0, colors=QUIET, labelsize=9)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)


def _gib(step: Step) -> float | None:
    mib = step.figures.get("peak_mib")
    return None if mib is None else mib / 1024


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    return path
