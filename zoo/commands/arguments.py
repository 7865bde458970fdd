"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo.predictors.limits import OVERLAP

if TYPE_CHECKING:
    from zoo.predictors.tiles import Tiling

PartitionOption = Annotated[
    str | None,
    typer.Option(
        metavar="full|1/8|N|FILE|auto",
        help="Training images that count as labeled: all, a share, a number or a list of ids. auto, the "
        "default of folders, is all, or 1/8 if the method needs images without masks and there are none.",
    ),
]
EncoderOption = Annotated[str | None, typer.Option(help="Encoder: a timm model, e.g. resnet50.")]
PretrainedOption = Annotated[
    bool | None, typer.Option("--pretrained/--no-pretrained", help="Start encoders from pretrained weights.")
]
CropOption = Annotated[str | None, typer.Option(metavar="H,W", help="Size of the training crop.")]
BatchOption = Annotated[
    int | None,
    typer.Option(min=1, help="Labeled images per step; the same number of unlabeled ones is added."),
]
AmpOption = Annotated[
    Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="Mixed precision of the networks.")
]


ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A run or bundle folder, an .onnx or .engine file, owner/name on the Hub, or file:DIR/name; "
        "default: the newest run under runs/.",
    ),
]


BundleArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A run or bundle folder, owner/name on the Hub, or file:DIR/name; default: the newest run under "
        "runs/.",
    ),
]


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) of `H,W`, or of one number for both.

    Raises:
        typer.BadParameter: not one or two positive numbers.
    """
    parts = text.split(",")
    if len(parts) not in (1, 2) or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(
            f"{text!r} is not H,W, expected pixels such as 512,512", param_hint="--imgsz"
        )
    return int(parts[0]), int(parts[-1])


TileOption = Annotated[
    int | None,
    typer.Option(
        "--tile",
        min=32,
        metavar="PIXELS",
        help="Cut images at their original size into tiles of this height and width, and blend their logits.",
    ),
]
OverlapOption = Annotated[
    float, typer.Option("--overlap", min=0, max=0.9, help="Share of a tile that it shares with the next one.")
]


def tiling_of(tile: int | None, overlap: float) -> Tiling | None:
    """Return the tiles that options ask for.

    Raises:
        typer.BadParameter: an overlap without tiles.
    """
    if tile is None:
        if overlap != OVERLAP:
            raise typer.BadParameter(
                f"got {overlap:g} without --tile, expected the size of the tiles too: add --tile 1024",
                param_hint="--overlap",
            )
        return None
    from zoo.predictors.tiles import Tiling

    return Tiling(tile, overlap)


DeviceOption = Annotated[
    Literal["cpu", "cuda"] | None, typer.Option(help="Default: a GPU if PyTorch finds one, else the CPU.")
]
