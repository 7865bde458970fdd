"""Where a run may be trained."""

from __future__ import annotations

import pytest
import torch

from zoo.errors import RecipeError
from zoo.train.loop.hardware import Hardware


def test_fp16_on_the_cpu_is_refused() -> None:
    with pytest.raises(RecipeError, match="--precision fp16 needs a GPU, got --device cpu: use bf16 or fp32"):
        Hardware("cpu").fabric("fp16")


@pytest.mark.gpu
def test_more_gpus_than_there_are_is_refused() -> None:
    count = torch.cuda.device_count()
    message = rf"--devices {count + 1}: got {count} GPUs here, expected as many: lower it"
    with pytest.raises(RecipeError, match=message):
        Hardware("cuda", count + 1).fabric("fp32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match="--device cuda: torch finds no GPU"):
        Hardware("cuda").fabric("fp32")
