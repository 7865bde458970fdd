"""Simulation of labeling on a data set that has all masks: the learning curve of each strategy.

For each seed, all strategies start from one run on a random partition. Each round chooses images by the last
run of its strategy, and trains anew, from the same initial weights, with their masks too. A run on a larger
random partition is the target.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.bundle.bundle import check_writable, write_json, write_text
from zoo.data.open import open_source
from zoo.data.partition import Partition
from zoo.errors import ZooError
from zoo.evaluation.figures import figures_of
from zoo.label.pool import Known, open_pool
from zoo.label.session import Request, choose_images
from zoo.pages.html import render
from zoo.pages.plots import SERIES, finish, legend, new_figure, svg
from zoo.train.compare.intervals import Spread, spread
from zoo.train.recipe.read import default_recipe, load_recipe
from zoo.train.runs.folder import RunFolder
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoo.label.choose import Strategy
    from zoo.train.loop.hardware import Hardware

log = logging.getLogger(__name__)

CURVES, PAGE, PLAN = "curves.json", "curves.html", "plan.json"


@dataclass(frozen=True)
class Plan:
    """A simulation.

    Args:
        spec: data set with masks of all images.
        count: number of images that a round adds.
        rounds: number of rounds.
        strategies: strategies that are compared.
        seeds: seeds of partitions and runs.
        first: random partition that all strategies start from.
        target: random partition whose mIoU is to be reached.
        method: method that is trained.
        recipe: recipe; None for the default of the method.
        steps: number of steps of each run; None for those of the recipe.
        settings: settings of the recipe, `key=value`.
        score: output that says how reliable each pixel is; None for the best available.
        groups: expression that names the group of an image, or None.
    """

    spec: str
    count: int
    rounds: int = 4
    strategies: tuple[Strategy, ...] = ("reliability", "random", "entropy", "core-set")
    seeds: tuple[int, ...] = (0, 1, 2)
    first: str = "1/16"
    target: str = "1/4"
    method: str = "supervised"
    recipe: str | None = None
    steps: int | None = None
    settings: tuple[str, ...] = ()
    score: str | None = None
    groups: str | None = None


class Point(NamedTuple):
    """A run: its number of labeled images, and its mIoU."""

    labeled: int
    miou: float


def simulate(plan: Plan, out: Path, hardware: Hardware) -> dict[str, Any]:
    """Return the learning curves of a simulation, after writing them with a page.

    The same plan in the same folder continues an interrupted simulation.

    Args:
        plan: the simulation.
        out: folder.
        hardware: devices of the runs.

    Raises:
        ZooError: another simulation in the folder, or runs that cannot be trained.
    """
    _claim(out, plan)
    curves: dict[str, list[list[Point]]] = {strategy: [] for strategy in plan.strategies}
    targets: list[Point] = []
    for seed in plan.seeds:
        folder = out / f"seed-{seed}"
        first = _trained(folder / "first", plan, plan.first, seed, hardware)
        for strategy in plan.strategies:
            points, run = [first], folder / "first"
            for number in range(1, plan.rounds + 1):
                there = folder / strategy / f"round-{number}"
                partition = there.with_suffix(".txt")
                if not partition.is_file():
                    partition.parent.mkdir(exist_ok=True)
                    write_text(partition, _chosen(plan, run, strategy, seed, hardware))
                points.append(_trained(there, plan, str(partition), seed, hardware))
                run = there
            curves[strategy].append(points)
        targets.append(_trained(folder / "target", plan, plan.target, seed, hardware))
    record = summary(plan, curves, targets)
    write_json(out / CURVES, record)
    write_text(out / PAGE, curves_page(record))
    return record


def _claim(out: Path, plan: Plan) -> None:
    """Write the plan to a folder, or check that its simulation has this plan."""
    check_writable(out)
    wanted = json.loads(json.dumps(asdict(plan)))
    path = out / PLAN
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != wanted:
            raise ZooError(f"{out}: got another simulation, expected the same options: choose another --out")
        return
    if out.is_dir() and any(out.iterdir()):
        raise ZooError(f"{out}: got a folder with files, expected a new one: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, wanted)


def _trained(path: Path, plan: Plan, partition: str, seed: int, hardware: Hardware) -> Point:
    """Return the result of a run, trained now or before; its checkpoint is removed at the end."""
    run = RunFolder(path)
    if run.is_run and not run.is_finished:
        resume(path, plan.method, hardware)
    elif not run.is_run:
        changes = {"data.spec": plan.spec, "data.partition": partition, "seed": seed}
        name = plan.recipe or default_recipe(plan.method, plan.spec)
        start(load_recipe(name, plan.settings, plan.steps, changes), path, hardware)
    run.checkpoint.unlink(missing_ok=True)
    val = json.loads(run.metrics.read_text(encoding="utf-8"))["val"]
    return Point(len(Partition.read(run.partition).labeled), float(val[figures_of(val).main]))


def _chosen(plan: Plan, run: Path, strategy: Strategy, seed: int, hardware: Hardware) -> str:
    """Return the list of the labeled images of a run and those that it chooses."""
    found = open_pool(plan.spec, Known(run), run)
    masked = set(open_source(plan.spec).ids("train"))
    pool = found._replace(candidates=[item for item in found.candidates if item.name in masked])
    request = Request(plan.count, strategy, plan.score, plan.groups, seed)
    device = hardware.accelerator("fp32")
    labeling, _ = choose_images(pool, RunFolder(run).bundle, device, request, {"model": str(run)})
    chosen = [pool.candidates[pick.candidate].name for pick in labeling.choice.picks]
    return "".join(f"{name}\n" for name in (*(item.name for item in pool.labeled), *chosen))


def summary(plan: Plan, curves: dict[str, list[list[Point]]], targets: Sequence[Point]) -> dict[str, Any]:
    """Return means and intervals over seeds, and the number of labels that reach the target.

    Args:
        plan: the simulation.
        curves: runs of each strategy, by seed and round.
        targets: run on the target partition of each seed.
    """
    target = spread([point.miou for point in targets])
    assert target is not None
    rows = {strategy: _curve(by_seed) for strategy, by_seed in curves.items()}
    baseline = curves.get("random")
    for strategy, by_seed in curves.items():
        row = rows[strategy]
        row["labels_to_target"] = labels_to(
            target.mean, [Point(point["labeled"], point["mean"]) for point in row["points"]]
        )
        if baseline is not None and strategy != "random":
            pairs = zip(by_seed, baseline, strict=True)
            gains = [_mean_miou(points) - _mean_miou(others) for points, others in pairs]
            row["gain_over_random"] = _figures(spread(gains))
    return {
        **asdict(plan),
        "target_labels": targets[0].labeled,
        "target_miou": _figures(target),
        "curves": rows,
    }


def _curve(by_seed: list[list[Point]]) -> dict[str, Any]:
    points = [
        {
            "labeled": sum(point.labeled for point in at) / len(at),
            **_figures(spread([point.miou for point in at])),
        }
        for at in zip(*by_seed, strict=True)
    ]
    return {"points": points}


def _mean_miou(points: Sequence[Point]) -> float:
    """Return the mean mIoU of the rounds after the first, the area below the learning curve."""
    return sum(point.miou for point in points[1:]) / (len(points) - 1)


def _figures(found: Spread | None) -> dict[str, Any]:
    assert found is not None
    return {"mean": found.mean, "sd": found.sd, "interval": found.interval, "seeds": found.n}


def labels_to(target: float, points: Sequence[Point]) -> float | None:
    """Return the number of labels at which a curve first reaches a mIoU, None if it does not.

    Example:
        >>> labels_to(0.5, [Point(10, 0.4), Point(20, 0.6)])
        15.0
    """
    if points[0].miou >= target:
        return float(points[0].labeled)
    for before, after in pairwise(points):
        if after.miou >= target:
            share = (target - before.miou) / (after.miou - before.miou)
            return before.labeled + share * (after.labeled - before.labeled)
    return None


def curves_page(record: dict[str, Any]) -> str:
    """Return the page of a simulation, of its summary."""
    figure = new_figure(4.2)
    axes = figure.subplots()
    for color, (strategy, row) in zip(SERIES, record["curves"].items(), strict=False):
        x = [point["labeled"] for point in row["points"]]
        axes.plot(x, [point["mean"] for point in row["points"]], color=color, label=strategy, marker="o")
        ends = [point["interval"] for point in row["points"]]
        if all(ends):
            axes.fill_between(
                x, [low for low, _ in ends], [high for _, high in ends], color=color, alpha=0.15
            )
    axes.axhline(record["target_miou"]["mean"], color="#80868b", linestyle="--", label="target")
    axes.set(xlabel="labeled images", ylabel="mIoU")
    finish(axes, "mIoU by number of labels, mean and 95 % interval over seeds")
    legend(axes)
    return render("label/curves.html", title=f"Labeling of {record['spec']}", record=record, plot=svg(figure))
