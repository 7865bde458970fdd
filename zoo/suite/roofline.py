"""How fast a processor could be at best: the larger of what its arithmetic and what its memory allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Roof(NamedTuple):
    """The bound of one query.

    Args:
        ms: at least so long.
        bound: what it is that takes so long, `compute` or `memory`.
        peak: the precision whose peak is meant.
    """

    ms: float
    bound: str
    peak: str


def peak_of(precision: str, tflops: Mapping[str, float]) -> str:
    """Return which measured peak bounds a precision.

    In fp32 PyTorch's convolutions, ONNX Runtime and TensorRT use TF32 on a GPU unless they are told not to.
    """
    return "tf32" if precision == "fp32" and "tf32" in tflops else precision


def roof(flops: float, moved: float, precision: str, machine: Mapping[str, Any]) -> Roof | None:
    """Return the bound of a query on a machine, None where its peak in that precision was not measured.

    Args:
        flops: of the query.
        moved: bytes.
        precision: of weights and activations.
        machine: figures of the part `machine`.
    """
    tflops, bandwidth = machine.get("tflops", {}), machine.get("gb_per_s", {}).get("memory")
    peak = peak_of(precision, tflops)
    if bandwidth is None or peak not in tflops:
        return None
    compute_ms = flops / tflops[peak] / 1e9
    memory_ms = moved / bandwidth / 1e6
    if compute_ms >= memory_ms:
        return Roof(compute_ms, "compute", peak)
    return Roof(memory_ms, "memory", peak)
