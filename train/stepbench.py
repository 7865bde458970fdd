"""How long a training step takes, computed in one of several ways, on batches that lie on the device.

A step is the engine's own (`Engine.train_step`), from uint8 images to moved teachers; only the loader is not
part of it. Neither data set nor network is needed: images are noise, weights random, and they stay as they
are, as all learning rates are zero. All that a step computes has fixed sizes, so its time depends on none of
this. Queues of negatives are full from the first step on.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.errors import RecipeError
from zoo.train.compute import ComputeConfig
from zoo.train.hardware import Hardware
from zoo.train.memory import KIND, release
from zoo.train.profile import ProfiledEngine
from zoo.train.recipe import validate_recipe
from zoo.train.registry import build_method
from zoo.train.run import RunFolder
from zoo.train.step_figures import UNTIMED_STEPS, figures_of_phase
from zoo.train.synthetic import fill_banks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.fabric import Fabric

    from zoo.train.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepVariant:
    """One way to compute a step.

    Args:
        name: in reports.
        precision: `fp32`, or mixed `bf16` or `fp16`.
        channels_last: memory layout of images and convolutions.
        compile: encoders, decoders and discriminators by `torch.compile`.
        plain: the baseline that speed is compared with, the same method without a thought of speed: fp32
            without TF32, NCHW, eager, optimizers as PyTorch runs them by default (not fused), nothing
            computed again. Its losses are those of the other variants, and cuDNN chooses algorithms by trial
            for it too.
    """

    name: str
    precision: str
    channels_last: bool
    compile: bool
    plain: bool = False


def measure_step(
    recipe: Recipe, device: str, *, variant: StepVariant, steps: int, warmup: int
) -> dict[str, Any]:
    """Return the figures of the steps of a recipe by phase, ready for JSON.

    Args:
        recipe: whose networks, batches and losses are measured, with the number of its classes.
        device: `cpu` or `cuda`.
        variant: how they are computed; it replaces what the recipe says of it.
        steps: that are timed in each phase, once as they are and once cut into parts.
        warmup: steps of each phase after its first one that are not timed.

    Returns:
        `variant`, `device`, `memory` (what peaks are of), `tf32` (whether products of matrices and
        convolutions of fp32 use it) and `phases`, a list of: `phase`, `images` of a step, `first_step_s`
        (compiles), `step_ms` (`p10`, `p50`, `p90`, `n`; between CUDA events on a GPU), `images_per_s`,
        `peak_mib`, `parts` (ms by name, see `zoo.train.profile`), `loss_share` (of the parts: losses, without
        their gradients, and U2PL's contrast with its own), `contrast_share` (the latter; else None),
        `flops_per_step` (forward and backward, what is computed again included), `tflops_per_s`, and from a
        GPU (else None) `host_syncs` in forward and hooks of the method, `engine_syncs` elsewhere in the step,
        `sync_places`.

    Raises:
        RecipeError: no such device, a precision that it lacks, a contradictory variant, memory for less than
            a step, or a loss that is not finite.
    """
    if steps < 1 or warmup < 0:
        raise RecipeError(f"steps is {steps} and warmup {warmup}, expected at least 1 and 0")
    recipe = computed_by(recipe, variant)
    fabric = Hardware(device).fabric(recipe.precision)
    release(fabric.device)  # what a former measurement left
    with _algorithms(variant):
        try:
            phases = _measure_phases(fabric, recipe, variant, steps, warmup)
        except torch.OutOfMemoryError as error:
            raise RecipeError(
                f"{recipe.recipe}, {variant.name}: a step needs more memory than {fabric.device} has free: "
                f"lower data.batch_l and data.batch_u, or take compute.recompute or bf16"
            ) from error
        finally:
            torch.compiler.reset()
        backends = torch.backends
        tf32 = {"matmul": backends.cuda.matmul.allow_tf32, "conv": backends.cudnn.allow_tf32}
    return {
        "variant": asdict(variant),
        "device": str(fabric.device),
        "memory": KIND[fabric.device.type],
        "tf32": tf32,
        "phases": phases,
    }


def computed_by(recipe: Recipe, variant: StepVariant) -> Recipe:
    """Return the recipe computed by a variant, from random weights.

    Raises:
        RecipeError: a baseline that is not plain, or switches that exclude each other.
    """
    if variant.plain and (variant.precision != "fp32" or variant.channels_last or variant.compile):
        raise RecipeError(
            f"variant {variant.name} is plain, got precision {variant.precision}, channels_last "
            f"{variant.channels_last}, compile {variant.compile}: expected fp32 and neither"
        )
    compute = (ComputeConfig() if variant.plain else recipe.compute).model_dump()
    compute |= {"compile": variant.compile, "channels_last": variant.channels_last}
    changes = {"precision": variant.precision, "compute": compute, "pretrained": False}
    return validate_recipe(recipe.model_dump(mode="json") | changes)


@contextmanager
def _algorithms(variant: StepVariant) -> Iterator[None]:
    """Keep TF32 from the baseline, and restore afterwards what was chosen for the whole process."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        if variant.plain:
            matmul.allow_tf32 = cudnn.allow_tf32 = False
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def _measure_phases(
    fabric: Fabric, recipe: Recipe, variant: StepVariant, steps: int, warmup: int
) -> list[dict[str, Any]]:
    engine = built_engine(fabric, recipe, variant)
    length = warmup + 2 * steps + UNTIMED_STEPS
    engine.phases = tuple(phase._replace(steps=length) for phase in engine.phases)
    found = []
    for number, phase in enumerate(engine.phases):
        log.info("%s, %s: %d steps", variant.name, phase.name, length)
        engine.step = number * length
        found.append(figures_of_phase(engine, phase, steps, warmup))
    if engine.bad_steps:
        raise RecipeError(
            f"{recipe.recipe}, {variant.name}: {engine.bad_steps} steps had a loss that is not finite and no "
            f"optimizer step, expected none: give another seed or precision"
        )
    return found


def built_engine(fabric: Fabric, recipe: Recipe, variant: StepVariant) -> ProfiledEngine:
    """Return an engine whose steps take their full time and change no weight."""
    fabric.seed_everything(recipe.seed, verbose=False)
    method = build_method(recipe.method, recipe.network, pretrained=False)
    engine = ProfiledEngine(fabric, method, recipe, RunFolder(Path()), lambda _: {})
    for optimizer in engine.optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = 0.0
            group["fused"] = group["fused"] and not variant.plain
    fill_banks(method)
    method.train()
    return engine
