"""The options that `zoo train` and `zoo compare` share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

PartitionOption = Annotated[
    str | None, typer.Option(metavar="1/8|N|FILE", help="Which training images are labeled.")
]
EncoderOption = Annotated[str | None, typer.Option(help="A timm CNN, e.g. resnet50.")]
PretrainedOption = Annotated[
    bool | None, typer.Option("--pretrained/--no-pretrained", help="Start from ImageNet weights.")
]
CropOption = Annotated[str | None, typer.Option(metavar="H,W", help="Training crop.")]
BatchOption = Annotated[
    int | None, typer.Option(min=1, help="Labeled, and as many unlabeled, images a step.")
]
AmpOption = Annotated[
    Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="Mixed precision of the networks.")
]
