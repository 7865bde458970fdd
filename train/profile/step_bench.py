"""How long a training step takes, computed in one of several ways, on batches that lie on the device.

A step is the engine's own (`Engine.train_step`), from uint8 images to moved teachers; only the loader is not
part of it. Neither data set nor network is needed: images are noise, weights random, and they stay as they
are, as all learning rates are zero. All that a step computes has fixed sizes, so its time depends on none of
this. Queues of negatives are full from the first step on.
"""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from zoo.errors import RecipeError
from zoo.memory import KIND, peak_mib, release, reset_peak
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.table import build_method
from zoo.train.profile.memory_fit import images_of
from zoo.train.profile.parts import LOSSES, loss_modules
from zoo.train.profile.profile import ProfiledEngine
from zoo.train.profile.synthetic import fill_banks, synthetic_batch
from zoo.train.recipe.read import validate_recipe
from zoo.train.recipe.schema import ComputeConfig
from zoo.train.runs.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.fabric import Fabric

    from zoo.train.method import Batch, Phase
    from zoo.train.recipe.schema import Recipe


log = logging.getLogger(__name__)

CONTRAST = "contrast"
"""Name of the child of U2PL that computes its contrastive loss, and so of its part."""

UNTIMED_STEPS = 4
"""Of a phase: the first one, those for operations and for waits, the one that finds the parts."""

MESSAGE = "called a synchronizing CUDA operation"
"""What PyTorch says in the debug mode `warn` of `torch.cuda.set_sync_debug_mode`."""

OURS, METHODS = "zoo.", "zoo.train.methods."


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
        `peak_mib`, `parts` (ms by name, see `profile`), `loss_share` (of the parts: losses, without
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
    engine = ProfiledEngine(fabric, method, recipe, RunFolder(Path()), lambda *_: {})
    for optimizer in engine.optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = 0.0
            group["fused"] = group["fused"] and not variant.plain
    fill_banks(method)
    method.train()
    return engine


class Operations(TorchDispatchMode):
    """Adds up floating-point operations by the formulas of PyTorch's `FlopCounterMode`.

    That mode itself keeps activations that are computed again, for which there may be no memory.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def figures_of_phase(engine: ProfiledEngine, phase: Phase, steps: int, warmup: int) -> dict[str, Any]:
    """Return the figures of a phase that the engine is about to begin; see `zoo.train.profile.step_bench`."""
    device = engine.fabric.device
    data = repeat(synthetic_batch(engine.recipe, phase, device))
    start = engine.watch.now()
    engine.next_step(data)
    first = engine.watch.now() - start
    for _ in range(warmup):
        engine.next_step(data)
    counts_memory = reset_peak(device)
    step_ms = timed(engine, data, steps)
    peak = peak_mib(device) if counts_memory else None
    images = images_of(phase, engine.recipe) * engine.recipe.accumulate
    flops = counted_flops(engine, data)
    p10, p50, p90 = (float(value) for value in np.percentile(step_ms, (10, 50, 90)))
    return {
        "phase": phase.name,
        "images": images,
        "first_step_s": first,
        "step_ms": {"p10": p10, "p50": p50, "p90": p90, "n": steps},
        "images_per_s": 1000 * images / p50,
        "peak_mib": peak,
        "flops_per_step": flops,
        "tflops_per_s": flops / p50 / 1e9,
        **counted_syncs(engine, data),
        **shares(engine, data, steps),
    }


def timed(engine: ProfiledEngine, data: Iterator[Batch], steps: int) -> list[float]:
    """Return the ms of each of some steps: between CUDA events on a GPU, by the clock on the CPU."""
    if engine.fabric.device.type != "cuda":
        times = [engine.watch.now()]
        for _ in range(steps):
            engine.next_step(data)
            times.append(engine.watch.now())
        return [1000 * (end - start) for start, end in pairwise(times)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    marks[0].record()
    for mark in marks[1:]:
        engine.next_step(data)
        mark.record()
    engine.watch.now()
    return [float(start.elapsed_time(end)) for start, end in pairwise(marks)]


def counted_flops(engine: ProfiledEngine, data: Iterator[Batch]) -> int:
    """Return the floating-point operations of a step, two for a multiply-add; compiled code runs eagerly."""
    eager = torch.compiler.set_stance("force_eager") if engine.recipe.compute.compile else nullcontext()
    operations = Operations()
    with eager, operations:
        engine.next_step(data)
    return operations.total


def counted_syncs(engine: ProfiledEngine, data: Iterator[Batch]) -> dict[str, Any]:
    """Return how often the host waits for a GPU in a step, and where; None for each on the CPU."""
    if engine.fabric.device.type != "cuda":
        return {"host_syncs": None, "engine_syncs": None, "sync_places": None}
    with recorded_syncs() as found:
        engine.next_step(data)
    own = sum(sync.in_method for sync in found)
    places = [f"{sync.place}{'' if sync.in_method else ' (engine)'}" for sync in found]
    return {"host_syncs": own, "engine_syncs": len(found) - own, "sync_places": places}


def shares(engine: ProfiledEngine, data: Iterator[Batch], steps: int) -> dict[str, Any]:
    """Return the parts of a step and which share of it the losses have."""
    parts = engine.cut_steps(data, steps)
    share = {name: part["share"] or 0.0 for name, part in parts.items()}
    losses = {LOSSES, *loss_modules(engine.method)}
    return {
        "parts": {name: part["ms"] for name, part in parts.items()},
        "loss_share": sum(value for name, value in share.items() if name in losses),
        "contrast_share": share.get(CONTRAST),
    }


class Sync(NamedTuple):
    """One wait."""

    place: str
    """`file:line` of the innermost line of this package, or of the call itself if none is on the stack."""
    in_method: bool
    """Whether a method's `forward` or hook was at work; not so in the backward pass."""


@contextmanager
def recorded_syncs() -> Iterator[list[Sync]]:
    """Collect the waits of a stretch of code on a GPU."""
    mode = torch.cuda.get_sync_debug_mode()
    with collected_warnings() as found:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def collected_warnings() -> Iterator[list[Sync]]:
    """Collect the waits that PyTorch warns of; other warnings go where they went before."""
    found: list[Sync] = []
    with warnings.catch_warnings():
        others = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if MESSAGE in str(message):
                found.append(_caller(f"{filename}:{lineno}"))
            else:
                others(message, category, filename, lineno, file, line)

        warnings.filterwarnings("always", message=f".*{MESSAGE}")
        warnings.showwarning = note
        yield found


def _caller(call: str) -> Sync:
    """Return who made the call that was just warned of."""
    frame = sys._getframe(2)
    stack = []
    while frame is not None:
        stack.append((frame.f_globals.get("__name__", ""), frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    ours = [(name, line) for name, line in stack if name.startswith(OURS)]
    place = f"{ours[0][0].replace('.', '/')}.py:{ours[0][1]}" if ours else call
    return Sync(place, any(name.startswith(METHODS) for name, _ in ours))
