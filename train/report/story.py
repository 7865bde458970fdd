"""Contents of a run folder for its report: parsed files, warnings and facts."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.data.partition import Partition
from zoo.errors import BundleError, DatasetError
from zoo.evaluation.figures import MASKS, TAGS, Figures, figures_of
from zoo.models.config import nest_decoder
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.listing import Run, read_run
from zoo.train.runs.log import Row, read_log
from zoo.train.runs.record import RunRecord, read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class RunContents(NamedTuple):
    """Parsed contents of a run folder."""

    folder: Path
    run: Run
    recipe: dict[str, Any]
    classes: list[tuple[str, tuple[int, int, int]]]
    record: RunRecord | None
    rows: list[Row]
    metrics: dict[str, Any]
    """Empty for an unfinished run."""

    @property
    def figures(self) -> Figures:
        """Return the names of the metrics of the run."""
        if self.metrics:
            return figures_of(self.metrics["val"])
        return TAGS if self.run.figure in TAGS.overall.values() else MASKS

    @property
    def phases(self) -> dict[str, int]:
        """Return the number of steps of each phase; a run without a record has one phase."""
        return self.record.phases if self.record else {"train": self.run.steps}


def read_story(folder: Path) -> RunContents:
    """Return the parsed contents of a run folder.

    Raises:
        BundleError: the folder is not a run, or its files cannot be read.
    """
    files = RunFolder(folder)
    if not files.is_run:
        raise BundleError(f"{folder} holds no {files.recipe_file.name}, expected the folder of a run")
    run, metrics = read_run(folder), files.metrics
    try:
        value = json.loads(files.recipe_file.read_bytes())
        classes = [
            (name, (r, g, b)) for name, (r, g, b) in zip(value["names"], value["palette"], strict=True)
        ]
        figures = json.loads(metrics.read_bytes()) if metrics.is_file() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{folder} holds files that are not those of a run ({error!r}): train again"
        ) from error
    rows = read_log(files.log)
    return RunContents(folder, run, value["recipe"], classes, read_record(folder), rows, figures)


def warnings(story: RunContents) -> Iterator[tuple[str, str]]:
    """Yield the warnings at the top of a report: `bad` or `warning`, and a sentence."""
    run = story.run
    if run.state in ("failed", "stopped"):
        kind = "bad" if run.state == "failed" else "warning"
        yield kind, f"{run.state.capitalize()} after step {run.step} of {run.steps}: {run.reason}"
    skipped = int(max((row.get("bad_steps", 0.0) for row in story.rows), default=0))
    if skipped:
        yield "warning", f"{skipped} steps were skipped, as their loss or gradient was not finite."
    for name in names_of(story.rows, "loss/"):
        steps = [int(row["step"]) for row in story.rows if not math.isfinite(row.get(name, 0.0))]
        if steps:
            yield "warning", f"{name} was not finite at {len(steps)} logged steps, first at step {steps[0]}."
    yield from _changes(story)
    absent = [name for name, value in class_table(story, 0).items() if value is None]
    if absent:
        yield "warning", f"Not on any val image, so not in the mean: {', '.join(absent)}."
    yield from _partition(story)


def _partition(story: RunContents) -> Iterator[tuple[str, str]]:
    """Yield warnings about broken lists of images, and about masks hidden by default."""
    try:
        note = Partition.read(story.folder / "partition").hidden_note(story.run.data)
    except DatasetError as error:
        yield "bad", str(error)
        return
    if note is not None:
        yield "warning", note


def _changes(story: RunContents) -> Iterator[tuple[str, str]]:
    """Yield warnings about reproducibility: changed files, and attempts on other versions or machines."""
    attempts = story.record.attempts if story.record else ()
    dirty = max((each.git["changed"] for each in attempts if each.git), default=0)
    if dirty:
        yield "warning", f"The commit does not tell all: {dirty} files of the working directory were changed."
    for what in ("versions", "machine"):
        values = [getattr(each, what) for each in attempts]
        for key in dict.fromkeys(key for value in values for key in value):
            seen = list(dict.fromkeys(str(value.get(key)) for value in values))
            if len(seen) > 1:
                yield "warning", f"Attempts differ in {key}: {', then '.join(seen)}."


def facts(story: RunContents) -> list[tuple[str, str]]:
    """Return the facts of a run by name: data, network, training, machine, versions."""
    run, recipe = story.run, story.recipe
    data, network = recipe["data"], nest_decoder(recipe["network"])
    last = story.record.last if story.record else None
    height, width = data["imgsz"]
    batch = f"{data['batch_l']} labeled and {data['batch_u']} unlabeled images"
    batch = f"{recipe['accumulate']} times {batch}" if recipe["accumulate"] > 1 else batch
    origins = RunFolder(story.folder).read_origins() or ()
    pretrained = "pretrained weights" if recipe["pretrained"] else "random weights"
    start = " and ".join(f"{each.kind} weights {each.name}" for each in origins) or pretrained
    pairs = [
        ("data", f"{run.data}, partition {data['partition']}: {run.labeled} labeled images"),
        ("lists", f"{run.partition}, in {story.folder / 'partition'}"),
        ("evaluation", f"{run.protocol}, of {_which(story)}{_weights(story)}"),
        ("network", f"{network['decoder']['name']}, {network['encoder']} from {start}"),
        ("training", f"{run.steps:,} steps, crop {height} x {width}, {batch}, {recipe['precision']}"),
        ("loss on labels", label_loss(recipe, data.get("rare_classes", 0))),
        ("seed", str(run.seed)),
        ("phases", ", ".join(f"{name} {steps:,}" for name, steps in story.phases.items())),
    ]
    if last is not None:
        machine = last.machine
        pairs += [
            ("machine", f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {last.host}"),
            (
                "versions",
                ", ".join(f"{name} {version}" for name, version in last.versions.items() if version),
            ),
            ("code", _code(last.git)),
        ]
    return pairs


def label_loss(settings: dict[str, Any], rare: float) -> str:
    """Return a description of the loss on labeled pixels, by default that of older versions.

    Args:
        settings: `loss` and `class_weights`, as in a recipe.
        rare: share of labeled images that are drawn for rare classes.
    """
    words, weights = [settings.get("loss", "cross_entropy")], settings.get("class_weights", "none")
    words += [] if weights == "none" else [f"class weights {weights}"]
    words += [f"{rare:.0%} of the images for rare classes"] if rare else []
    return ", ".join(words)


def _which(story: RunContents) -> str:
    """Return a description of the step that is kept."""
    if not story.recipe.get("select_on"):
        return "the last step"
    return f"the step that is best on {story.recipe['select_on']} of the labeled images, which are held out"


def _weights(story: RunContents) -> str:
    """Return the network of the method that is scored, if it is known."""
    weights = story.metrics.get("weights") or story.recipe.get("score")
    return f", {weights}" if weights else ""


def _code(git: dict[str, Any] | None) -> str:
    if git is None:
        return "no git repository"
    branch = f" on {git['branch']}" if git["branch"] else ""
    changed = f", {git['changed']} files changed" if git["dirty"] else ", nothing changed"
    return f"{git['commit'] or 'before the first commit'}{branch}{changed}"


def names_of(rows: Iterable[Row], prefix: str) -> list[str]:
    """Return the names of a log with a prefix, in order of appearance."""
    return list(dict.fromkeys(key for row in rows for key in row if key.startswith(prefix)))


def class_table(story: RunContents, number: int) -> dict[str, float | None]:
    """Return one of the metrics by class; empty for an unfinished run."""
    if not story.metrics:
        return {}
    values: dict[str, float | None] = story.metrics["val"][list(story.figures.by_class)[number]]
    return values
