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
from zoo.export.graph.to_onnx import check_onnx
from zoo.predictors.artifact import INPUT_NAME, METADATA_KEY, ArtifactMetadata
from zoo.predictors.outputs import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.export.graph.to_onnx import OnnxFacts
    from zoo.preprocess import Resize

PHOTO_NAMES = {"fp32": "model.photo.onnx", "fp16": "model.fp16.photo.onnx"}
"""Names of these files by precision."""

DIVISION = """
    {out}_above = Cast<to = 1>({above})
    {out}_below = Cast<to = 1>({below})
    {out}_ratio = Div({out}_above, {out}_below)
    {out}_floor = Floor({out}_ratio)
    {out} = Cast<to = 7>({out}_floor)
    {out}_part = Mul({out}, {below})
    {out}_exact = Sub({above}, {out}_part)
    {out}_left = Cast<to = 1>({out}_exact)
    {out}_rest = Div({out}_left, {out}_below)
"""
"""Nodes that divide integers: a quotient, which may be off by one, and the remainder over the divisor.

OpenVINO computes in float32 and multiplies by reciprocals, so that a quotient that is exact, or exactly
between two results, may be rounded either way. The product and the rest are integers.
"""

SCALED: dict[Resize, str] = {
    "fit": f"""
        turned = Gather<axis = 0>(size, other)
        limits = Gather<axis = 0>(imgsz, other)
        products = Mul(size, limits)
        doubled = Mul(turned, two)
        {DIVISION.format(out="pairs", above="products", below="doubled")}
        even = Mul(pairs, two)
        steps = Mul(pairs_rest, fine)
        step = Round(steps)
        extra = Mul(step, grain)
        nearest = Round(extra)
        more = Cast<to = 7>(nearest)
        rounded = Add(even, more)
        scaled = Min(rounded, imgsz)
    """,
    "stretch": "scaled = Identity(imgsz)",
}
"""Nodes that compute the network's (height, width) from that of the photo, as `resized_size` does.

The rest over twice the divisor is rounded to a grid that has the halves, which are rounded to even.
"""

AXIS = f"""
    inside{{n}} = Gather<axis = 0>(size, axis{{n}})
    outside{{n}} = Gather<axis = 0>(target, axis{{n}})
    rows{{n}} = Range(zero, outside{{n}}, one)
    twice{{n}} = Mul(rows{{n}}, two)
    middle{{n}} = Add(twice{{n}}, one)
    center{{n}} = Mul(middle{{n}}, inside{{n}})
    centers{{n}} = Unsqueeze(center{{n}}, last)
    places{{n}} = Range(zero, inside{{n}}, one)
    double{{n}} = Mul(places{{n}}, two)
    point{{n}} = Add(double{{n}}, one)
    points{{n}} = Mul(point{{n}}, outside{{n}})
    offset{{n}} = Sub(points{{n}}, centers{{n}})
    distance{{n}} = Abs(offset{{n}})
    larger{{n}} = Max(inside{{n}}, outside{{n}})
    reach{{n}} = Mul(larger{{n}}, two)
    slope{{n}} = Sub(reach{{n}}, distance{{n}})
    peak{{n}} = Max(slope{{n}}, zero)
    total{{n}} = ReduceSum<keepdims = 1>(peak{{n}}, last)
    shifted{{n}} = Mul(peak{{n}}, whole_split)
    {DIVISION.format(out="upper{n}", above="shifted{n}", below="total{n}")}
    high{{n}} = Cast<to = 1>(upper{{n}})
    lower{{n}} = Mul(upper{{n}}_rest, split)
    near{{n}} = Add(lower{{n}}, half)
    low{{n}} = Floor(near{{n}})
"""
"""Nodes that compute the (outside, inside) weights of an axis: a triangle around the center of each pixel.

Positions are integers, multiples of half a pixel on both sides. Pillow has weights of 22 bits. They are split
into two of 11 bits, so that float32 holds sums of products with pixels.
"""

PRODUCT = """
    {out}_high = MatMul({first_high}, {second_high})
    {out}_low = MatMul({first_low}, {second_low})
    {out}_carry = Mul({out}_low, part)
    {out}_carried = Floor({out}_carry)
    {out}_sum = Add({out}_high, {out}_carried)
    {out}_near = Add({out}_sum, half_split)
    {out}_exact = Mul({out}_near, part)
    {out} = Floor({out}_exact)
"""
"""Nodes that resize an axis and round."""

BEFORE = """
<ir_version: 10, opset_import: ["" : 18]>
before (uint8[b, h, w, 3] photo) => (uint8[b, p, q, 3] pixels, int64[2] size) {{
    size = Shape<start = 1, end = 3>(photo)
    {scaled}
    target = Max(scaled, smallest)
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
"""`resize_image` rounds after each axis, the horizontal one first."""

AFTER = """
<ir_version: 10, opset_import: ["" : 18]>
after ({given}, int64[2] size) => ({made}) {{
    {nodes}
}}
"""

NEAREST = f"""
    inner{{n}} = Shape<start = {{axis}}, end = {{end}}>({{given}})
    outer{{n}} = Gather<axis = 0>(size, axis{{n}})
    rows{{n}} = Range(zero, outer{{n}}, one)
    twice{{n}} = Mul(rows{{n}}, two)
    middle{{n}} = Add(twice{{n}}, one)
    doubled{{n}} = Mul(inner{{n}}, two)
    center{{n}} = Mul(middle{{n}}, doubled{{n}})
    right{{n}} = Add(center{{n}}, one)
    sides{{n}} = Mul(outer{{n}}, four)
    {DIVISION.format(out="found{n}", above="right{n}", below="sides{n}")}
    below{{n}} = Floor(found{{n}}_rest)
    off{{n}} = Cast<to = 7>(below{{n}})
    index{{n}} = Add(found{{n}}, off{{n}})
"""
"""Nodes that compute the pixel of the network's output for each of the photo's, along an axis.

A little to the right of its center, so that no quotient is exact.
"""

CONSTANTS = {
    "zero": np.int64(0),
    "one": np.int64(1),
    "two": np.int64(2),
    "four": np.int64(4),
    "axis0": np.int64(0),
    "axis1": np.int64(1),
    "other": np.array([1, 0]),
    "last": np.array([1]),
    "half": np.float32(0.5),
    "fine": np.float32(2**17),
    "grain": np.float32(2**-16),
    "split": np.float32(2**11),
    "part": np.float32(2**-11),
    "half_split": np.float32(2**10),
    "whole_split": np.int64(2**11),
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
    return _parsed(text, "before_", {name: np.array(size) for name, size in sizes.items()})


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
