"""Options of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from zoo.errors import ExportError
from zoo.frozen import Frozen
from zoo.predictors.artifact import OutputKind, Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class ExportOptions(Frozen):
    """Options of an export.

    Args:
        onnx: whether to export ONNX files, in fp32 and fp16 unless `precision` is given.
        trt: whether to build a TensorRT engine from an ONNX file, in fp16 unless `precision` is given.
        precision: precisions, from `PRECISIONS`; empty for the default.
        batch: minimum, optimal and maximum batch of an engine; the maximum is compared with the model.
        sm: compute capabilities to build an engine for; empty for the default.
        images: folder or data source of the images to compare on; None for the model's training data.
        output: names in `zoo.predictors.outputs` joined by `+`, e.g. `mask`, `mask+confidence`, or `logits`
            for your own postprocessing.
        min_agreement: minimum agreement, 0 to 1; replaces the built-in tolerances.
        max_drop: maximum drop of mIoU, 0 to 1; replaces the built-in tolerances.
        calibration_data: folder of images or data source for int8 calibration; None for the unlabeled images
            of the run.
        calibration_images: number of calibration images.
        calibration: method; `auto` tries all and keeps the one that agrees best with the model.
        int8_for: targets of int8 files: ONNX Runtime and OpenVINO (`cpu`), TensorRT (`trt`).
        auto_exclude: whether to keep layers in fp32 until an int8 file is within its tolerance.
        rebuild: whether to build an engine even if the same one exists.
        resize_in_graph: whether to also write files that take photos of any size, in fp32 and fp16.
        out: another folder for the bundle and its artifacts.
    """

    onnx: bool = True
    trt: bool = False
    precision: tuple[str, ...] = ()
    batch: tuple[int, int, int] = (1, 1, 4)
    sm: tuple[int, ...] = ()
    images: str | None = None
    output: OutputKind = "mask"
    min_agreement: float | None = None
    max_drop: float | None = None
    calibration_data: str | None = None
    calibration_images: int = 128
    calibration: Literal["auto", "minmax", "percentile", "entropy"] = "auto"
    int8_for: tuple[Literal["cpu", "trt"], ...] = ("cpu", "trt")
    auto_exclude: bool = False
    rebuild: bool = False
    resize_in_graph: bool = False
    out: Path | None = None

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Return the precisions of the ONNX files, each once."""
        if self.precision:
            return tuple(known for known in PRECISIONS if known in self.precision)
        return ("fp32", "fp16") if self.onnx else ("fp16",)

    @property
    def engine_precisions(self) -> tuple[Precision, ...]:
        """Return the precisions of the engines."""
        if not self.trt:
            return ()
        return self.precisions if self.precision else ("fp16",)

    def check(self) -> None:
        """Check that the options fit together.

        Raises:
            ExportError: an option does not fit; the message names it.
        """
        if unknown := [name for name in self.precision if name not in PRECISIONS]:
            raise ExportError(
                f"--precision {unknown[0]} cannot be exported, expected some of {', '.join(PRECISIONS)}"
            )
        if not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise ExportError(f"--batch {_join(self.batch)} is not MIN,OPT,MAX, expected e.g. 1,1,4")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise ExportError(
                f"--min-agreement {self.min_agreement:g} is not a share of pixels, expected 0 to 1"
            )
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise ExportError(f"--max-drop {self.max_drop:g} is not a change of mIoU, expected 0 to 1")
        if self.sm and not self.trt:
            raise ExportError(f"--sm {_join(self.sm)} is for engines, expected --trt with it")
        if self.resize_in_graph and not {"fp32", "fp16"} & set(self.precisions):
            raise ExportError(
                f"--resize-in-graph is for fp32 and fp16, got {', '.join(self.precisions)}: add one"
            )
        if "int8" not in self.precision and (self.calibration_data or self.auto_exclude):
            raise ExportError(
                "--calibration-data and --auto-exclude are for int8, expected --precision int8 with them"
            )


def _join(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))
