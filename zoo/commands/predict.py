"""`zoo predict`: the masks of images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.classes import IGNORE
from zoo.commands.arguments import DeviceOption
from zoo.commands.console import AsJson, emit, remarks, table
from zoo.errors import BundleError
from zoo.machine import choose_device
from zoo.predict.inputs import find_inputs, is_image_name, is_source
from zoo.predict.journal import NAME, Journal
from zoo.predict.outputs import MASK, OVERLAY, Job, files, foreign_outputs, is_done, make_jobs
from zoo.predictors.outputs import CONFIDENCE, written_outputs
from zoo.resolve import artifact_suffixes, is_url, resolve_model, resolve_predictor

if TYPE_CHECKING:
    from zoo.predictors.base import Predictor

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

SHOWN = 50
"""Images in the table; the journal lists all."""


def predict(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] INPUT",
            help="A run, bundle, .onnx or .engine file or http://HOST:PORT of zoo serve (default: the newest "
            "run under runs/), then images, folders, patterns, or shapes for built-in images.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the masks.")] = Path("predictions"),
    overlay: Annotated[bool, typer.Option("--overlay", help="Also draw each mask over its image.")] = False,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Also write the probability of each pixel's class, as gray levels from 0 to 255.",
        ),
    ] = False,
    output: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Also write these outputs, joined by +; --confidence is --output confidence."
        ),
    ] = "",
    unknown_below: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="P",
            help="Write class 255 where the reliability is below P (0 to 1); needs zoo calibrate.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Number of images to take from built-in data or a data.toml.")
    ] = 8,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images per batch; default: 8, fewer if they are large.")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Predict all images again, and replace files of the same names that zoo predict did not "
            "write.",
        ),
    ] = False,
    device: DeviceOption = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray", help="Run on this machine's Ray cluster, or start a local one with one actor per core."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Predict the masks of images.

    A mask is an indexed PNG: its pixel values are class ids, its palette the colors of the classes.
    DIR/predictions.jsonl lists the outputs: an interrupted command resumes from it, and files that are not
    listed, or that were edited since, are not replaced.
    """
    from zoo.bundle.bundle import check_writable

    check_writable(out)
    model, texts = split_arguments(arguments)
    wanted = _wanted(output, confidence=confidence)
    suffixes = tuple(dict.fromkeys((MASK, *[OVERLAY] * overlay, *wanted)))
    jobs = make_jobs(find_inputs(texts, limit, out), out, suffixes)

    from zoo.predict.bulk import Bulk
    from zoo.predictors.load import load_predictor

    chosen = choose_device(device)
    predictor = load_predictor(model, device=chosen)
    _check_unknown(unknown_below, predictor, ray=ray)
    header = {"model": str(model), "sha256": fingerprint(model, predictor, unknown_below)}
    with Journal(out, header, fresh=overwrite) as journal:
        waiting = _not_yet(jobs, journal, out, suffixes)
        bulk = Bulk(predictor, out, suffixes, journal, unknown_below)
        if ray:
            from zoo.commands.bulk_ray import BulkOnRay

            bulk = BulkOnRay(model, chosen, bulk)
        try:
            bulk.run(waiting, batch)
        except KeyboardInterrupt:
            left = len(waiting) - bulk.done - len(bulk.failures)
            remarks.print(
                f"stopped: {left:,} of {len(jobs):,} images are left; run the same command to resume"
            )
            raise typer.Exit(INTERRUPTED) from None
        images = [_shown(job, journal, out) for job in jobs[: None if as_json else SHOWN]]
    result = {
        "model": str(model),
        "backend": predictor.backend,
        "runtime": predictor.description,
        "out": str(out),
        "kept": len(jobs) - len(waiting),
        "predicted": bulk.done,
        "images": [image for image in images if image is not None],
        "errors": bulk.failures,
    }
    emit(result, *_report(result), as_json=as_json)
    if bulk.failures:
        raise typer.Exit(1)


def _check_unknown(unknown_below: float | None, predictor: Predictor, *, ray: bool) -> None:
    """Raise unless masks can have unknown pixels, if they are requested.

    Raises:
        BundleError: the model has more than 255 classes, so that 255 is one of them.
        typer.BadParameter: the command runs on Ray.
    """
    if unknown_below is None:
        return
    if ray:
        raise typer.BadParameter("got it with --ray, expected one of them", param_hint="--unknown-below")
    if len(predictor.classes) > IGNORE:
        raise BundleError(
            f"--unknown-below writes class {IGNORE}, which is one of the model's {len(predictor.classes)} "
            f"classes: write --output reliability instead"
        )


def _wanted(text: str, *, confidence: bool) -> list[str]:
    """Return the suffixes of the requested outputs besides the mask.

    Raises:
        typer.BadParameter: an output is unknown, or cannot be written.
    """
    written = written_outputs()
    names = [*filter(None, text.split("+")), *[CONFIDENCE] * confidence]
    for name in names:
        if name not in written:
            raise typer.BadParameter(
                f"got {name!r}, expected some of {', '.join(written)}, joined by +", param_hint="--output"
            )
    return [written[name] for name in names]


def fingerprint(model: Path | str, predictor: Predictor, unknown_below: float | None) -> str:
    """Return the SHA-256 of what determines the results of a model and of `--unknown-below`."""
    found = _fingerprint(model, predictor)
    if unknown_below is None:
        return found
    return hashlib.sha256(f"{found}\nunknown below {unknown_below}".encode()).hexdigest()


def _fingerprint(model: Path | str, predictor: Predictor) -> str:
    """Return the SHA-256 of what determines a model's predictions; for a server, of its model info."""
    from zoo.bundle.bundle import WEIGHTS_NAME, load_config
    from zoo.bundle.manifest import sha256

    if isinstance(model, str):
        from zoo.predictors.remote.predictor import RemotePredictor

        assert isinstance(predictor, RemotePredictor)
        return predictor.fingerprint
    if model.is_file():
        return sha256(model)
    config = load_config(model)
    used = config.model_dump_json(include={"names", "palette", "preprocessing"})
    if config.calibration is not None:
        used += config.calibration.model_dump_json()
    return hashlib.sha256(f"{sha256(model / WEIGHTS_NAME)}\n{used}".encode()).hexdigest()


def _not_yet(jobs: Sequence[Job], journal: Journal, out: Path, suffixes: Sequence[str]) -> list[Job]:
    """Return the jobs whose outputs are missing or outdated, and print how many are kept.

    Raises:
        ZooError: files that zoo predict did not write would be overwritten.
    """
    from zoo.outputs import MOVE, OVERWRITE, refusal

    waiting: list[Job] = []
    foreign: list[str] = []
    others = 0
    for job in jobs:
        mask = f"{job.name}{MASK}"
        record = journal.latest(mask)
        if record is not None and journal.is_current(record) and is_done(job, record, out, suffixes):
            journal.keep(mask)
            continue
        waiting.append(job)
        foreign += foreign_outputs(job, record, out, suffixes)
        others += record is not None and record.get("input") not in (job.input.path, job.input.name, None)
    if journal.fresh:  # anything but a folder can be replaced
        foreign = [name for name in foreign if (out / name).is_dir()]
    if foreign:
        raise refusal(out, foreign, "--out", MOVE if journal.fresh else OVERWRITE)
    if kept := len(jobs) - len(waiting):
        remarks.print(
            f"kept {kept:,} of {len(jobs):,} images: this model predicted the same files (size and time); "
            f"--overwrite predicts them again"
        )
    if journal.other_model:
        remarks.print(f"{out} has predictions of another model: recomputing them")
    if others:
        remarks.print(f"{out} has {others:,} predictions of other images with the same names: replacing them")
    return waiting


def _shown(job: Job, journal: Journal, out: Path) -> dict[str, Any] | None:
    """Return the result of a job, None if it failed."""
    record = journal.record(f"{job.name}{MASK}")
    if record is None:
        return None
    paths = {kind: record.get(kind) and str(out / record[kind]) for kind in files()}
    kept = {key: value for key, value in record.items() if key not in ("written", "model")}
    return {**kept, "input": job.input.name, **paths}


def split_arguments(arguments: Sequence[str]) -> tuple[Path | str, list[str]]:
    """Return the model and the INPUTs; the first argument may be the model if it is not an image.

    Raises:
        typer.BadParameter: no INPUT.
        ZooError: no such model.
    """
    first, *rest = arguments
    if not _is_model(first):
        return resolve_model(None), list(arguments)
    model = resolve_predictor(first)
    if not rest:
        raise typer.BadParameter(f"got the model {first} but no INPUT, expected images, a folder or shapes")
    return model, rest


def _is_model(text: str) -> bool:
    """Return whether the first argument is a model, or looks like a mistyped one."""
    if is_url(text):
        return True
    path = Path(text)
    if path.is_dir():
        return (path / "recipe.json").is_file() or (path / "config.json").is_file()
    if path.exists() or is_source(text) or any(sign in text for sign in "*?["):
        return path.suffix in artifact_suffixes()
    return not is_image_name(path)


def _report(result: dict[str, Any]) -> list[Any]:
    """Return the terminal output for the predictions."""
    rows = [
        (image["input"], "x".join(map(str, image["size"])), f"{image['ms']:.0f}", _areas(image["areas"]))
        for image in result["images"]
    ]
    masks = table(f"Masks in {result['out']}", ("image", "size", "ms", "classes"), rows)
    masks.columns[-1].justify = "left"
    shown: list[Any] = [masks]
    if more := result["kept"] + result["predicted"] - len(rows):
        shown.append(f"and {more:,} more: {Path(result['out']) / NAME}")
    if failed := [error["input"] for error in result["errors"]]:
        others = f" and {len(failed) - SHOWN:,} more" if len(failed) > SHOWN else ""
        shown.append(f"not predicted: {', '.join(failed[:SHOWN])}{others}")
    return [*shown, f"{result['model']}, {result['backend']}: {result['runtime']}"]


def _areas(areas: dict[str, float]) -> str:
    from zoo.pages.overlay import percent

    return ", ".join(f"{name} {percent(share)}" for name, share in areas.items())
