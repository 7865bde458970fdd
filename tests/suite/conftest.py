"""Records as a GPU would give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from zoo.serve.bench.measurement import Row, Speedup, Throughput, Times
from zoo.suite.record import Inputs, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    MakeRecord = Callable[..., Record]

MACHINE = {
    "machine": {"cpu": "A CPU", "cores": 8, "load": 0.5, "system": "Linux", "gpu": {"name": "A GPU"}},
    "gpu_before": {"clocks.sm": "1980 MHz", "held_down_by": []},
    "gpu_after": {"clocks.sm": "1410 MHz", "held_down_by": ["power cap", "idle"]},
    "tflops": {"fp32": 50.0, "tf32": 400.0, "bf16": 800.0, "fp16": 800.0},
    "gb_per_s": {"memory": 3000.0, "to_gpu": 50.0, "from_gpu": 50.0},
}


def make_inputs(**changes: Any) -> Inputs:
    fields = {"device": "cuda", "processor": "A GPU", "versions": {"torch": "2.15"}, "code": "c0de"}
    return Inputs(**{**fields, "options": {"quick": False}, **changes})


def write_record(name: str, figures: dict[str, Any] | None = None, **changes: Any) -> Record:
    kind = changes.pop("kind", name.partition("-")[0])
    fields = {
        "name": name,
        "kind": kind,
        "state": "finished",
        "begun": "2026-11-21T10:00:00+00:00",
        "seconds": 61.0,
        "limit_s": 480.0,
        "command": f"zoo bench --suite --parts {name} --out results --device cuda",
        "commit": {"commit": "0123456789", "branch": "main", "dirty": False, "changed": 0},
        "figures": figures,
        "inputs": make_inputs(**changes.pop("inputs", {})),
    }
    return Record(**{**fields, **changes})


def phase(name: str, ms: float, images: int = 12, **changes: Any) -> dict[str, Any]:
    """Return the figures of a phase as `zoo.train.profile.step_bench` gives them."""
    fields = {
        "phase": name,
        "images": images,
        "step_ms": {"p10": ms, "p50": ms, "p90": 1.1 * ms, "n": 10},
        "images_per_s": 1000 * images / ms,
        "peak_mib": 20 * 1024.0,
        "loss_share": 0.1,
        "contrast_share": None,
        "host_syncs": 0,
        "flops_per_step": 20e12,
    }
    return {**fields, **changes}


def training_figures(phases: dict[str, list[dict[str, Any]]], **failed: str) -> dict[str, Any]:
    """Return the figures of a part of training, by variant."""
    recipe = {
        "name": "eln_voc_1-8",
        "architecture": "deeplabv3plus",
        "encoder": "resnet50",
        "output_stride": 16,
        "imgsz": [512, 512],
        "batch_l": 6,
        "batch_u": 6,
        "num_classes": 21,
    }
    variants: dict[str, Any] = {
        name: {
            "variant": {
                "plain": name == "plain fp32",
                "precision": "bf16" if "bf16" in name else "fp32",
                "channels_last": "channels last" in name,
                "compile": "compile" in name,
            },
            "device": "cuda:0",
            "memory": "allocated on the GPU by PyTorch",
            "tf32": {"matmul": False, "conv": True},
            "phases": found,
        }
        for name, found in phases.items()
    }
    variants |= {name: {"reason": reason} for name, reason in failed.items()}
    return {"recipe": recipe, "variants": variants}


def times(p50: float) -> Times:
    return Times(n=30, min=p50, mean=p50, p50=p50, p90=1.2 * p50, p99=None, rounds=(p50,))


def gpu_row(model: str, backend: str, precision: str, p50: float, **changes: Any) -> dict[str, Any]:
    """Return the row of a backend whose compute takes four fifths of its time; eager fp32 takes 40 ms."""
    row = Row(
        model=model,
        backend=backend,
        precision=precision,
        imgsz=(512, 512),
        batch=1,
        end_to_end_ms=times(p50),
        gpu_compute_ms=times(0.8 * p50),
        throughput=Throughput(images_per_s=1000 / p50, queries=100, seconds=1, pipelined=True),
        speedup=Speedup(ratio=40 / p50, low=40 / p50, high=40 / p50),
        agreement=0.9995,
        device_memory_bytes=900_000_000,
    )
    return row.updated(**changes).model_dump(mode="json")


def inference_figures(*rows: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a part of inference: 80 GFLOP and, in fp16, 300 MB an image."""
    moved = {str(batch): {"fp32": 600e6, "bf16": 300e6, "fp16": 300e6} for batch in (1, 4)}
    return {
        "work": {"flops": 80e9, "bytes": moved},
        "rows": list(rows),
        "failed": {"4": "out of memory"},
        "missing": {},
    }


@pytest.fixture
def make_record() -> MakeRecord:
    """Return a function that makes the record of a part of that name, from its figures."""
    return write_record


@pytest.fixture(scope="session")
def gpu_records() -> tuple[Record, ...]:
    """Return the records of a GPU on which ELN and U2PL were trained and a model was run."""
    eln = {
        "plain fp32": [phase("pretrain", 300), phase("semi", 600, peak_mib=40_000.0, loss_share=0.05)],
        "bf16": [phase("pretrain", 100), phase("semi", 250, loss_share=0.12)],
        "bf16, channels last": [phase("pretrain", 90), phase("semi", 200, loss_share=0.14)],
    }
    u2pl = {
        "plain fp32": [phase("semi", 900)],
        "bf16": [phase("semi", 500, loss_share=0.2, contrast_share=0.08, host_syncs=2)],
    }
    rows = [
        gpu_row("deeplabv3plus-r50", "eager", "fp32", 40),
        gpu_row("deeplabv3plus-r50", "compile", "fp32", 20),
        gpu_row("deeplabv3plus-r50", "ort", "fp16", 8),
        gpu_row("deeplabv3plus-r50", "trt", None, 1, end_to_end_ms=None, reason="TensorRT is not installed"),
    ]
    options = {"encoder": "resnet50", "quick": False}
    return (
        write_record("machine", MACHINE),
        write_record(
            "train-eln-resnet50",
            training_figures(eln, **{"bf16, compile": "no compiler"}),
            inputs={"options": {**options, "method": "eln"}},
        ),
        write_record(
            "train-u2pl-resnet50", training_figures(u2pl), inputs={"options": {**options, "method": "u2pl"}}
        ),
        write_record(
            "infer-deeplabv3plus-r50-512x512",
            inference_figures(*rows),
            inputs={"options": {"model": "deeplabv3plus-r50", "imgsz": [512, 512], "quick": False}},
        ),
        write_record(
            "tests",
            {
                "passed": 14,
                "failed": 1,
                "skipped": 0,
                "failures": {"tests.a::b": "assert 1 == 2"},
                "skips": {},
            },
            state="failed",
            reason="1 of 15 tests failed: tests.a::b",
            inputs={"options": {"select": "gpu", "files": ["tests"]}},
        ),
    )
