"""One run from recipe to bundle: data checked, method trained, scored, drawn, stripped."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.bundle.bundle import write_json
from zoo.child import is_first
from zoo.data.partition import Partition
from zoo.data.tags import with_tags
from zoo.errors import RecipeError, ZooError
from zoo.evaluation.figures import figures_of
from zoo.memory import peak_memory
from zoo.models.segmentation import SegmentationNetwork
from zoo.predictors.tags import TagPredictor
from zoo.train.attempt import attempt, explaining
from zoo.train.data.loaders import BatchStream
from zoo.train.data.streams import (
    HeldOut,
    check_streams,
    checked_source,
    draw_partition,
    hold_out,
    read_held_out,
    write_held_out,
)
from zoo.train.initialization import initialized_method, read_start
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.engine import Engine
from zoo.train.loop.validation import Validation, predictor_of, score
from zoo.train.method import phase_at, progress_at
from zoo.train.methods.table import build_method
from zoo.train.report.page import write_report
from zoo.train.report.pictures import write_curves, write_preview, write_tag_preview
from zoo.train.runs.folder import RunFolder, claimed_run, new_run
from zoo.train.runs.log import FILTER, figures_over_time, last_figures, read_log
from zoo.train.runs.wandb import check_wandb, logged_to_wandb
from zoo.train.strip import strip

if TYPE_CHECKING:
    from zoo.data.source import Source
    from zoo.train.loop.hardware import Hardware
    from zoo.train.method import Method, Phase
    from zoo.train.recipe.schema import Recipe


log = logging.getLogger(__name__)


def start(recipe: Recipe, out: Path | None, hardware: Hardware, wandb: str | None = None) -> dict[str, Any]:
    """Train a recipe in a new run folder and return its metrics.

    Args:
        recipe: of the run.
        out: its folder; None for a dated one.
        hardware: where it is trained.
        wandb: W&B project to log to.

    Raises:
        ZooError: bad data, recipe or folder; nothing is trained then.
    """
    check_wandb(wandb)
    source = checked_source(recipe)
    recipe, models = read_start(recipe)
    recipe, partition = draw_partition(recipe, source)
    planned = [new_run(out, recipe)] if is_first() else []
    fabric = hardware.fabric(recipe.precision)
    run = fabric.broadcast(planned)[0]
    fabric.seed_everything(recipe.seed, verbose=False)
    method, origins = initialized_method(recipe, models, source.classes.names)
    phases = method.phases(recipe.steps)
    check_streams(recipe, partition, phases)
    _remark_accumulation(recipe, method)
    _remark_strides(recipe, method)
    partition = _with_tags(recipe, partition, phases, source)
    partition, held_out = hold_out(recipe, partition)
    if fabric.is_global_zero:
        run = claimed_run(run, recipe, source.classes, other_name=out is None)
        run.write_origins(origins)
        partition.write(run.partition)
        write_held_out(run.partition, held_out)
        log.info(
            "%s: %d labeled, %d unlabeled images, %d classes; partition %s",
            run.path, len(partition.labeled), len(partition.unlabeled), len(source.classes), partition.digest,
        )  # fmt: skip
        if partition.tags:
            log.info("%d images with classes alone; tags %s", len(partition.tags), partition.tags_digest)
    run = fabric.broadcast(run)
    validate = Validation(recipe, source, partition)
    engine = Engine(fabric, method, recipe, run, validate)
    engine.select = _selection(recipe, source, held_out)
    return _recorded(engine, validate, partition, wandb)


def resume(path: Path, method_name: str, hardware: Hardware, wandb: str | None = None) -> dict[str, Any]:
    """Continue the run of a method in a folder to its end and return its metrics.

    It continues its W&B run; `wandb` is the W&B project of a run that has none yet.

    Raises:
        ZooError: no run of this method or no checkpoint there, or data that changed.
    """
    run = RunFolder(path)
    recipe, _ = run.read_recipe()
    if recipe.method.name != method_name:
        raise RecipeError(f"{path} is a run of {recipe.method.name}, got {method_name}: name its method")
    check_wandb(wandb, path)
    source = checked_source(recipe)
    partition = Partition.read(run.partition)
    fabric = hardware.fabric(recipe.precision)
    method = build_method(recipe.method, recipe.network, pretrained=False)
    validate = Validation(recipe, source, partition)
    engine = Engine(fabric, method, recipe, run, validate)
    engine.select = _selection(recipe, source, read_held_out(run.partition) if recipe.select_on else ())
    engine.resume()
    if fabric.is_global_zero:
        log.info("%s: continuing after step %d of %d", path, engine.step, recipe.steps)
    return _recorded(engine, validate, partition, wandb)


def _selection(recipe: Recipe, source: Source, held_out: tuple[str, ...]) -> Validation | None:
    """Return what the step that is kept is chosen by; None if that is the last one."""
    return Validation(recipe, HeldOut(source, held_out)) if held_out else None


def _remark_accumulation(recipe: Recipe, method: Method) -> None:
    """Say what a step of several batches computes otherwise than one of a large batch."""
    if recipe.accumulate > 1:
        own = f"; so has {recipe.method.name} {method.of_a_batch}" if method.of_a_batch else ""
        log.warning(
            "accumulate %d: each batch has BatchNorm statistics of its own and weighs the same%s",
            recipe.accumulate,
            own,
        )


def _remark_strides(recipe: Recipe, method: Method) -> None:
    """Say so if the encoder has not the output stride that the recipe names."""
    network = next((part for part in method.modules() if isinstance(part, SegmentationNetwork)), None)
    wanted, strides = recipe.network.output_stride, () if network is None else network.encoder.strides
    if strides and strides[-1] != wanted:
        log.warning(
            "network.output_stride %d cannot be set for %s: its features have strides %s",
            wanted,
            recipe.network.encoder,
            ", ".join(map(str, strides)),
        )


def _with_tags(recipe: Recipe, partition: Partition, phases: tuple[Phase, ...], source: Source) -> Partition:
    """Return the partition with the tags that the recipe names, if the method learns any."""
    if recipe.data.tags is None:
        return partition
    if not any(phase.tags for phase in phases):
        log.warning("data.tags %s is not used: %s learns no tags", recipe.data.tags, recipe.method.name)
        return partition
    return with_tags(partition, Path(recipe.data.tags), source)


def _recorded(
    engine: Engine, validate: Validation, partition: Partition, wandb: str | None
) -> dict[str, Any]:
    """Train to the end and return the metrics; whatever the end, the first process leaves its record."""
    if not engine.fabric.is_global_zero:
        return _finish(engine, validate, partition)
    try:
        with attempt(engine), explaining(engine), logged_to_wandb(engine.run.path, wandb) as engine.also_log:
            metrics = _finish(engine, validate, partition)
    except BaseException:
        _report(engine.run.path)
        raise
    _report(engine.run.path)
    return metrics


def _report(path: Path) -> None:
    try:
        write_report(path)
    except (OSError, ZooError) as error:  # a full disk, say: it must not hide how the run ended
        log.warning("%s: no report of the run: %s", path, error)


def _finish(engine: Engine, validate: Validation, partition: Partition) -> dict[str, Any]:
    """Train to the end, then write metrics, pictures and bundle; return the metrics."""
    recipe, run, fabric, source = engine.recipe, engine.run, engine.fabric, validate.source
    stream = BatchStream(
        recipe,
        source,
        partition,
        engine.phases,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )
    engine.fit(stream)
    metrics: dict[str, Any] = {}
    if fabric.is_global_zero:
        last = progress_at(recipe.steps - 1, engine.phases)
        by_class = validate.filter_by_class(engine.method, last)
        if engine.best is not None:
            engine.method.load_state_dict(load_checkpoint(run.best)["method"])
        kept = recipe.steps if engine.best is None else engine.best["step"]
        phase, _ = phase_at(kept - 1, engine.phases)
        weights = engine.method.scored(recipe.score, phase)
        predictor = predictor_of(engine.method, recipe, source, weights)
        at_the_end = None if engine.best is not None else validate.metrics
        val = at_the_end or score(predictor, source)  # one that continues a finished run evaluated nothing
        figures, rows = figures_of(val), read_log(run.log)
        main = f"val/{figures.main}"
        metrics = {
            "val": val,
            "weights": weights,
            "networks": {
                name: score(predictor_of(engine.method, recipe, source, name), source)
                for name in recipe.also_score
                if name not in (weights, *phase.untrained)
            },
            "steps": recipe.steps,
            "bad_steps": engine.bad_steps,
            "selected": None if engine.best is None else engine.best | {"on": recipe.select_on},
            "partition": partition.digest,
            "peak_memory": peak_memory(fabric.device),
            "step_ms": {phase: _median_ms(seconds) for phase, seconds in engine.seconds.items()},
            "curve": [[row["step"], row[main]] for row in rows if main in row],
            "filter": last_figures(rows, FILTER),
            "filter_by_class": by_class,
            "filter_curve": figures_over_time(rows, FILTER),
        } | ({} if engine.seconds else _measured(run))  # of a finished run no step was left to take
        write_json(run.metrics, metrics)
        if isinstance(predictor, TagPredictor):
            write_tag_preview(run.preview, predictor, source)
        else:
            write_preview(run.preview, predictor, source)
        write_curves(run.curves, run.log, engine.phases, figures)
        metrics["run"], metrics["bundle"] = str(run.path), str(strip(run.path))
    fabric.barrier()
    return metrics


def _measured(run: RunFolder) -> dict[str, Any]:
    """Return what was measured of a run's steps when they were taken."""
    if not run.metrics.is_file():
        return {}
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
    return {name: metrics[name] for name in ("peak_memory", "step_ms")}


def _median_ms(seconds: list[float]) -> float:
    return round(1000 * float(torch.tensor(seconds).median()), 1)
