"""The figures of the steps of one phase: time, memory, parts, floating-point operations, waits for a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from zoo.train.memory import peak_mib, reset_peak
from zoo.train.memory_fit import images_of
from zoo.train.parts import LOSSES, loss_modules
from zoo.train.syncs import recorded_syncs
from zoo.train.synthetic import synthetic_batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo.train.method import Batch, Phase
    from zoo.train.profile import ProfiledEngine

CONTRAST = "contrast"
"""Name of the child of U2PL that computes its contrastive loss, and so of its part."""
UNTIMED_STEPS = 4
"""Of a phase: the first one, those for operations and for waits, the one that finds the parts."""


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
    """Return the figures of a phase that the engine is about to begin; see `zoo.train.stepbench`."""
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
