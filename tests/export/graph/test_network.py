from __future__ import annotations

import torch
from torch import nn

from zoo.export.graph.network import split_hard_swish, write_out_of_place


def test_hard_swish_in_two_operators_is_the_same_function() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Sequential(nn.Hardswish(), nn.Conv2d(4, 2, 1)), nn.Hardswish()
    )
    images = torch.randn(2, 3, 8, 8) * 4
    expected = model(images)
    split_hard_swish(model)
    assert not [module for module in model.modules() if isinstance(module, nn.Hardswish)]
    torch.testing.assert_close(model(images), expected)


def test_modules_that_overwrite_their_input_no_longer_do() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU6(inplace=True), nn.Conv2d(4, 2, 1), nn.ReLU(inplace=True)
    )
    images = torch.randn(2, 3, 8, 8)
    expected = model(images)
    write_out_of_place(model)
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    assert torch.equal(model(images), expected)
