"""ONNX files that take photos of any size: resizing to the network's size and of the mask back, in the graph.

Both resize as Pillow, which `zoo.preprocess` uses: the bilinear filter with antialiasing is a matrix product
for each axis, because ONNX's `Resize` antialiases differently in ONNX Runtime and not at all in OpenVINO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import compose, numpy_helper, parser

from zoo.errors import ExportError
from zoo.export.to_onnx import check_onnx
from zoo.predictors.artifact import INPUT_NAME, METADATA_KEY, ArtifactMetadata
from zoo.predictors.outputs import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.export.to_onnx import OnnxFacts
    from zoo.preprocess import Resize

PHOTO_NAMES = {"fp32": "model.photo.onnx", "fp16": "model.fp16.photo.onnx"}
"""Names of these files by precision."""

SCALED: dict[Resize, str] = {
    "fit": """
        ratios = Div(imgsz, real)
        ratio = ReduceMin<keepdims = 1>(ratios)
        scaled = Mul(real, ratio)
        rounded = Round(scaled)
    """,
    "stretch": "rounded = Identity(imgsz)",
}
"""Nodes that compute the network's (height, width) from that of the photo, as `resized_size` does."""

AXIS = """
    inside{n} = Gather<axis = 0>(size, axis{n})
    outside{n} = Gather<axis = 0>(target, axis{n})
    reals{n} = Cast<to = 11>(inside{n})
    wanted{n} = Cast<to = 11>(outside{n})
    step{n} = Div(reals{n}, wanted{n})
    reach{n} = Max(step{n}, one)
    rows{n} = Range(zero, outside{n}, unit)
    row{n} = Cast<to = 11>(rows{n})
    middle{n} = Add(row{n}, half)
    center{n} = Mul(middle{n}, step{n})
    centers{n} = Unsqueeze(center{n}, last)
    places{n} = Range(zero, inside{n}, unit)
    place{n} = Cast<to = 11>(places{n})
    points{n} = Add(place{n}, half)
    offset{n} = Sub(points{n}, centers{n})
    share{n} = Div(offset{n}, reach{n})
    distance{n} = Abs(share{n})
    slope{n} = Sub(one, distance{n})
    peak{n} = Max(slope{n}, nothing)
    total{n} = ReduceSum<keepdims = 1>(peak{n}, last)
    exact{n} = Div(peak{n}, total{n})
    fine{n} = Mul(exact{n}, shift)
    near{n} = Add(fine{n}, half)
    fixed{n} = Floor(near{n})
    parts{n} = Div(fixed{n}, split)
    upper{n} = Floor(parts{n})
    carried{n} = Mul(upper{n}, split)
    lower{n} = Sub(fixed{n}, carried{n})
    high{n} = Cast<to = 1>(upper{n})
    low{n} = Cast<to = 1>(lower{n})
"""
"""Nodes that compute the (outside, inside) weights of an axis: a triangle around the center of each pixel.

Pillow has weights of 22 bits. They are split into two of 11 bits, so that float32 holds sums of products with
pixels.
"""

PRODUCT = """
    {out}_high = MatMul({first_high}, {second_high})
    {out}_low = MatMul({first_low}, {second_low})
    {out}_upper = Cast<to = 6>({out}_high)
    {out}_lower = Cast<to = 6>({out}_low)
    {out}_scaled = Mul({out}_upper, whole_split)
    {out}_sum = Add({out}_scaled, {out}_lower)
    {out}_near = Add({out}_sum, whole_half)
    {out} = Div({out}_near, whole_shift)
"""
"""Nodes that resize an axis and round."""

BEFORE = """
<ir_version: 10, opset_import: ["" : 18]>
before (uint8[b, h, w, 3] photo) => (uint8[b, p, q, 3] pixels, int64[2] size) {{
    size = Shape<start = 1, end = 3>(photo)
    real = Cast<to = 11>(size)
    {scaled}
    least = Max(rounded, smallest)
    target = Cast<to = 7>(least)
    {axes}
    values = Cast<to = 1>(photo)
    planes = Transpose<perm = [0, 3, 1, 2]>(values)
    across_high = Transpose<perm = [1, 0]>(high1)
    across_low = Transpose<perm = [1, 0]>(low1)
    {products}
    bytes = Cast<to = 2>(small)
    pixels = Transpose<perm = [0, 2, 3, 1]>(bytes)
}}
"""
"""Pillow rounds after each axis, the horizontal one first."""

AFTER = """
<ir_version: 10, opset_import: ["" : 18]>
after ({given}, int64[2] size) => ({made}) {{
    {nodes}
}}
"""

NEAREST = """
    inner{n} = Shape<start = {axis}, end = {end}>({given})
    from{n} = Cast<to = 11>(inner{n})
    outer{n} = Gather<axis = 0>(size, axis{n})
    to{n} = Cast<to = 11>(outer{n})
    pace{n} = Div(from{n}, to{n})
    single{n} = Mul(pace{n}, halved)
    others{n} = Sub(outer{n}, unit)
    count{n} = Unsqueeze(others{n}, first)
    more{n} = Expand(pace{n}, count{n})
    steps{n} = Concat<axis = 0>(single{n}, more{n})
    found{n} = CumSum(steps{n}, zero)
    below{n} = Floor(found{n})
    index{n} = Cast<to = 7>(below{n})
"""
"""Nodes that compute the pixel of the network's output for each of the photo's, along an axis.

Pillow adds up the steps too, and its error decides where a step ends exactly between two pixels.
"""

CONSTANTS = {
    "zero": np.int64(0),
    "unit": np.int64(1),
    "axis0": np.int64(0),
    "axis1": np.int64(1),
    "first": np.array([0]),
    "last": np.array([1]),
    "one": np.float64(1),
    "half": np.float64(0.5),
    "nothing": np.float64(0),
    "halved": np.array([0.5]),
    "shift": np.float64(2**22),
    "split": np.float64(2**11),
    "whole_shift": np.int32(2**22),
    "whole_half": np.int32(2**21),
    "whole_split": np.int32(2**11),
}


def check_photo(metadata: ArtifactMetadata) -> None:
    """Check that the resizing of a file can be part of its graph.

    Raises:
        ExportError: the model does not resize 8-bit RGB, or an output is not resized by nearest neighbor.
    """
    if not metadata.preprocessing.format.is_rgb:
        raise ExportError(
            f"--resize-in-graph resizes 8-bit RGB, the model takes {metadata.preprocessing.format}: leave "
            f"the option out"
        )
    if metadata.preprocessing.resize not in SCALED:
        raise ExportError(
            "--resize-in-graph: the model takes images at their own size (resize none): leave the option out"
        )
    for output in metadata.outputs:
        if OUTPUTS[output.name].resize != "nearest":
            raise ExportError(
                f"--resize-in-graph has no {output.name}, whose resizing differs, expected --output mask or "
                "mask+confidence"
            )


def export_photo(network: Path, metadata: ArtifactMetadata, path: Path) -> OnnxFacts:
    """Write a file that takes photos of any size from an exported file, and return its facts.

    Args:
        network: ONNX file that takes images at the network's size.
        metadata: metadata of that file; those of the new one have `resize` none.
        path: output path.

    Raises:
        ExportError: the metadata do not allow it, or the graph is not valid.
    """
    check_photo(metadata)
    inner = compose.add_prefix(onnx.load(network), "net_")
    names = [output.name for output in metadata.outputs]
    del inner.metadata_props[:]
    before, after = _before(metadata), _after(metadata)
    for part in (before, after):
        part.ir_version = inner.ir_version
    model = compose.merge_models(before, inner, [("before_pixels", f"net_{INPUT_NAME}")])
    ends = [("before_size", "after_size"), *((f"net_{name}", f"after_{name}_in") for name in names)]
    model = compose.merge_models(model, after, ends)
    del model.graph.value_info[:]  # the network's h and w are not the photo's
    _rename(model, {"before_photo": INPUT_NAME, **{f"after_{name}": name for name in names}})
    own = photo_metadata(metadata)
    model.metadata_props.add(key=METADATA_KEY, value=own.model_dump_json())
    onnx.save(model, path)
    return check_onnx(path, own)


def photo_metadata(metadata: ArtifactMetadata) -> ArtifactMetadata:
    """Return the metadata of a file that resizes photos itself: it takes all of them as they are."""
    preprocessing = metadata.preprocessing.model_copy(update={"resize": "none"})
    return metadata.model_copy(update={"preprocessing": preprocessing, "smallest": (1, 1)})


def _before(metadata: ArtifactMetadata) -> onnx.ModelProto:
    """Return the model that resizes photos; smaller images than the network accepts are enlarged."""
    axes = AXIS.format(n=0) + AXIS.format(n=1)
    preprocessing = metadata.preprocessing
    wide = PRODUCT.format(
        out="wide",
        **dict.fromkeys(("first_high", "first_low"), "planes"),
        second_high="across_high",
        second_low="across_low",
    )
    small = PRODUCT.format(
        out="small",
        first_high="high0",
        first_low="low0",
        **dict.fromkeys(("second_high", "second_low"), "columns"),
    )
    products = f"{wide}    columns = Cast<to = 1>(wide)\n{small}"
    text = BEFORE.format(scaled=SCALED[preprocessing.resize], axes=axes, products=products)
    sizes = {"imgsz": preprocessing.imgsz, "smallest": metadata.smallest or (1, 1)}
    return _parsed(text, "before_", {name: np.array(size, np.float64) for name, size in sizes.items()})


def _after(metadata: ArtifactMetadata) -> onnx.ModelProto:
    """Return the model that resizes outputs to the photo's size, as `zoo.preprocess.resize_mask` does."""
    outputs = {output.name: output.dtype for output in metadata.outputs}
    first = f"{next(iter(outputs))}_in"
    nodes = "".join(NEAREST.format(n=n, axis=n + 1, end=n + 2, given=first) for n in (0, 1))
    nodes += "".join(
        f"{name}_rows = Gather<axis = 1>({name}_in, index0)\n{name} = Gather<axis = 2>({name}_rows, index1)\n"
        for name in outputs
    )
    given = ", ".join(f"{dtype}[b, p, q] {name}_in" for name, dtype in outputs.items())
    made = ", ".join(f"{dtype}[b, h, w] {name}" for name, dtype in outputs.items())
    return _parsed(AFTER.format(given=given, made=made, nodes=nodes), "after_", {})


def _parsed(text: str, prefix: str, constants: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """Return a model from its text, with the constants that it uses and a prefix before all names."""
    model = parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    for name, value in {**CONSTANTS, **constants}.items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return compose.add_prefix(model, prefix)


def _rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Rename the inputs and outputs of a model, whose dimensions are `b`, `h` and `w`."""
    graph = model.graph
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
        for dim, size in zip(value.type.tensor_type.shape.dim, ("b", "h", "w"), strict=False):
            dim.dim_param = size
