"""What an export is asked to make."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict

from zoo.errors import ExportError
from zoo.export.graph import DTYPES
from zoo.predictors.artifact import OutputKind, Precision

MIN_IMGSZ = 32


class ExportOptions(BaseModel):
    """What to make.

    Args:
        onnx: ONNX files, in both precisions unless `precision` says one.
        trt: a TensorRT engine, and the ONNX file it is built from; fp16 unless `precision` says another.
        precision: `fp32` or `fp16`.
        imgsz: height and width that images are scaled to; None for the model's training crop.
        batch: smallest, usual and largest batch of an engine; the largest is compared with the model.
        sm: compute capabilities that an engine is built for; empty for the default.
        images: folder or data source to compare on; None for the data the model was trained on.
        output: `mask`, or `logits` for post-processing of one's own.
        min_agreement: replaces the gate of every artifact, between 0 and 1.
        out: another folder for bundle and artifacts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    onnx: bool = True
    trt: bool = False
    precision: str | None = None
    imgsz: tuple[int, int] | None = None
    batch: tuple[int, int, int] = (1, 1, 4)
    sm: tuple[int, ...] = ()
    images: str | None = None
    output: OutputKind = "mask"
    min_agreement: float | None = None
    out: Path | None = None

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Return the precisions of the ONNX files."""
        if self.precision is not None:
            return (cast("Precision", self.precision),)
        return ("fp32", "fp16") if self.onnx else ("fp16",)

    @property
    def engine_precision(self) -> Precision:
        """Return the precision of the engine."""
        return cast("Precision", self.precision or "fp16")

    def check(self) -> None:
        """Raise unless the options fit together.

        Raises:
            ExportError: names the option.
        """
        if self.precision is not None and self.precision not in DTYPES:
            raise ExportError(
                f"--precision {self.precision} cannot be exported, expected {' or '.join(DTYPES)}"
            )
        if self.imgsz is not None and min(self.imgsz) < MIN_IMGSZ:
            raise ExportError(
                f"--imgsz {_join(self.imgsz)} is too small, expected {MIN_IMGSZ} or more pixels a side"
            )
        if not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise ExportError(f"--batch {_join(self.batch)} is not MIN,OPT,MAX, expected e.g. 1,1,4")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise ExportError(
                f"--min-agreement {self.min_agreement:g} is no share of pixels, expected 0 to 1"
            )
        if self.sm and not self.trt:
            raise ExportError(f"--sm {_join(self.sm)} is for engines, expected --trt beside it")


def _join(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))
