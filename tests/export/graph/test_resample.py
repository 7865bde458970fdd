from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from zoo.export.graph.resample import ResampleByProducts, resample


@pytest.mark.parametrize("size", [(14, 11), (7, 31), (37, 9), (3, 5), (28, 22)])
def test_two_products_resample_as_pytorch_does(size: tuple[int, int]) -> None:
    features = torch.randn(2, 3, 14, 11)
    expected = F.interpolate(features, size=size, mode="bicubic", antialias=True)
    torch.testing.assert_close(resample(features, size), expected, atol=1e-5, rtol=1e-5)


def test_the_same_size_changes_nothing() -> None:
    features = torch.randn(1, 2, 5, 7)
    assert torch.equal(resample(features, (5, 7)), features)


def test_only_antialiased_bicubic_resampling_is_replaced() -> None:
    features = torch.randn(1, 2, 5, 7)
    expected = F.interpolate(features, size=(9, 4), mode="bicubic", antialias=True)
    plain = F.interpolate(features, size=(9, 4), mode="bicubic")
    with ResampleByProducts():
        assert torch.equal(F.interpolate(features, size=(9, 4), mode="bicubic"), plain)
        found = F.interpolate(features, size=(9, 4), mode="bicubic", antialias=True)
    assert torch.equal(found, resample(features, (9, 4)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
