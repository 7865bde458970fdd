"""`zoo export`: artifacts of a model, each compared with it before it gets its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo.commands.console import AsJson, emit, remarks, table
from zoo.commands.model import ModelArgument, parse_size, resolve_bundle

if TYPE_CHECKING:
    from zoo.export.pipeline import Artifact

COLUMNS = ("artifact", "precision", "MB", "shapes", "agreement", "differing px", "worst margin", "gate")


def export(
    model: ModelArgument = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="ONNX files, fp32 and fp16 (the default).")] = False,
    trt: Annotated[
        bool, typer.Option("--trt", help="A TensorRT engine, and the ONNX file behind it.")
    ] = False,
    precision: Annotated[
        str | None, typer.Option(metavar="fp32|fp16", help="One precision only; engines are fp16 by default.")
    ] = None,
    imgsz: Annotated[
        str | None,
        typer.Option(metavar="H,W", help="Size that images are scaled to; default: the training crop."),
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="MIN,OPT,MAX", help="Batch sizes of an engine; ONNX files take any.")
    ] = "1,1,4",
    sm: Annotated[
        str, typer.Option(metavar="86,89,120", help="Compute capabilities of an engine (TensorRT-RTX).")
    ] = "",
    images: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Folder or data source to compare on; default: the model's own data."
        ),
    ] = None,
    output: Annotated[Literal["mask", "logits"], typer.Option(help="What the artifact returns.")] = "mask",
    weights: Annotated[
        str | None,
        typer.Option(metavar="student|teacher|...", help="Which network of a run; default: the method's."),
    ] = None,
    branch: Annotated[
        Literal["both", "1", "2"],
        typer.Option(help="One branch of an ensemble (rrn), in a bundle of its own."),
    ] = "both",
    fuse_weight: Annotated[
        float | None,
        typer.Option(metavar="X", help="Weight of branch 1 of an ensemble; default: as trained."),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(
            metavar="CLASSIFIER", help="A run or bundle of mlmt that removes classes from the masks."
        ),
    ] = None,
    gate_threshold: Annotated[
        float | None,
        typer.Option(metavar="X", help="A class stays if its probability is above it; default: 0.2."),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|none", help="Class that a gate never removes; default: the one called background."
        ),
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(metavar="X", help="Share of equal pixels, in place of the built-in gates.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of a bundle that is made or copied there first."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export MODEL to ONNX and TensorRT; every artifact must give the model's masks.

    --branch, --fuse-weight and --gate first make a new bundle of MODEL, beside it or in --out, and export it.
    """
    batches = _numbers(batch, "--batch")
    if len(batches) != 3:
        raise typer.BadParameter(f"{batch!r} is not MIN,OPT,MAX, expected e.g. 1,1,4", param_hint="--batch")
    capabilities = _numbers(sm, "--sm")
    size = None if imgsz is None else parse_size(imgsz)
    bundle = resolve_bundle(model, weights)
    classifier = None if gate is None else resolve_bundle(gate)

    from zoo.export.compose import Composition, compose
    from zoo.export.options import ExportOptions
    from zoo.export.pipeline import export_bundle

    options = ExportOptions(
        onnx=onnx or not trt,
        trt=trt,
        precision=precision,
        imgsz=size,
        batch=(batches[0], batches[1], batches[2]),
        sm=capabilities,
        images=images,
        output=output,
        min_agreement=min_agreement,
        out=out,
    )
    options.check()
    composition = Composition(
        branch=branch,
        fuse_weight=fuse_weight,
        gate=classifier,
        gate_threshold=gate_threshold,
        background=background,
    )
    report = export_bundle(compose(bundle, composition, out, remarks.print), options, remarks.print)
    rows = [_row(artifact) for artifact in report.artifacts]
    files = "\n".join(f"  {name}" for name in report.files)
    emit(
        report.model_dump(mode="json"),
        table("Compared with the eager fp32 model", COLUMNS, rows),
        f"in {report.bundle}:\n{files}",
        as_json=as_json,
    )


def _row(artifact: Artifact) -> tuple[str, ...]:
    facts = artifact.name, artifact.precision, f"{artifact.bytes / 1e6:.1f}"
    parity = artifact.parity
    if parity is None:
        return *facts, "-", "not compared", "-", "-", "-"
    return (
        *facts,
        str(len(parity.differences)),
        f"{parity.agreement:.6f}",
        str(parity.differing),
        f"{parity.margin:.1e}" if parity.differing else "-",
        str(parity.gate),
    )


def _numbers(text: str, option: str) -> tuple[int, ...]:
    """Return the numbers of a comma-separated list."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r} is not a list of numbers, expected e.g. 86,89", param_hint=option)
    return tuple(map(int, parts))
