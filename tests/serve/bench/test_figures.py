from __future__ import annotations

import pytest

from zoo.serve.bench.benchmark import figures, scenarios, speedup, times
from zoo.serve.bench.measurement import Throughput
from zoo.serve.bench.queries import Query, Slice


def slices(*rounds: list[float]) -> list[Slice]:
    """Return rounds of these seconds."""
    return [Slice(seconds) for seconds in rounds]


def test_figures_follow_from_the_runs() -> None:
    rounds = slices([0.010, 0.020], [0.030, 0.100])
    found = figures(rounds, 4)
    times = found["end_to_end_ms"]
    assert times.n == 4
    assert times.min == pytest.approx(10)
    assert times.mean == pytest.approx(40)
    assert times.p50 == pytest.approx(25)
    assert times.p90 == pytest.approx(79)
    assert times.p99 is None
    assert times.rounds == pytest.approx((15, 65))
    assert found["throughput"].images_per_s == pytest.approx(16 / 0.160)
    assert not found["throughput"].pipelined
    assert "gpu_compute_ms" not in found


def test_a_speedup_is_a_ratio_of_medians_with_the_range_of_the_rounds() -> None:
    baseline = slices([0.030, 0.030], [0.130, 0.130])
    found = speedup(baseline, slices([0.010, 0.020], [0.030, 0.034]))
    assert found is not None
    assert found.ratio == pytest.approx(80 / 25)
    assert (found.low, found.high) == pytest.approx((30 / 15, 130 / 32))
    assert speedup(None, baseline) is None


def test_no_outlier_is_removed_and_p99_needs_a_thousand_runs() -> None:
    thousand = [[0.001] * 98 + [1.0, 1.0] for _ in range(10)]
    assert times(thousand).p99 == pytest.approx(1)
    assert times([[0.001] * 999]).p99 is None


def test_the_parts_of_queries_are_summed_query_by_query_before_the_percentiles() -> None:
    queries = [Query(h2d=1, gpu_compute=10, d2h=3, enqueue=2), Query(h2d=5, gpu_compute=2, d2h=1, enqueue=4)]
    found = figures([Slice([0.5], queries, (8, 2.0))] * 2, 3)
    assert found["latency_ms"].p50 == pytest.approx((14 + 8) / 2)
    assert found["gpu_compute_ms"].p50 == pytest.approx(6)
    assert found["h2d_ms"].p50 + found["gpu_compute_ms"].p50 + found["d2h_ms"].p50 == pytest.approx(11)
    assert found["enqueue_ms"].min == 2
    assert found["throughput"] == Throughput(images_per_s=12, queries=16, seconds=4, pipelined=True)


def test_batch_one_is_a_single_stream_and_the_largest_batch_offline() -> None:
    assert [scenarios(batch, (1, 4, 8)) for batch in (1, 4, 8)] == [("SingleStream",), (), ("Offline",)]
    assert scenarios(1, (1,)) == ("SingleStream", "Offline")
