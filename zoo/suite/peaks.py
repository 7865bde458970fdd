"""What a processor can do at most, by large matrix products and copies: the roofline is made of these."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from zoo.serve.bench.gpu import gpu_state
from zoo.serve.bench.machine import describe_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.suite.part import Figures, Keep

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SIDES = (4096, 8192, 16384)
"""Of the matrices; the largest figure counts."""
COPY_BYTES = 2**30
ROUNDS = 10
SECONDS = 0.3
"""Each round; the fastest round counts, as a peak is asked for."""


class Effort(NamedTuple):
    """Sizes and lengths of the measurement."""

    sides: tuple[int, ...] = SIDES
    copy_bytes: int = COPY_BYTES
    rounds: int = ROUNDS
    seconds: float = SECONDS


QUICK = Effort(sides=(128,), copy_bytes=2**20, rounds=2, seconds=0.01)


def measure(options: dict[str, Any], device: str, keep: Keep) -> Figures:
    """Return the peaks: `tflops` by precision, `gb_per_s` of memory, and to and from a GPU.

    Args:
        options: `quick`.
        device: `cpu` or `cuda`.
        keep: told of what there is.
    """
    effort = QUICK if options["quick"] else Effort()
    figures: Figures = {"machine": describe_machine(), "gpu_before": gpu_state(), "effort": effort._asdict()}
    tflops: dict[str, float] = {}
    for precision in precisions(device):
        log.info("products of matrices in %s", precision)
        tflops[precision] = matmul_tflops(precision, device, effort)
        keep(figures | {"tflops": tflops})
    log.info("copies")
    bandwidths = {name: gb_per_s(name, device, effort) for name in copies(device)}
    return figures | {"tflops": tflops, "gb_per_s": bandwidths, "gpu_after": gpu_state()}


def precisions(device: str) -> tuple[str, ...]:
    """Return the precisions that are measured; TF32 is a mode of GPUs."""
    return tuple(name for name in DTYPES if name != "tf32" or device == "cuda")


def copies(device: str) -> tuple[str, ...]:
    """Return which ways of the memory are measured."""
    return ("memory", "to_gpu", "from_gpu") if device == "cuda" else ("memory",)


def matmul_tflops(precision: str, device: str, effort: Effort) -> float:
    """Return 1e12 floating-point operations a second of the best of some sizes of square matrices."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        return max(_side_tflops(DTYPES[precision], side, device, effort) for side in effort.sides)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def _side_tflops(dtype: torch.dtype, side: int, device: str, effort: Effort) -> float:
    first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(first)
    seconds = best_seconds(lambda: torch.mm(first, second, out=out), device, effort)
    return 2 * side**3 / seconds / 1e12


def gb_per_s(way: str, device: str, effort: Effort) -> float:
    """Return 1e9 bytes a second of a copy; within a memory each byte is read and written, so counts twice."""
    count = effort.copy_bytes
    host = torch.zeros(count, dtype=torch.uint8, pin_memory=device == "cuda")
    if way == "memory":
        source, target, times = host.to(device), torch.empty(count, dtype=torch.uint8, device=device), 2
    else:
        there = torch.zeros(count, dtype=torch.uint8, device=device)
        source, target = (host, there) if way == "to_gpu" else (there, host)
        times = 1
    seconds = best_seconds(lambda: target.copy_(source, non_blocking=True), device, effort)
    return times * count / seconds / 1e9


def best_seconds(run: Callable[[], object], device: str, effort: Effort) -> float:
    """Return the seconds of a run in the fastest of some rounds, each of as many runs as fill its time."""
    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(2):
        run()
    wait()
    one = max(_seconds(run, 1, wait), 1e-7)
    runs = max(1, round(effort.seconds / one))
    return min(_seconds(run, runs, wait) for _ in range(effort.rounds)) / runs


def _seconds(run: Callable[[], object], runs: int, wait: Callable[[], object]) -> float:
    """Return the seconds that runs take together."""
    wait()
    begin = time.perf_counter()
    for _ in range(runs):
        run()
    wait()
    return time.perf_counter() - begin
