"""Prediction of images to a folder, from which an interrupted call resumes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import BundleError
from zoo.predict.bulk import Bulk
from zoo.predict.inputs import find_inputs
from zoo.predict.journal import Journal
from zoo.predict.outputs import (
    OVERLAY,
    Job,
    earlier_outputs,
    files,
    is_done,
    make_jobs,
)
from zoo.predictors.outputs import MASK, check_unknown, written_outputs
from zoo.resolve import device_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.image_format import ImageFormat
    from zoo.predictors.base import Predictor
    from zoo.predictors.tiles import Tiling

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 8
"""Default number of images to take from a data source."""


@dataclass(frozen=True)
class Predictions:
    """What `zoo.predict` wrote to a folder.

    Attributes:
        model: the model, as its path or URL.
        backend: backend that ran it.
        runtime: runtime and device.
        out: folder of the results.
        kept: number of images whose results were there already.
        predicted: number of images that were predicted now.
        images: input, size, area of each class and written files by image; without images that failed.
        errors: input and error of each image that failed.
    """

    model: str
    backend: str
    runtime: str
    out: str
    kept: int
    predicted: int
    images: list[dict[str, Any]]
    errors: list[dict[str, str]]


class FolderOptions(NamedTuple):
    """Options of `predict_to`.

    Args:
        overlay: whether to draw each mask over its image.
        outputs: names of other outputs to write.
        limit: largest number of images from a data source.
        batch: images in a batch; None to choose it by their size.
        overwrite: whether to predict images again whose results are there, and to replace other files.
        device: `cpu` or `cuda`; None for a GPU if PyTorch finds one.
        listed: largest number of images in the result; None for all.
        tiling: tiles in which images are predicted at their original size; None for whole images.
        unknown_below: reliability below which a pixel of a mask is class 255; None for no such pixel.
    """

    overlay: bool = False
    outputs: tuple[str, ...] = ()
    limit: int = DEFAULT_LIMIT
    batch: int | None = None
    overwrite: bool = False
    device: str | None = None
    listed: int | None = None
    tiling: Tiling | None = None
    unknown_below: float | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of the requested results.

        Raises:
            BundleError: an output that does not exist, or cannot be written.
        """
        written = written_outputs()
        for name in self.outputs:
            if name not in written:
                raise BundleError(f"got output {name!r}, expected some of {', '.join(written)}")
        return tuple(dict.fromkeys((MASK, *[OVERLAY] * self.overlay, *self.outputs)))


Spread = Callable[[Path | str, str, Bulk], Bulk]
"""Returns the prediction of a model and a device that runs on several machines."""


def predict_to(
    model: Path | str,
    texts: Sequence[str],
    out: Path,
    options: FolderOptions | None = None,
    spread: Spread = lambda _model, _device, bulk: bulk,
) -> Predictions:
    """Write the masks of images to a folder.

    Args:
        model: path or URL of the model.
        texts: files, folders, patterns or data sources.
        out: folder of the results.
        options: what to write, and how.
        spread: function that spreads the prediction over several machines.

    Raises:
        ZooError: the model or the folder cannot be used; images that fail are in the result.
    """
    from zoo.bundle.bundle import check_writable
    from zoo.predictors.load import load_predictor

    options = options or FolderOptions()
    check_writable(out)
    kinds = options.kinds
    device = device_of(model, options.device)
    listed = partial(find_inputs, texts, options.limit, out, by_rows=options.tiling is not None)
    known = format_of(model)
    inputs = None if known is None else listed(known)
    predictor = load_predictor(model, device=device)
    if inputs is None:
        inputs = listed(predictor.format)
    jobs = make_jobs(inputs, out, kinds)
    check_unknown(options.unknown_below, predictor.classes)
    _remark_scale(predictor, options.tiling)
    header = {"model": str(model), "sha256": fingerprint(model, predictor, options)}
    with Journal(out, header, fresh=options.overwrite) as journal:
        waiting = _not_yet(jobs, journal, out, kinds)
        bulk = spread(
            model, device, Bulk(predictor, out, kinds, journal, options.tiling, options.unknown_below)
        )
        try:
            bulk.run(waiting, options.batch)
        except KeyboardInterrupt:
            left = f"{len(waiting) - bulk.done - len(bulk.failures):,} of {len(jobs):,}"
            log.info("stopped: %s images are left; run the same command to resume", left)
            raise
        images = [_shown(job, journal, out) for job in jobs[: options.listed]]
    return Predictions(
        str(model),
        predictor.backend,
        predictor.description,
        str(out),
        len(jobs) - len(waiting),
        bulk.done,
        [image for image in images if image is not None],
        bulk.failures,
    )


def format_of(model: Path | str) -> ImageFormat | None:
    """Return the format of a bundle's images without loading its network, so that inputs are listed first.

    None for files and servers, which give it once they are loaded, soon.
    """
    from zoo.bundle.bundle import load_config

    if isinstance(model, str) or not model.is_dir():
        return None
    return load_config(model).preprocessing.format


def _remark_scale(predictor: Predictor, tiling: Tiling | None) -> None:
    """Say at which scale a model sees tiles, if it was trained on scaled images."""
    preprocessing = predictor.preprocessing
    if tiling is not None and preprocessing.resize != "none":
        height, width = preprocessing.imgsz
        log.info(
            "tiles show images at their original size; this model was trained on images scaled to %d x %d "
            "(%s), times a random factor",
            height, width, preprocessing.resize,
        )  # fmt: skip


def fingerprint(model: Path | str, predictor: Predictor, options: FolderOptions) -> str:
    """Return the SHA-256 of what determines a model's masks; for a server, of its model info."""
    found = _fingerprint(model, predictor)
    if options.tiling is not None:
        found = hashlib.sha256(f"{found}\n{options.tiling}".encode()).hexdigest()
    if options.unknown_below is not None:
        found = hashlib.sha256(f"{found}\nunknown below {options.unknown_below}".encode()).hexdigest()
    return found


def _fingerprint(model: Path | str, predictor: Predictor) -> str:
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


def _not_yet(jobs: Sequence[Job], journal: Journal, out: Path, kinds: Sequence[str]) -> list[Job]:
    """Return the jobs whose outputs are missing or outdated, and log how many are kept.

    Raises:
        ZooError: files that zoo predict did not write would be overwritten.
    """
    from zoo.outputs import MOVE, OVERWRITE, refusal

    waiting: list[Job] = []
    outdated: list[Path] = []
    foreign: list[str] = []
    others = 0
    for job in jobs:
        mask = job.file(MASK)
        record = journal.latest(mask)
        if record is not None and journal.is_current(record) and is_done(job, record, out, kinds):
            journal.keep(mask)
            continue
        waiting.append(job)
        in_the_way, left_over = earlier_outputs(job, record, out, kinds)
        foreign += in_the_way
        outdated += left_over
        others += record is not None and record.get("input") not in (job.input.path, job.input.name, None)
    if journal.fresh:  # anything but a folder can be replaced
        foreign = [name for name in foreign if (out / name).is_dir()]
    if foreign:
        raise refusal(out, foreign, "--out", MOVE if journal.fresh else OVERWRITE)
    for path in outdated:
        path.unlink(missing_ok=True)
    _log_kept(len(jobs), len(waiting), others, out, other_model=journal.other_model)
    return waiting


def _log_kept(count: int, waiting: int, others: int, out: Path, *, other_model: bool) -> None:
    """Log how many images are kept, and why others are predicted anew."""
    if kept := count - waiting:
        log.info(
            "kept %s of %s images: this model predicted the same files (size and time); "
            "--overwrite predicts them again",
            f"{kept:,}",
            f"{count:,}",
        )
    if other_model:
        log.info("%s has predictions of another model, or with other options: recomputing them", out)
    if others:
        log.info(
            "%s has %s predictions of other images with the same names: replacing them", out, f"{others:,}"
        )


def _shown(job: Job, journal: Journal, out: Path) -> dict[str, Any] | None:
    """Return the result of a job, None if it failed."""
    record = journal.record(job.file(MASK))
    if record is None:
        return None
    paths = {kind: record.get(kind) and str(out / record[kind]) for kind in files()}
    kept = {key: value for key, value in record.items() if key not in ("written", "model")}
    return {**kept, "input": job.input.name, **paths}
