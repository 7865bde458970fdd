"""`zoo export`: artifacts of a model, each compared with it before it gets its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo.commands.arguments import BundleArgument, parse_size
from zoo.commands.console import AsJson, emit, remarks, table
from zoo.errors import ZooError
from zoo.resolve import resolve_bundle

if TYPE_CHECKING:
    from zoo.export.manifest import Artifact
    from zoo.export.options import ExportOptions

AUTO = "auto"
COLUMNS = ("artifact", "MB", "agreement", "differing px", "near ties", "mIoU change", "gate")


def export(
    model: BundleArgument = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="ONNX files, fp32 and fp16 (the default).")] = False,
    trt: Annotated[
        bool, typer.Option("--trt", help="A TensorRT engine, and the ONNX file behind it.")
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="fp32,fp16,bf16,int8|auto",
            help="Only these; engines are fp16 by default. auto keeps the fastest on this machine.",
        ),
    ] = None,
    imgsz: Annotated[
        str | None,
        typer.Option(metavar="H,W", help="Size that images are scaled to; default: the training crop."),
    ] = None,
    batch: Annotated[
        str,
        typer.Option(metavar="MIN,OPT,MAX", help="Batch sizes of engines and of --triton; ONNX takes any."),
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
    output: Annotated[
        str,
        typer.Option(
            metavar="mask|logits|mask+confidence|...",
            help="What the artifact returns, joined by +; confidence is uint8, 255 for certain.",
        ),
    ] = "mask",
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
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Drop of mIoU that is allowed, 0 to 1, e.g. 0.005 for half a point, in place of the "
            "built-in gates.",
        ),
    ] = None,
    calibration_data: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Images for int8; default: the unlabeled ones of the run."),
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many of them, those that differ most.")
    ] = 128,
    calibration: Annotated[
        Literal["auto", "minmax", "percentile", "entropy"],
        typer.Option(help="How int8 ranges are taken; auto tries all on other images."),
    ] = "auto",
    auto_exclude: Annotated[
        bool,
        typer.Option("--auto-exclude", help="Leave the worst layers in fp32 until int8 passes its gate."),
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build an engine even if the same one is there.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Export nothing: check MODEL's files against its manifest.")
    ] = False,
    triton: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A model repository for Triton Inference Server, of what was made."),
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
    if verify:
        _verify(resolve_bundle(model, weights), as_json=as_json)
        return
    batches = _numbers(batch, "--batch")
    if len(batches) != 3:
        raise typer.BadParameter(f"{batch!r} is not MIN,OPT,MAX, expected e.g. 1,1,4", param_hint="--batch")
    capabilities = _numbers(sm, "--sm")
    _check_outputs(output)
    size = None if imgsz is None else parse_size(imgsz)
    bundle = resolve_bundle(model, weights)
    classifier = None if gate is None else resolve_bundle(gate)

    from zoo.export.compose import Composition, compose
    from zoo.export.options import ExportOptions

    options = ExportOptions(
        onnx=onnx or not trt,
        trt=trt,
        precision=("int8",) if precision == AUTO else _names(precision),
        imgsz=size,
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
    if triton is not None and precision == AUTO:
        raise ZooError(f"--triton {triton} with --precision auto, expected the one that auto chose before")
    bundle = compose(bundle, composition, out, remarks.print)
    if precision == AUTO:
        _advise(bundle, options, as_json=as_json)
    else:
        _export(bundle, options, triton, as_json=as_json)


def _export(bundle: Path, options: ExportOptions, triton: Path | None, *, as_json: bool) -> None:
    """Show what was made, and write the repository that is asked for."""
    from zoo.export.pipeline import export_bundle
    from zoo.export.to_triton import check_repository, write_repository

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
        str(parity.gate),
    )


def _advise(bundle: Path, options: ExportOptions, *, as_json: bool) -> None:
    """Keep and show the fastest artifact."""
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


def _verify(bundle: Path, *, as_json: bool) -> None:
    """Show what is found of each file.

    Raises:
        ZooError: a file is not what the manifest says.
    """
    from zoo.export.verify import verify_bundle

    findings = verify_bundle(bundle)
    rows = [(finding.name, "; ".join(finding.faults) or "ok") for finding in findings]
    shown = table(f"{bundle} beside its manifest", ("file", "found"), rows)
    emit([finding._asdict() for finding in findings], shown, as_json=as_json)
    if wrong := [finding.name for finding in findings if finding.faults]:
        raise ZooError(
            f"not as the manifest of {bundle} says: {', '.join(wrong)}; zoo export it again, or fetch it anew"
        )


def _names(text: str | None) -> tuple[str, ...]:
    """Return the names of a comma-separated list, none if it is absent."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _check_outputs(text: str) -> None:
    """Raise unless text names outputs."""
    from zoo.predictors.outputs import parse_outputs

    try:
        parse_outputs(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error


def _numbers(text: str, option: str) -> tuple[int, ...]:
    """Return the numbers of a comma-separated list."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r} is not a list of numbers, expected e.g. 86,89", param_hint=option)
    return tuple(map(int, parts))
