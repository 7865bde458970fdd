"""Stripping of a run to a bundle, which keeps what inference needs, without teachers and optimizers."""

from __future__ import annotations

import json
import logging
import shutil
from typing import TYPE_CHECKING, Any

import torch

from zoo import __version__
from zoo.bundle.bundle import CONFIG_NAME, BundleConfig, load_config, replacing
from zoo.bundle.weights import save_bundle
from zoo.card.card import PREVIEW_NAME, model_card, refresh_card
from zoo.card.licenses import DRAWN
from zoo.errors import BundleError
from zoo.models.deployable import Student
from zoo.models.encoder import timm_origin
from zoo.models.lora import add_lora, merge_lora
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.method import LOCALIZER, phase_at
from zoo.train.methods.table import METHODS
from zoo.train.runs.folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.bundle.reliability import Reliability
    from zoo.models.classifier import ImageClassifier
    from zoo.models.deployable import Deployable, Localized
    from zoo.models.origin import Origin
    from zoo.train.method import Method, Phase
    from zoo.train.recipe.schema import Recipe

log = logging.getLogger(__name__)


def strip(path: Path, weights: str | None = None, *, keep_localizer: bool = False) -> Path:
    """Write the bundle of a run from its checkpoint and return its folder.

    Args:
        path: folder of the run.
        weights: network to keep; None for the one that the run scores, which is written to `bundle/`, others
            to `bundle-NAME/`.
        keep_localizer: whether to keep the network that localizes the errors of this one too (ELN), in
            a folder named `...-localizer`.

    Raises:
        BundleError: the folder has no run or checkpoint, or the method has no such network, or no localizer.
    """
    run = RunFolder(path)
    recipe, classes = run.read_recipe()
    choices = METHODS[recipe.method.name].method.weights
    if weights not in (None, *choices):
        raise BundleError(
            f"--weights {weights}: {recipe.method.name} has {', '.join(choices)}: choose one of them"
        )
    selected = run.kept_checkpoint == run.best
    method, step, phase = _restored(run, recipe)
    if weights in phase.untrained:
        raise BundleError(
            f"--weights {weights}: it is not trained at step {step} of {recipe.steps}, in phase "
            f"{phase.name}: continue the run with --resume, or take another network"
        )
    scored = method.scored(recipe.score, phase)
    weights = weights or scored
    is_default = weights == scored
    deployable = method.deployable(weights)
    if keep_localizer:
        deployable = _localized(method, recipe.method.name, deployable, phase)
    deployable.eval()
    merge_lora(deployable)
    is_final = is_default and (step == recipe.steps or (selected and run.metrics.is_file()))
    config = BundleConfig(
        deployable=deployable.config,
        method=recipe.method.name,
        weights=weights,
        names=classes.names,
        palette=classes.palette,
        preprocessing=recipe.preprocessing,
        recipe=recipe.model_dump(mode="json"),
        provenance={
            "step": step,
            "partition": json.loads((run.partition / "partition.json").read_text(encoding="utf-8")),
            "parameters": {"trained": _count(method), "kept": _count(deployable)},
            "origins": [origin.model_dump(mode="json") for origin in _origins(run, recipe)],
            "versions": {"zoo": __version__, "torch": torch.__version__},
        },
        metrics=_read_metrics(run) if is_final else {},
    )
    name = run.bundle.name if is_default else f"{run.bundle.name}-{weights}"
    folder = run.path / (f"{name}-{LOCALIZER}" if keep_localizer else name)
    config = config.model_copy(update={"reliability": _kept_reliability(folder, config)})
    save_bundle(folder, deployable, config, model_card(config))
    if is_final and recipe.data.spec in DRAWN and run.preview.is_file():  # others may be private
        with replacing(folder / PREVIEW_NAME) as path:
            shutil.copyfile(run.preview, path)
    refresh_card(folder)
    return folder


def _restored(run: RunFolder, recipe: Recipe) -> tuple[Method, int, Phase]:
    """Return the method of a run with the weights of its kept checkpoint, its step, and the phase of it."""
    state = load_checkpoint(run.kept_checkpoint)
    method = recipe.new_method()
    if recipe.lora:
        add_lora(method, recipe.lora)
    method.load_state_dict(state["method"])
    step = state["step"]
    phase, _ = phase_at(max(0, step - 1), method.phases(recipe.steps))
    return method, step, phase


def _localized(
    method: Method, name: str, deployable: Deployable | ImageClassifier, phase: Phase
) -> Localized:
    """Return a model with its error localizer.

    Raises:
        BundleError: the method has none, or has not trained it yet.
    """
    found = method.with_localizer(deployable) if isinstance(deployable, Student) else None
    if found is None:
        raise BundleError(
            f"--keep-localizer: this run of {name} trains no error localizer, expected a run of eln with "
            f"method.filter.kind eln: leave the option out"
        )
    if LOCALIZER in phase.untrained:
        raise BundleError(
            f"--keep-localizer: the localizer is not trained in phase {phase.name}: continue the run with "
            f"--resume"
        )
    return found


def _kept_reliability(folder: Path, config: BundleConfig) -> Reliability | None:
    """Return the calibration of a bundle that holds the same network of the same step already."""
    if not (folder / CONFIG_NAME).is_file():
        return None
    try:
        before = load_config(folder)
    except BundleError:  # of another version, or broken: it is replaced
        return None
    same = (before.weights, before.recipe, before.provenance.get("step")) == (
        config.weights, config.recipe, config.provenance["step"],
    )  # fmt: skip
    return before.reliability if same else None


def _origins(run: RunFolder, recipe: Recipe) -> tuple[Origin, ...]:
    """Return the origins of the weights that a run started from; older versions did not record them."""
    recorded = run.read_origins()
    if recorded is None:
        return (timm_origin(recipe.network.encoder),) if recipe.pretrained else ()
    return recorded


def _read_metrics(run: RunFolder) -> dict[str, Any]:
    if not run.metrics.is_file():
        return {}
    metrics: dict[str, Any] = json.loads(run.metrics.read_text(encoding="utf-8"))
    return {"val": metrics["val"]}


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def holds_another_step(run: RunFolder) -> bool:
    """Return whether the bundle of a run holds another step than the run, not only an older copy of it."""
    held, kept = load_config(run.bundle).provenance.get("step"), run.kept_checkpoint
    step = load_checkpoint(kept)["step"]
    if held == step:  # a copied run
        return False
    log.info("%s holds step %s, %s step %d: stripping it anew", run.bundle, held, kept.name, step)
    return True
