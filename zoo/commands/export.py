"""`zoo export`: artifacts of a model, each compared with it before it gets its final name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo.api.advise import COLUMNS as ADVICE
from zoo.api.export import export as export_model
from zoo.child import unwinding
from zoo.commands.arguments import BundleArgument, parse_size
from zoo.commands.console import AsJson, emit, remarks, table
from zoo.errors import ZooError
from zoo.resolve import resolve_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.api.advise import Advice
    from zoo.export.manifest import Artifact, ExportReport

COLUMNS = ("artifact", "MB", "agreement", "differing px", "near ties", "mIoU change", "check")


def export(
    model: BundleArgument = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Export ONNX files in fp32 and fp16 (the default).")
    ] = False,
    trt: Annotated[
        bool, typer.Option("--trt", help="Build a TensorRT engine from an ONNX file, which is kept.")
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="fp32,fp16,bf16,int8|auto",
            help="Precisions to export; engines are fp16 by default. auto keeps the fastest on this machine.",
        ),
    ] = None,
    imgsz: Annotated[
        str | None,
        typer.Option(
            metavar="H,W",
            help="Size that images are resized to; another than the model's makes a new bundle.",
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="MIN,OPT,MAX",
            help="Batch sizes of engines and of --triton; default: 1,1,4; ONNX files take any.",
        ),
    ] = None,
    sm: Annotated[
        str, typer.Option(metavar="86,89,120", help="Compute capabilities to build for (TensorRT-RTX).")
    ] = "",
    images: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Images for the comparison with PyTorch; default: the model's training data."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="mask|logits|mask+confidence|...",
            help="Outputs of the artifact, joined by +; default: mask; confidence is uint8, 255 for certain.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="student|teacher|...", help="Network of a run to export; default: the method's."
        ),
    ] = None,
    branch: Annotated[
        Literal["both", "1", "2"],
        typer.Option(help="Export one branch of an ensemble (rrn) as a new bundle."),
    ] = "both",
    fuse_weight: Annotated[
        float | None,
        typer.Option(metavar="X", help="Weight of branch 1 of an ensemble; default: as trained."),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(
            metavar="CLASSIFIER", help="A run or bundle of mlmt, which removes absent classes from the masks."
        ),
    ] = None,
    gate_threshold: Annotated[
        float | None,
        typer.Option(metavar="X", help="Keep a class if its probability is above X; default: 0.2."),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|none",
            help="Class that the gate never removes; default: the class named background.",
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(metavar="X", help="Minimum share of equal pixels, in place of the built-in tolerances."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Maximum drop of mIoU, 0 to 1, e.g. 0.005 for half a point, in place of the built-in "
            "tolerances.",
        ),
    ] = None,
    calibration_data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Images for int8 calibration; default: the run's unlabeled images."
        ),
    ] = None,
    calibration_images: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of calibration images; default: 128; those that differ most are selected.",
        ),
    ] = None,
    calibration: Annotated[
        Literal["auto", "minmax", "percentile", "entropy"] | None,
        typer.Option(help="How int8 ranges are computed; auto, the default, tries all on other images."),
    ] = None,
    auto_exclude: Annotated[
        bool,
        typer.Option(
            "--auto-exclude", help="Keep the worst layers in fp32 until int8 is within its tolerance."
        ),
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build an engine even if the same one exists.")
    ] = False,
    resize_in_graph: Annotated[
        bool,
        typer.Option(
            "--resize-in-graph", help="Also write model.photo.onnx: any photo in, the mask of its size out."
        ),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check MODEL's files against its manifest.")
    ] = False,
    triton: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write a model repository for Triton Inference Server."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write to a copy of the bundle, or to the new one, in DIR."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export MODEL to ONNX and TensorRT, and compare the masks of every artifact with the model's.

    --branch, --fuse-weight, --gate and --imgsz first write a new bundle next to MODEL, or to --out, and
    export it.
    """
    if verify:
        _verify(resolve_bundle(model, weights, writable=False), as_json=as_json)
        return
    batches = _numbers(batch or "", "--batch")
    if batch is not None and len(batches) != 3:
        raise typer.BadParameter(f"{batch!r} is not MIN,OPT,MAX, expected e.g. 1,1,4", param_hint="--batch")
    if output is not None:
        _check_outputs(output)
    with unwinding():
        bundle = export_model(
            model,
            onnx=onnx,
            trt=trt,
            precision=precision,
            imgsz=None if imgsz is None else parse_size(imgsz),
            batch=None if batch is None else (batches[0], batches[1], batches[2]),
            sm=_numbers(sm, "--sm"),
            images=images,
            output=output,
            weights=weights,
            branch=branch,
            fuse_weight=fuse_weight,
            gate=gate,
            gate_threshold=gate_threshold,
            background=background,
            min_agreement=min_agreement,
            max_drop=max_drop,
            calibration_data=calibration_data,
            calibration_images=calibration_images,
            calibration=calibration,
            auto_exclude=auto_exclude,
            rebuild=rebuild,
            triton=triton,
            resize_in_graph=resize_in_graph,
            out=out,
            on_event=remarks.print,
        )
    if bundle.exported is not None:
        _show(bundle.exported, bundle.triton, triton, as_json=as_json)
    elif bundle.advice is not None:
        _show_advice(bundle.advice, as_json=as_json)


def _show(report: ExportReport, models: Sequence[str], triton: Path | None, *, as_json: bool) -> None:
    """Show the artifacts and the models of the repository."""
    rows = [_row(artifact) for artifact in report.artifacts]
    listed = {report.bundle: report.files, str(triton): models}
    emit(
        {**report.model_dump(mode="json"), "triton": list(models)},
        table("Compared with the eager fp32 model", COLUMNS, rows),
        *(
            f"in {folder}:\n" + "\n".join(f"  {n}" for n in names)
            for folder, names in listed.items()
            if names
        ),
        as_json=as_json,
    )


def _row(artifact: Artifact) -> tuple[str, ...]:
    facts = artifact.name, f"{artifact.bytes / 1e6:.1f}"
    parity = artifact.parity
    if parity is None:
        return *facts, "not compared", "-", "-", "-", "-"
    return (
        *facts,
        f"{parity.agreement:.6f}",
        str(parity.differing),
        "-" if parity.near_ties is None else f"{parity.near_ties:.0%}",
        "-" if parity.accuracy is None else str(parity.accuracy.miou),
        f"proves nothing: {parity.weakness}" if parity.weakness else str(parity.gate),
    )


def _show_advice(advice: Advice, *, as_json: bool) -> None:
    """Show the candidates and the one that was kept."""
    rows = [each.row(chosen=each is advice.chosen) for each in advice.candidates]
    result = {
        "chosen": advice.chosen.name,
        "file": advice.chosen.artifact.name if advice.chosen.artifact else None,
        "candidates": [dict(zip(ADVICE, row, strict=True)) for row in rows],
    }
    emit(result, table("Timed in turns on this machine", ADVICE, rows), as_json=as_json)


def _verify(bundle: Path, *, as_json: bool) -> None:
    """Check each file and show the findings.

    Raises:
        ZooError: a file differs from the manifest.
    """
    from zoo.export.verify import verify_bundle

    findings = verify_bundle(bundle)
    rows = [(finding.name, "; ".join(finding.faults) or "ok") for finding in findings]
    shown = table(f"{bundle} compared with its manifest", ("file", "finding"), rows)
    emit([finding._asdict() for finding in findings], shown, as_json=as_json)
    if wrong := [finding.name for finding in findings if finding.faults]:
        raise ZooError(
            f"files differ from the manifest of {bundle}: {', '.join(wrong)}; run zoo export again, or pull "
            "it again"
        )


def _check_outputs(text: str) -> None:
    """Check that the text names outputs."""
    from zoo.predictors.outputs import parse_outputs

    try:
        parse_outputs(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error


def _numbers(text: str, option: str) -> tuple[int, ...]:
    """Return the numbers in a comma-separated list."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r} is not a list of numbers, expected e.g. 86,89", param_hint=option)
    return tuple(map(int, parts))
