"""Export of a model to files that run without PyTorch, each compared with it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import ExportError
from zoo.machine import choose_device
from zoo.resolve import ModelLike, model_text, resolve_bundle

if TYPE_CHECKING:
    from zoo.api.bundle import Bundle
    from zoo.export.options import ExportOptions

log = logging.getLogger(__name__)

AUTO = "auto"
"""Precision that keeps the fastest file on this machine within its tolerance."""


def export(
    model: ModelLike = None,
    *,
    onnx: bool = False,
    trt: bool = False,
    precision: str | Sequence[str] | None = None,
    imgsz: int | tuple[int, int] | None = None,
    batch: tuple[int, int, int] | None = None,
    sm: Sequence[int] = (),
    images: str | Path | None = None,
    output: str | None = None,
    weights: str | None = None,
    branch: Literal["both", "1", "2"] = "both",
    fuse_weight: float | None = None,
    gate: str | os.PathLike[str] | None = None,
    gate_threshold: float | None = None,
    background: str | None = None,
    min_agreement: float | None = None,
    max_drop: float | None = None,
    calibration_data: str | Path | None = None,
    calibration_images: int | None = None,
    calibration: Literal["auto", "minmax", "percentile", "entropy"] | None = None,
    auto_exclude: bool = False,
    rebuild: bool = False,
    resize_in_graph: bool = False,
    triton: str | Path | None = None,
    out: str | Path | None = None,
    on_event: Callable[[str], None] = log.info,
) -> Bundle:
    """Export a model to ONNX or TensorRT, compare every file with it, and return the bundle with the files.

    Args:
        model: a run, a bundle or a name in a registry; None for the newest run.
        onnx: whether to export ONNX files; the default unless `trt` is set.
        trt: whether to build a TensorRT engine.
        precision: one or more of `fp32`, `fp16`, `bf16`, `int8`; `auto` for the fastest on this machine; None
            for `fp32` and `fp16`, or `fp16` of an engine.
        imgsz: size that images are resized to; another than the model's makes a new bundle.
        batch: minimum, optimal and maximum batch of engines and of `triton`; None for (1, 1, 4).
        sm: compute capabilities to build engines for (TensorRT-RTX).
        images: images for the comparison with PyTorch; None for the model's training data.
        output: outputs of the files, joined by `+`; None for `mask`.
        weights: network of a run to export, e.g. `teacher`; None for the method's.
        branch: branch of an ensemble (rrn) to export as a new bundle.
        fuse_weight: weight of branch 1 of an ensemble; None as trained.
        gate: a run or bundle of mlmt, which removes absent classes from the masks.
        gate_threshold: probability above which the gate keeps a class; None for 0.2.
        background: class that the gate never removes, or `none`; None for the one of this name.
        min_agreement: minimum share of equal pixels, in place of the built-in tolerances.
        max_drop: maximum drop of mIoU, in place of the built-in tolerances.
        calibration_data: images for int8 calibration; None for the run's unlabeled images.
        calibration_images: number of calibration images; None for 128.
        calibration: how int8 ranges are computed; None for `auto`.
        auto_exclude: whether to keep layers in fp32 until an int8 file is within its tolerance.
        rebuild: whether to build an engine even if the same one exists.
        resize_in_graph: whether files take images of any size and return masks of that size.
        triton: folder to write a model repository for Triton Inference Server to.
        out: folder for a copy of the bundle with the files; None to write to the bundle.
        on_event: called with a line for each step.

    Raises:
        ParityError: a file differs from the model by more than its tolerance; the others are kept.
        ZooError: a model or an option that cannot be used.
    """
    from zoo.export.compose import Composition, compose
    from zoo.export.options import ExportOptions
    from zoo.predictors.outputs import parse_outputs

    names = split_names(precision)
    is_auto = names == (AUTO,)
    if triton is not None and is_auto:
        raise ExportError(
            f"got --triton {triton} with --precision auto, expected the precision that auto selected before"
        )
    given: dict[str, Any] = {
        "onnx": onnx or not trt,
        "trt": trt,
        "precision": ("int8",) if is_auto else names,
        "batch": batch,
        "sm": tuple(sm),
        "images": None if images is None else str(images),
        "output": output,
        "min_agreement": min_agreement,
        "max_drop": max_drop,
        "calibration_data": None if calibration_data is None else str(calibration_data),
        "calibration_images": calibration_images,
        "calibration": calibration,
        "auto_exclude": auto_exclude,
        "rebuild": rebuild,
        "resize_in_graph": resize_in_graph,
        "out": None if out is None else Path(out),
    }
    options = ExportOptions(**{name: value for name, value in given.items() if value is not None})
    options.check()
    try:
        parse_outputs(options.output)
    except ValueError as error:
        raise ExportError(str(error)) from error
    composition = Composition(
        branch=branch,
        fuse_weight=fuse_weight,
        gate=None if gate is None else resolve_bundle(model_text(gate)),
        gate_threshold=gate_threshold,
        background=background,
        imgsz=(imgsz, imgsz) if isinstance(imgsz, int) else imgsz,
    )
    bundle = compose(resolve_bundle(model_text(model), weights), composition, options.out, on_event)
    if is_auto:
        return _fastest(bundle, options, on_event)
    return _exported(bundle, options, None if triton is None else Path(triton), on_event)


def _fastest(bundle: Path, options: ExportOptions, on_event: Callable[[str], None]) -> Bundle:
    """Export the candidates of this machine and keep the fastest."""
    from zoo.api.advise import advise
    from zoo.api.bundle import Bundle

    advice = advise(bundle, options, choose_device(None), on_event)
    return Bundle.of_export(options.out or bundle, advice=advice)


def _exported(
    bundle: Path, options: ExportOptions, triton: Path | None, on_event: Callable[[str], None]
) -> Bundle:
    """Export the files, and write the model repository if requested."""
    from zoo.api.bundle import Bundle
    from zoo.export.pipeline import export_bundle
    from zoo.export.triton.repository import check_repository, write_repository

    if triton is not None:
        check_repository(triton, options.out or bundle)
    report = export_bundle(bundle, options, on_event)
    models: tuple[str, ...] = ()
    if triton is not None:
        models = tuple(folder.name for folder in write_repository(report, options.batch, triton, on_event))
    return Bundle.of_export(Path(report.bundle), exported=report, triton=models)


def split_names(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names in a comma-separated list or a sequence, none if it is absent."""
    parts = text.split(",") if isinstance(text, str) else text or ()
    return tuple(part.strip() for part in parts if part.strip())
