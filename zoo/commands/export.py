"""`zoo export`: artifacts of a model, each compared with it before it gets its final name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo.commands.arguments import BundleArgument, parse_size
from zoo.commands.console import AsJson, emit, remarks, table
from zoo.errors import ZooError
from zoo.resolve import is_name, resolve_bundle, resolve_model

if TYPE_CHECKING:
    from zoo.export.manifest import Artifact
    from zoo.export.options import ExportOptions

AUTO = "auto"
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
        str,
        typer.Option(
            metavar="MIN,OPT,MAX", help="Batch sizes of engines and of --triton; ONNX files take any."
        ),
    ] = "1,1,4",
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
        str,
        typer.Option(
            metavar="mask|logits|mask+confidence|...",
            help="Outputs of the artifact, joined by +; confidence is uint8, 255 for certain.",
        ),
    ] = "mask",
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
        int,
        typer.Option(
            metavar="N", min=1, help="Number of calibration images; those that differ most are selected."
        ),
    ] = 128,
    calibration: Annotated[
        Literal["auto", "minmax", "percentile", "entropy"],
        typer.Option(help="How int8 ranges are computed; auto compares all three on other images."),
    ] = "auto",
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
        _verify(_to_read(model, weights), as_json=as_json)
        return
    batches = _numbers(batch, "--batch")
    if len(batches) != 3:
        raise typer.BadParameter(f"{batch!r} is not MIN,OPT,MAX, expected e.g. 1,1,4", param_hint="--batch")
    capabilities = _numbers(sm, "--sm")
    _check_outputs(output)
    bundle = resolve_bundle(model, weights)
    classifier = None if gate is None else resolve_bundle(gate)

    from zoo.export.compose import Composition, compose
    from zoo.export.options import ExportOptions

    options = ExportOptions(
        onnx=onnx or not trt,
        trt=trt,
        precision=("int8",) if precision == AUTO else _names(precision),
        batch=(batches[0], batches[1], batches[2]),
        sm=capabilities,
        images=images,
        output=output,
        min_agreement=min_agreement,
        max_drop=max_drop,
        calibration_data=calibration_data,
        calibration_images=calibration_images,
        calibration=calibration,
        auto_exclude=auto_exclude,
        rebuild=rebuild,
        resize_in_graph=resize_in_graph,
        out=out,
    )
    options.check()
    composition = Composition(
        branch=branch,
        fuse_weight=fuse_weight,
        gate=classifier,
        gate_threshold=gate_threshold,
        background=background,
        imgsz=None if imgsz is None else parse_size(imgsz),
    )
    if triton is not None and precision == AUTO:
        raise ZooError(
            f"got --triton {triton} with --precision auto, expected the precision that auto selected before"
        )
    bundle = compose(bundle, composition, out, remarks.print)
    if precision == AUTO:
        _advise(bundle, options, as_json=as_json)
    else:
        _export(bundle, options, triton, as_json=as_json)


def _export(bundle: Path, options: ExportOptions, triton: Path | None, *, as_json: bool) -> None:
    """Show the artifacts, and write the model repository if requested."""
    from zoo.export.pipeline import export_bundle
    from zoo.export.triton.repository import check_repository, write_repository

    if triton is not None:
        check_repository(triton, options.out or bundle)
    report = export_bundle(bundle, options, remarks.print)
    models: list[str] = []
    if triton is not None:
        models = [folder.name for folder in write_repository(report, options.batch, triton, remarks.print)]
    rows = [_row(artifact) for artifact in report.artifacts]
    listed = {report.bundle: report.files, str(triton): models}
    emit(
        {**report.model_dump(mode="json"), "triton": models},
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


def _advise(bundle: Path, options: ExportOptions, *, as_json: bool) -> None:
    """Export the fastest artifact and show the candidates."""
    from zoo.commands import advise
    from zoo.machine import choose_device

    advice = advise.advise(bundle, options, choose_device(None), remarks.print)
    rows = [each.row(chosen=each is advice.chosen) for each in advice.candidates]
    result = {
        "chosen": advice.chosen.name,
        "file": advice.chosen.artifact.name if advice.chosen.artifact else None,
        "candidates": [dict(zip(advise.COLUMNS, row, strict=True)) for row in rows],
    }
    emit(result, table("Timed in turns on this machine", advise.COLUMNS, rows), as_json=as_json)


def _to_read(model: str | None, weights: str | None) -> Path:
    """Return the bundle folder of MODEL; that of a pulled model is not copied."""
    if model is not None and weights is None and is_name(model):
        return resolve_model(model)
    return resolve_bundle(model, weights)


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


def _names(text: str | None) -> tuple[str, ...]:
    """Return the names in a comma-separated list, none if it is absent."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


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
