"""Evaluation of a model on labeled images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import BundleError
from zoo.machine import choose_device
from zoo.predictors.limits import OVERLAP
from zoo.resolve import ModelLike, model_text, resolve_predictor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.bundle.bundle import BundleConfig
    from zoo.evaluation.evaluate import Progress, Scores

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
        report: folder for the metrics and the confusion matrix; None writes nothing.
        overwrite: whether to replace files in `report` that zoo did not write.
        device: `cpu` or `cuda`; None for a GPU if PyTorch finds one.
        on_progress: called with the numbers of images done and in all.

    Returns:
        `miou`, `iou` by class, `pixel_accuracy`, and the conditions (`data`, `protocol`, `backend`, ...), as
        `zoo evaluate --json`.

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
    report: str | Path | None = None,
    overwrite: bool = False,
    device: str | None = None,
    on_progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Return the metrics of a model under each protocol; see `evaluate`."""
    check_protocols(protocols)
    path = resolve_predictor(model_text(model))

    from zoo.data.open import open_source
    from zoo.evaluation.evaluate import evaluate_tags, score
    from zoo.outputs import Outputs
    from zoo.predictors.load import load_predictor
    from zoo.predictors.tags import load_tag_predictor

    tells_tags = isinstance(path, Path) and is_classifier(path, protocols)
    files = (REPORT_NAME, *(() if tells_tags else map(confusion_name, protocols)))
    outputs = None if report is None else Outputs(Path(report), files, "--report", overwrite=overwrite)
    source = open_source(training_data(path) if data is None else str(data))
    where = choose_device(device)
    facts = {"model": str(path), **model_facts(path)}
    scores: list[Scores] = []
    if isinstance(path, Path) and tells_tags:
        results = [facts | evaluate_tags(load_tag_predictor(path, where), source, split, on_progress)]
    else:
        predictor = load_predictor(path, device=where)
        for name in protocols:
            if len(protocols) > 1:
                log.info("protocol %s", name)
            scores.append(score(predictor, source, split, name, on_progress, with_boundary=True))
        results = [facts | each.as_dict(predictor.classes) for each in scores]
    if outputs is not None:
        with outputs.writing():
            _write(outputs.folder, results, scores, source.classes.names)
    return results


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


def _write(
    folder: Path, results: Sequence[dict[str, Any]], scores: Sequence[Scores], names: tuple[str, ...]
) -> None:
    """Write the figures, and the confusion matrix of each of `scores` (empty for a classifier)."""
    from zoo.bundle.bundle import write_json
    from zoo.pages.confusion import write_confusion

    for result, each in zip(results, scores, strict=False):
        path = folder / confusion_name(result["protocol"])
        title = f"{result['model']} on {result['data']} {result['split']}, protocol {result['protocol']}"
        write_confusion(each.confusion.counts.cpu().numpy(), names, title, path)
        log.info("wrote %s", path)
    write_json(folder / REPORT_NAME, list(results))
    log.info("wrote %s", folder / REPORT_NAME)
