"""Evaluation of a model on labeled images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from zoo.errors import BundleError
from zoo.predictors.limits import OVERLAP
from zoo.resolve import ModelLike, device_of, model_text, resolve_predictor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zoo.bundle.bundle import BundleConfig
    from zoo.bundle.reliability import Reliability
    from zoo.data.source import Source, Split
    from zoo.evaluation.evaluate import Progress, Scores
    from zoo.outputs import Outputs
    from zoo.predictors.base import Predictor

log = logging.getLogger(__name__)

WHOLE = "whole"
"""Protocol of production: the whole image at once."""

REPORT_NAME = "metrics.json"


def evaluate(
    model: ModelLike = None,
    *,
    data: str | Path | None = None,
    split: Literal["train", "val"] = "val",
    protocol: str | None = None,
    tile: int | None = None,
    overlap: float = OVERLAP,
    reliability: bool = False,
    corrupt: str | None = None,
    report: str | Path | None = None,
    overwrite: bool = False,
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the metrics of a model on labeled images: mIoU by class, or for a classifier F1.

    Args:
        model: a run, a bundle, an `.onnx` or `.engine` file, a name in a registry, or `http://HOST:PORT` of a
            server; None for the newest run.
        data: `shapes`, `voc:DIR`, a folder or a `data.toml`; None for the model's training data.
        split: split to evaluate.
        protocol: how images are resized and scored, a name in `zoo.evaluation.protocols`; None for tiles, or
            else `whole`.
        tile: side in pixels of tiles that the image is cut into at its original size; None for no tiles.
        overlap: share of a tile's side that it shares with the next one, in [0, 0.9].
        reliability: whether to also measure how well scores of pixels tell right from wrong, on images that
            the model's calibration was not fitted on.
        corrupt: corruption of the images and its strength, e.g. `noise:3`; None for none.
        report: folder for the metrics, the confusion matrix and other plots; None writes nothing.
        overwrite: whether to replace files in `report` that zoo did not write.
        device: `cpu` or `cuda`; None for a GPU if PyTorch finds one.
        on_progress: called with the numbers of images done and in all.

    Returns:
        `miou`, `iou` by class, `pixel_accuracy`, and the conditions (`data`, `protocol`, `backend`, ...), as
        `zoo evaluate --json`; with `reliability` also the metrics of each score.

    Raises:
        ZooError: a model or data that cannot be used, or classes that differ.
    """
    from zoo.predictors.tiles import Tiling

    tiling = Tiling.of(tile, overlap)
    if protocol is not None and tiling is not None:
        raise BundleError(f"got protocol {protocol!r} and tile {tile}, expected one of both: call twice")
    return evaluate_all(
        model,
        (str(tiling or protocol or WHOLE),),
        data=data,
        split=split,
        reliability=reliability,
        corrupt=corrupt,
        report=report,
        overwrite=overwrite,
        device=device,
        on_progress=on_progress,
    )[0]


def evaluate_all(
    model: ModelLike,
    protocols: Sequence[str],
    *,
    data: str | Path | None = None,
    split: Literal["train", "val"] = "val",
    reliability: bool = False,
    corrupt: str | None = None,
    report: str | Path | None = None,
    overwrite: bool = False,
    device: str | None = None,
    on_progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Return the metrics of a model under each protocol; see `evaluate`."""
    check_protocols(protocols)
    path = resolve_predictor(model_text(model))

    from zoo.evaluation.evaluate import evaluate_tags
    from zoo.outputs import Outputs
    from zoo.predictors.load import load_predictor
    from zoo.predictors.tags import load_tag_predictor

    tells_tags = isinstance(path, Path) and is_classifier(path, protocols)
    plots = [] if tells_tags else [confusion_name, *[plot_name] * reliability]
    files = (REPORT_NAME, *(plot(name) for plot in plots for name in protocols))
    outputs = None if report is None else Outputs(Path(report), files, "--report", overwrite=overwrite)
    config = _config(path)
    spec = training_data(path) if data is None else str(data)
    sources = _sources(config, spec, split, protocols if reliability else (), corrupt, outputs)
    where = device_of(path, device)
    facts = {"model": str(path), **model_facts(path)}
    scores: list[Scores] = []
    if isinstance(path, Path) and tells_tags:
        results = [facts | evaluate_tags(load_tag_predictor(path, where), sources.scored, split, on_progress)]
    else:
        predictor = load_predictor(path, device=where)
        fitted = _reliability_of(config)
        scores, found = _masks(predictor, sources, split, protocols, fitted, on_progress)
        results = [facts | each for each in found]
    if outputs is not None:
        with outputs.writing():
            _write(outputs.folder, results, scores, sources.scored.classes.names)
    return results


class Sources(NamedTuple):
    """Images to evaluate on."""

    scored: Source
    held_out: Source | None
    """Images for the reliability, without those that it was fitted on; None if it is not requested."""


def _sources(
    config: BundleConfig | None,
    spec: str,
    split: Split,
    protocols: Sequence[str],
    corrupt: str | None,
    outputs: Outputs | None,
) -> Sources:
    """Return the images to evaluate on; `protocols` are those of the reliability, empty if not requested."""
    from zoo.data.open import open_source
    from zoo.data.outside import check_outside
    from zoo.evaluation.corruptions import Corrupted

    source = open_source(spec)
    if outputs is not None:
        check_outside(outputs.folder, source, outputs.option)
    held_out = _images_for_reliability(config, source, split, protocols) if protocols else None
    if corrupt is None:
        return Sources(source, held_out)
    return Sources(Corrupted(source, corrupt), held_out and Corrupted(held_out, corrupt))


def _images_for_reliability(
    config: BundleConfig | None, source: Source, split: Split, protocols: Sequence[str]
) -> Source:
    """Return the images of a split that the calibration of a model was not fitted on.

    Raises:
        BundleError: a classifier.
        ZooError: it was fitted on all of them, or a protocol resizes or averages logits.
    """
    from zoo.evaluation.scored import check_protocol, unseen

    if config is not None and config.deployable.kind == "classifier":
        raise BundleError("--reliability is for masks, got a classifier of whole images: leave it out")
    for name in protocols:
        check_protocol(name)
    fitted = _reliability_of(config)
    return source if fitted is None else unseen(source, split, fitted.fitted)


def _reliability_of(config: BundleConfig | None) -> Reliability | None:
    """Return the calibrations of a model; None if it has none."""
    return None if config is None else config.reliability


def _masks(
    predictor: Predictor,
    sources: Sources,
    split: Split,
    protocols: Sequence[str],
    fitted: Reliability | None,
    on_progress: Progress | None,
) -> tuple[list[Scores], list[dict[str, Any]]]:
    """Return the scores and all metrics under each protocol."""
    from zoo.evaluation.evaluate import score
    from zoo.evaluation.scored import check_logits

    if sources.held_out is not None:
        check_logits(predictor)
    scores = []
    for name in protocols:
        if len(protocols) > 1:
            log.info("protocol %s", name)
        scores.append(score(predictor, sources.scored, split, name, on_progress, with_boundary=True))
    results = [each.as_dict(predictor.classes) for each in scores]
    if sources.held_out is not None:
        results = [
            _with_reliability(each, predictor, sources.held_out, fitted, on_progress) for each in results
        ]
    return scores, results


def _with_reliability(
    result: Mapping[str, Any],
    predictor: Predictor,
    source: Source,
    fitted: Reliability | None,
    on_progress: Progress | None,
) -> dict[str, Any]:
    """Return a result with the reliability under its protocol.

    Args:
        result: result, with its split, protocol and number of images.
        predictor: predictor with logits.
        source: images that the calibration was not fitted on (`zoo.evaluation.scored.unseen`).
        fitted: calibrations of the model; None if it has none.
        on_progress: called after every image.
    """
    from zoo.evaluation.reliability import measure_reliability

    split: Split = result["split"]
    found = measure_reliability(predictor, source, split, result["protocol"], fitted, on_progress)
    facts = {
        "calibrated": None if fitted is None else fitted.about,
        "left_out": result["images"] - found["images"],
    }
    return {**result, "reliability": facts | found}


def check_protocols(names: Sequence[str]) -> None:
    """Raise if a protocol does not exist.

    Raises:
        BundleError: it does not.
    """
    from zoo.evaluation.protocols import PROTOCOLS
    from zoo.predictors.tiles import Tiling

    for name in names:
        if name not in PROTOCOLS and not Tiling.is_name(name):
            raise BundleError(f"{name!r} is not a protocol, expected some of {', '.join(PROTOCOLS)}")


def is_classifier(path: Path, protocols: Sequence[str]) -> bool:
    """Return whether a model is a classifier, which is evaluated on whole images.

    Raises:
        BundleError: another protocol is requested for a classifier.
    """
    from zoo.bundle.bundle import load_config

    found = path.is_dir() and load_config(path).deployable.kind == "classifier"
    if found and tuple(protocols) != (WHOLE,):
        raise BundleError(
            f"--protocol {','.join(protocols)} is for masks, but {path} is a classifier of whole images: "
            f"leave it out"
        )
    return found


def training_data(path: Path | str) -> str:
    """Return the spec of the data that a model was trained on.

    Raises:
        BundleError: it is unknown.
    """
    config = _config(path)
    spec = None if config is None else config.data_spec
    if spec is None:
        raise BundleError(f"{path} does not record its training data: select some with --data SPEC")
    return spec


def model_facts(path: Path | str) -> dict[str, Any]:
    """Return the facts to report with a figure: method, preset, network and list of labeled images.

    Args:
        path: a bundle or an artifact in one; the facts are empty for anything else.
    """
    config = _config(path)
    if config is None:
        return {}
    return {
        "method": config.method,
        "preset": config.recipe.get("preset"),
        "network": config.weights,
        "partition": config.provenance.get("partition", {}).get("digest"),
    }


def _config(path: Path | str) -> BundleConfig | None:
    from zoo.bundle.bundle import find_bundle, load_config

    bundle = find_bundle(path) if isinstance(path, Path) else None
    return None if bundle is None else load_config(bundle)


def confusion_name(protocol: str) -> str:
    """Return the file name of a confusion matrix's plot."""
    return f"confusion.{protocol}.png"


def plot_name(protocol: str) -> str:
    """Return the file name of the plot of the reliability under a protocol."""
    return f"reliability.{protocol}.png"


def _write(
    folder: Path, results: Sequence[dict[str, Any]], scores: Sequence[Scores], names: tuple[str, ...]
) -> None:
    """Write the figures, and the plots of each of `scores` (empty for a classifier)."""
    from zoo.bundle.bundle import write_json
    from zoo.pages.confusion import write_confusion
    from zoo.pages.reliability import write_reliability

    for result, each in zip(results, scores, strict=False):
        path = folder / confusion_name(result["protocol"])
        title = f"{result['model']} on {result['data']} {result['split']}, protocol {result['protocol']}"
        write_confusion(each.confusion.counts.cpu().numpy(), names, title, path)
        log.info("wrote %s", path)
        if "reliability" in result:
            path = folder / plot_name(result["protocol"])
            write_reliability(result["reliability"]["scores"], path)
            log.info("wrote %s", path)
    write_json(folder / REPORT_NAME, list(results))
    log.info("wrote %s", folder / REPORT_NAME)
