"""One run from recipe to bundle: data checked, method trained, scored, drawn, stripped."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.bundle.bundle import write_json
from zoo.child import is_first
from zoo.data.open import built_in_name, is_published
from zoo.data.outside import check_outside
from zoo.errors import DatasetError, RecipeError, ZooError
from zoo.evaluation.figures import figures_of
from zoo.memory import peak_memory
from zoo.models.segmentation import segmentation_networks
from zoo.predictors.eager import EagerPredictor
from zoo.train.attempt import attempt, explaining
from zoo.train.data.class_pixels import class_weights_of
from zoo.train.data.identity import check_identity, in_words, write_identity
from zoo.train.data.loaders import BatchStream
from zoo.train.data.streams import TrainingData
from zoo.train.initialization import initialized_method, read_start
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.engine import Engine
from zoo.train.loop.validation import Selection, Validation, predictor_of, score
from zoo.train.method import phase_at, progress_at
from zoo.train.report.page import write_report
from zoo.train.report.pictures import write_curves, write_preview
from zoo.train.runs.folder import RunFolder, claimed_run, clear_run, new_run
from zoo.train.runs.log import FILTER, figures_over_time, last_figures, read_log
from zoo.train.runs.record import read_record
from zoo.train.runs.wandb import check_wandb, logged_to_wandb
from zoo.train.strip import strip

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_fabric import Fabric

    from zoo.train.data.class_pixels import ClassWeights
    from zoo.train.loop.hardware import Hardware
    from zoo.train.method import Method
    from zoo.train.recipe.schema import Recipe


log = logging.getLogger(__name__)

UNSEEN = 0.005
"""IoU below which a class counts as not found."""

CLASS_WEIGHTS = "label_loss.class_weights"
"""Buffer of a method with the weights of classes (`zoo.train.blocks.label_loss.LabelLoss`)."""


def start(
    recipe: Recipe,
    out: Path | None,
    hardware: Hardware,
    wandb: str | None = None,
    again: RunFolder | None = None,
    check: Callable[[EagerPredictor], None] | None = None,
) -> dict[str, Any]:
    """Train a recipe in a new run folder and return its metrics.

    Args:
        recipe: recipe of the run.
        out: run folder; None for a dated one.
        hardware: devices and processes.
        wandb: W&B project to log to.
        again: folder of a run without a checkpoint that starts anew, in place of `out`.
        check: called in the first process with the untrained segmentation network, before anything is
            written; it raises a `ZooError` to refuse it.

    Raises:
        ZooError: bad data, recipe or folder; nothing is trained then.
    """
    check_wandb(wandb, None if again is None else again.path)
    recipe, models = read_start(recipe)
    data = TrainingData.draw(recipe)
    recipe = data.recipe
    if out is not None:
        check_outside(out, data.source)
    planned = [again or new_run(out, recipe)] if is_first() else []
    fabric = hardware.fabric(recipe.precision)
    run = fabric.broadcast(planned)[0]
    fabric.seed_everything(recipe.seed, verbose=False)
    method, origins = initialized_method(recipe, models, data.source.classes.names)
    data = data.for_phases(method.phases(recipe.steps))
    class_weights = _weigh_classes(method, data)
    _remark_accumulation(recipe, method)
    _remark_strides(recipe, method)
    if fabric.is_global_zero:
        if check is not None:
            _check_untrained(method, recipe, data, check)
        if again is None:
            run = claimed_run(run, recipe, data.source.classes, other_name=out is None)
        else:
            clear_run(again)
            run.write_recipe(recipe, data.source.classes)  # which says where the data are now
        run.write_origins(origins)
        _write_data(run, data, class_weights)
    run = fabric.broadcast(run)
    validate = Validation(recipe, data.source, data.partition)
    return _recorded(_engine(fabric, method, data, run, validate), validate, data, wandb)


def _weigh_classes(method: Method, data: TrainingData) -> ClassWeights | None:
    """Give the loss of a new run the weights of classes that its recipe asks for, and return them.

    Raises:
        RecipeError: no pixel has a class.
    """
    found = class_weights_of(data.recipe, data.source, data.partition.labeled)
    if found is not None:
        method.get_buffer(CLASS_WEIGHTS).copy_(torch.tensor(found.values))
    return found


def _write_data(run: RunFolder, data: TrainingData, class_weights: ClassWeights | None) -> None:
    """Write what a new run learns from into its folder, and log it."""
    write_identity(run.path, data.source)
    data.write(run.partition)
    partition, classes = data.partition, data.source.classes
    log.info(
        "%s: %d labeled, %d unlabeled images, %d classes; partition %s",
        run.path, len(partition.labeled), len(partition.unlabeled), len(classes), partition.digest,
    )  # fmt: skip
    if partition.tags:
        log.info("%d images with classes alone; tags %s", len(partition.tags), partition.tags_digest)
    if class_weights is not None:
        write_json(run.class_weights, class_weights.record())
        log.info("class weights, %s", class_weights)


def resume(
    path: Path, method_name: str, hardware: Hardware, wandb: str | None = None, spec: str | None = None
) -> dict[str, Any]:
    """Continue the run of a method in a folder to its end and return its metrics.

    A run that ended before its first checkpoint starts anew. A run continues its W&B run.

    Args:
        path: folder of the run.
        method_name: method of the run.
        hardware: devices and processes.
        wandb: W&B project of a run that has none yet.
        spec: where the data of the run are now; None if they are where they were.

    Raises:
        ZooError: no run of this method there, or data that changed.
    """
    run = RunFolder(path)
    recipe, classes = run.read_recipe()
    if recipe.method.name != method_name:
        raise RecipeError(f"{path} is a run of {recipe.method.name}, got {method_name}: name its method")
    if spec is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"spec": spec})})
    if not run.checkpoint.is_file():
        log.warning("%s: no checkpoint yet, starting anew", path)
        return start(recipe, None, hardware, wandb, run)
    check_wandb(wandb, path)
    _check_there(recipe.data.spec, path)
    data = TrainingData.read(recipe, run.partition)
    partition = data.partition
    used = (*partition.labeled, *partition.unlabeled, *partition.tags, *data.held_out)
    added = check_identity(path, data.source, classes.names, used)
    data = data.without(added)
    fabric = hardware.fabric(recipe.precision)
    method = recipe.new_method()
    validate = Validation(recipe, data.source, partition)
    engine = _engine(fabric, method, data, run, validate)
    engine.resume()
    if fabric.is_global_zero:
        if spec is not None:
            run.write_recipe(recipe, classes)
        _remark_added(recipe.data.spec, added)
        if recipe.class_weights != "none":
            pairs = zip(classes.names, method.get_buffer(CLASS_WEIGHTS).tolist(), strict=True)
            log.info("class weights of the checkpoint: %s", ", ".join(f"{n} {w:.4g}" for n, w in pairs))
        log.info("%s: continuing after step %d of %d", path, engine.step, recipe.steps)
    return _recorded(engine, validate, data, wandb)


def _remark_added(spec: str | None, added: list[str]) -> None:
    """Log a warning about images that were added to the data since the run began."""
    if added:
        log.warning("%s: %s, not used by this run", spec, in_words("added image", added))


def _check_there(spec: str | None, path: Path) -> None:
    """Raise if the folder of a run's data does not exist from here.

    Raises:
        DatasetError: it does not exist.
    """
    if spec is None or built_in_name(spec) or is_published(spec) or Path(spec).exists():
        return
    record = read_record(path)
    last = None if record is None else record.last
    here = "" if last is None else f", or resume in {last.directory}, where the run was trained"
    raise DatasetError(
        f"{spec}: got no such path from here, expected the data of {path}: say where they are now with --data"
        f"{here}"
    )


def _engine(
    fabric: Fabric, method: Method, data: TrainingData, run: RunFolder, validate: Validation
) -> Engine:
    """Return the engine of a run."""
    engine = Engine(fabric, method, data.recipe, run, validate)
    if data.selection is not None:
        engine.selection = Selection(fabric, Validation(data.recipe, data.selection))
    return engine


def _check_untrained(
    method: Method, recipe: Recipe, data: TrainingData, check: Callable[[EagerPredictor], None]
) -> None:
    """Check the network that the run will end with; a classifier is exported only as part of a gate."""
    phase = method.phases(recipe.steps)[-1]
    predictor = predictor_of(method, recipe, data.source, method.scored(recipe.score, phase))
    if isinstance(predictor, EagerPredictor):
        check(predictor)


def _remark_accumulation(recipe: Recipe, method: Method) -> None:
    """Log how a step over several batches differs from one over a large batch."""
    if recipe.accumulate > 1:
        own = f"; so has {recipe.method.name} {method.of_a_batch}" if method.of_a_batch else ""
        log.warning(
            "accumulate %d: each batch has BatchNorm statistics of its own and weighs the same%s",
            recipe.accumulate,
            own,
        )


def _remark_strides(recipe: Recipe, method: Method) -> None:
    """Warn if the encoder does not have the output stride of the recipe."""
    network = next(iter(segmentation_networks(method).values()), None)
    wanted, strides = recipe.network.output_stride, () if network is None else network.encoder.strides
    if strides and strides[-1] != wanted:
        log.warning(
            "network.output_stride %d cannot be set for %s: its features have strides %s",
            wanted,
            recipe.network.encoder,
            ", ".join(map(str, strides)),
        )


def _recorded(engine: Engine, validate: Validation, data: TrainingData, wandb: str | None) -> dict[str, Any]:
    """Train to the end and return the metrics; the first process records the attempt in any case."""
    if not engine.fabric.is_global_zero:
        return _finish(engine, validate, data)
    try:
        with attempt(engine), explaining(engine), logged_to_wandb(engine.run.path, wandb) as engine.also_log:
            metrics = _finish(engine, validate, data)
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


def _finish(engine: Engine, validate: Validation, data: TrainingData) -> dict[str, Any]:
    """Train to the end, then write metrics, pictures and bundle; return the metrics."""
    recipe, run, fabric, source = engine.recipe, engine.run, engine.fabric, data.source
    stream = BatchStream(
        recipe,
        source,
        data.partition,
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
            "bad_steps": engine.train_step.bad_steps,
            "selected": None if engine.best is None else engine.best | {"on": recipe.select_on},
            "partition": data.partition.digest,
            "peak_memory": peak_memory(fabric.device),
            "step_ms": {phase: _median_ms(seconds) for phase, seconds in engine.seconds.items()},
            "curve": [[row["step"], row[main]] for row in rows if main in row],
            "filter": last_figures(rows, FILTER),
            "filter_by_class": by_class,
            "filter_curve": figures_over_time(rows, FILTER),
        } | ({} if engine.seconds else _measured(run))  # of a finished run no step was left to take
        write_json(run.metrics, metrics)
        _remark_unseen(recipe, val)
        write_preview(run.preview, predictor, source)
        write_curves(run.curves, run.log, engine.phases, figures)
        metrics["run"], metrics["bundle"] = str(run.path), str(strip(run.path))
    fabric.barrier()
    return metrics


def _remark_unseen(recipe: Recipe, val: dict[str, Any]) -> None:
    """Warn about classes of `val` of which the network finds next to nothing."""
    unseen = [name for name, iou in val.get("iou", {}).items() if iou is not None and iou < UNSEEN]
    if unseen:
        log.warning(
            "val: next to no pixel of %s is found: more steps or larger images may find them%s",
            ", ".join(unseen[:5]) + f" and {len(unseen) - 5} other classes" * (len(unseen) > 5),
            ", or weights: --set class_weights=effective_number" * (recipe.class_weights == "none"),
        )


def _measured(run: RunFolder) -> dict[str, Any]:
    """Return the measurements of a finished run's steps from its metrics."""
    if not run.metrics.is_file():
        return {}
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
    return {name: metrics[name] for name in ("peak_memory", "step_ms")}


def _median_ms(seconds: list[float]) -> float:
    return round(1000 * float(torch.tensor(seconds).median()), 1)
