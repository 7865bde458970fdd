from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from zoo.data.shapes import ShapesSource
from zoo.predictors.load import load_predictor
from zoo.serve.bench.benchmark import PARTS
from zoo.serve.bench.contender import read_images
from zoo.serve.bench.queries import GpuTurn
from zoo.serve.bench.timing import Budget

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.serve.bench.measurement import Report, Row

    Measure = Callable[..., Report]


def row_of(report: Report, backend: str) -> Row:
    return next(row for row in report.rows if row.backend == backend)


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [False, True])
def test_a_gpu_is_timed_in_parts(tiny_bundle: Path, resident: bool, measure: Measure) -> None:
    row = row_of(measure(tiny_bundle, device="cuda", match_trtexec=resident), "eager")
    parts = [getattr(row, f"{part}_ms") for part in PARTS]
    assert all(part.n >= 10 for part in parts)
    compute, h2d, d2h, latency, enqueue = parts
    assert compute.p50 > 0
    assert enqueue.p50 > 0
    assert (h2d.p50 == 0) == (d2h.p50 == 0) == resident
    assert latency.mean == pytest.approx(compute.mean + h2d.mean + d2h.mean)
    assert (row.bytes_h2d, row.bytes_d2h) == ((0, 0) if resident else (64 * 64 * 3, 64 * 64))
    assert row.throughput is not None
    assert row.throughput.pipelined
    assert row.device_memory_bytes is not None
    assert row.device_memory_bytes > 0


@pytest.mark.gpu
def test_the_masks_of_queries_on_three_streams_are_those_of_a_run(tiny_bundle: Path) -> None:
    predictor: Any = load_predictor(tiny_bundle, device="cuda")
    images = read_images(ShapesSource(), (64, 64))[:2]
    turn = GpuTurn(predictor, lambda: predictor.run(images), images, resident=False)
    turn(Budget(seconds=0.1, runs=20))
    for lane in turn.lanes:
        assert np.array_equal(lane.host_masks.numpy(), predictor.run(images))


@pytest.mark.slow
def test_a_compiled_model_agrees_and_tells_the_time_of_its_first_run(
    tiny_bundle: Path, measure: Measure
) -> None:
    row = row_of(measure(tiny_bundle, backends=("eager", "compile")), "compile")
    assert row.build_s == row.first_run_s
    assert row.agreement is not None
    assert row.agreement > 0.999
    assert row.first_run_s is not None
    assert row.end_to_end_ms is not None
    assert row.first_run_s * 1000 > row.end_to_end_ms.p90


@pytest.mark.slow
def test_a_compiler_that_is_missing_is_a_reason(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measure: Measure
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    row = row_of(measure(tiny_bundle, backends=("eager", "compile")), "compile")
    assert row.end_to_end_ms is None
    assert "No working C++ compiler" in str(row.reason)
