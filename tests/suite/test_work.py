from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.models.deployable import build_deployable
from zoo.suite.models import config_of
from zoo.suite.roofline import roof
from zoo.suite.work import Work, count_work

MACHINE = {"tflops": {"fp32": 50.0, "tf32": 400.0, "bf16": 800.0}, "gb_per_s": {"memory": 2000.0}}


class Tiny(nn.Module):
    """A convolution from 3 to 4 channels of kernel 3, a ReLU, and a product from 4 to 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 2, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(self.conv(images)).relu().mean(dim=(2, 3)))


def test_the_work_of_a_small_network_is_what_is_counted_by_hand() -> None:
    work = count_work(Tiny(), (8, 16))
    pixels = 8 * 16
    assert work.flops == 2 * (pixels * 4 * 3 * 9) + 2 * (4 * 2)
    assert work.weights == 4 * 3 * 9 + 4 * 2
    assert work.activations == pixels * (3 + 4) + (4 + 2)
    assert work.image_bytes == pixels * 3 + pixels


def test_weights_are_read_once_for_a_batch_and_images_for_each() -> None:
    work = Work(flops=10.0, weights=100, activations=7, image_bytes=4)
    assert work.flops_of(3) == 30
    assert work.bytes_of(1, "fp32") == 4 * (100 + 7) + 4
    assert work.bytes_of(3, "fp16") == 2 * (100 + 21) + 12


@pytest.mark.parametrize("model", ["deeplabv3plus-tiny", "ensemble-tiny"])
def test_counting_changes_nothing_and_runs_nothing(model: str) -> None:
    deployable = build_deployable(config_of(model))
    before = {name: value.clone() for name, value in deployable.state_dict().items()}
    work = count_work(deployable, (4096, 4096))
    assert work.flops > 1e11
    after = deployable.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_an_ensemble_of_two_takes_twice_the_work_of_one() -> None:
    single, ensemble = (
        count_work(build_deployable(config_of(model)), (64, 64))
        for model in ("deeplabv3plus-tiny", "ensemble-tiny")
    )
    assert ensemble.flops == 2 * single.flops
    assert ensemble.weights == 2 * single.weights


def test_the_roof_is_the_larger_of_compute_and_memory() -> None:
    by_compute = roof(1.6e12, 2e9, "bf16", MACHINE)
    assert by_compute is not None
    assert (by_compute.ms, by_compute.bound) == (pytest.approx(2.0), "compute")
    by_memory = roof(0.8e12, 4e9, "bf16", MACHINE)
    assert by_memory is not None
    assert (by_memory.ms, by_memory.bound) == (pytest.approx(2.0), "memory")


def test_fp32_is_held_against_tf32_where_a_gpu_has_it() -> None:
    on_gpu, on_cpu = (
        roof(4e12, 1, "fp32", MACHINE),
        roof(4e12, 1, "fp32", {**MACHINE, "tflops": {"fp32": 50.0}}),
    )
    assert on_gpu is not None
    assert on_cpu is not None
    assert (on_gpu.peak, on_cpu.peak) == ("tf32", "fp32")
    assert on_cpu.ms == pytest.approx(8 * on_gpu.ms)


@pytest.mark.parametrize("machine", [{}, {"tflops": {"fp32": 1.0}}, {**MACHINE, "tflops": {}}])
def test_there_is_no_roof_where_a_peak_was_not_measured(machine: dict[str, dict[str, float]]) -> None:
    assert roof(1e12, 1e9, "bf16", machine) is None
