import copy
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from zoo.export.graph.same_padding import same_padding_as_attribute

SIZES = [(1, 1), (2, 3), (7, 8), (16, 16), (17, 31), (64, 48), (65, 33)]


OPTIONS = {"plain": {}, "dilated": {"dilation": 2}, "depthwise": {"groups": 4, "bias": False}}


@pytest.fixture(scope="module", params=OPTIONS)
def made(request, tmp_path_factory) -> tuple[nn.Module, Path]:
    """Three convolutions, as PyTorch computes them and in an ONNX file of dynamic sizes."""
    torch.manual_seed(0)
    options = {"plain": {}, "dilated": {"dilation": 2}, "depthwise": {"groups": 4, "bias": False}}[
        request.param
    ]
    model = nn.Sequential(
        Conv2dSame(4, 4, 3, stride=2, **options),
        Conv2dSame(4, 8, 5, stride=(2, 1), **options),
        Conv2dSame(8, 4, 2, stride=3, **options),
    ).eval()
    path = tmp_path_factory.mktemp("same") / "model.onnx"
    traced = copy.deepcopy(model)
    same_padding_as_attribute(traced)
    dims = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.onnx.export(
        traced, (torch.zeros(2, 4, 33, 47),), dynamo=True, dynamic_shapes=(dims,), verbose=False
    )
    program.save(path)
    return model, path


@pytest.mark.parametrize("size", SIZES)
def test_the_file_computes_what_timm_does(made, size):
    model, path = made
    images = torch.randn(2, 4, *size)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(found), model(images), rtol=1e-5, atol=1e-5)


def test_nothing_of_the_padding_is_left_in_the_graph(made):
    """ONNX Runtime refuses the attribute where a convolution is dilated."""
    model, path = made
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert (kinds == {"Conv"}) is (model[0].dilation == (1, 1))
