from __future__ import annotations

import pytest
import torch

from zoo.suite.peaks import QUICK, best_seconds, copies, gb_per_s, matmul_tflops, measure, precisions


def test_a_cpu_is_measured_in_every_precision_that_it_has() -> None:
    kept: list[dict[str, object]] = []
    figures = measure({"quick": True}, "cpu", kept.append)
    assert figures["tflops"].keys() == {"fp32", "bf16", "fp16"}
    assert all(value > 0 for value in figures["tflops"].values())
    assert figures["gb_per_s"].keys() == {"memory"}
    assert figures["gb_per_s"]["memory"] > 0
    assert figures["machine"]["cores"] >= 1
    assert len(kept) == 3  # one for each precision, in case that the part is ended


def test_a_gpu_also_has_tf32_and_two_ways_to_the_host() -> None:
    assert precisions("cuda") == ("fp32", "tf32", "bf16", "fp16")
    assert copies("cuda") == ("memory", "to_gpu", "from_gpu")


def test_measuring_leaves_the_precision_of_products_as_it_was() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    matmul_tflops("tf32", "cpu", QUICK)
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_a_run_is_repeated_and_the_fastest_round_counts() -> None:
    runs: list[int] = []
    seconds = best_seconds(lambda: runs.append(1), "cpu", QUICK._replace(rounds=3, seconds=0.0))
    assert len(runs) == 2 + 1 + 3  # to warm up, to see how long one takes, the rounds
    assert seconds > 0


@pytest.mark.gpu
@pytest.mark.parametrize("precision", precisions("cuda"))
def test_a_gpu_multiplies_faster_than_a_cpu(precision: str) -> None:
    effort = QUICK._replace(sides=(2048,))
    assert matmul_tflops(precision, "cuda", effort) > 1


@pytest.mark.gpu
@pytest.mark.parametrize("way", copies("cuda"))
def test_a_gpu_copies(way: str) -> None:
    assert gb_per_s(way, "cuda", QUICK._replace(copy_bytes=2**26)) > 1
