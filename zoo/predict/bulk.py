"""Bulk prediction to a folder: prefetching, batching, threaded writing, and a journal for resuming."""

from __future__ import annotations

import errno
import logging
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from zoo.errors import BundleError, InvalidImageError, ZooError
from zoo.predict.outputs import OVERLAY, Job, Result, describe, write_result
from zoo.predictors.outputs import LOGITS, MASK, OUTPUTS, RELIABILITY, uncalibrated
from zoo.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoo.predict.journal import Journal
    from zoo.predict.stream import Failed, Options, Streamed
    from zoo.predictors.base import Predictor
    from zoo.predictors.tiles import Tiling

log = logging.getLogger(__name__)

Writing = deque[tuple[Job, Future[Result]]]

SHOWN = 20
"""Number of failures that are logged; the journal lists all."""


class Bulk:
    """Prediction of many images to a folder.

    Args:
        predictor: model that predicts.
        out: output folder.
        kinds: kinds of the requested results, including `MASK`.
        journal: journal of the output folder.
        tiling: tiles in which images are predicted; None for whole images.
        unknown_below: reliability below which a pixel of a mask is `IGNORE`; None for no such pixel.
    """

    def __init__(
        self,
        predictor: Predictor,
        out: Path,
        kinds: Sequence[str],
        journal: Journal,
        tiling: Tiling | None = None,
        unknown_below: float | None = None,
    ) -> None:
        self.predictor = predictor
        self.out = out
        self.kinds = kinds
        self.journal = journal
        self.tiling = tiling
        self.unknown_below = unknown_below
        self.done = 0
        """Number of images whose results are written."""
        self.failures: list[dict[str, str]] = []
        """`input` and `error` of each image without a mask."""
        self._runs = False

    def run(self, jobs: Sequence[Job], batch: int | None = None) -> None:
        """Predict images; those that fail are added to `failures` and do not stop the others.

        Args:
            jobs: images to predict.
            batch: number of images in a batch; None to choose it by image size.

        Raises:
            ZooError: the model fails or lacks a requested output, or a result cannot be written.
        """
        from zoo.predict.stream import THREADS, stream

        options = self._options(batch)
        others = [job for job in jobs if job.input.video is not None or job.input.is_scene]
        images = [job for job in jobs if job.input.video is None and not job.input.is_scene]
        results = stream(self.predictor, images, lambda job: job.input.read(), options)
        writing: Writing = deque()
        waiting = 1 if self.tiling else 2 * THREADS  # results of large images in memory
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="zoo-write")
        try:
            with Progress(len(images)) as progress, pool, closing(results):
                for result in results:
                    self._check(result)
                    self.journal.start()
                    writing.append((result.item, pool.submit(self._finish, result)))
                    while writing and (len(writing) > waiting or writing[0][1].done()):
                        self._note(writing)
                    progress.advance()
                while writing:
                    self._note(writing)
            for job in others:
                self._run_alone(job, options)
        except BaseException as error:
            self._salvage(writing)
            if isinstance(error, OSError):
                raise self._unwritable(error, len(jobs)) from error
            raise

    def _run_alone(self, job: Job, options: Options) -> None:
        """Predict a video, or a TIFF by rows, and add it to the journal."""
        from zoo.predict.scene import write_scene
        from zoo.predict.video import write_video

        self.journal.start()
        try:
            if job.input.is_scene:
                result = write_scene(job, self.predictor, options, self.out, self.kinds)
            else:
                result = write_video(job, self.predictor, options, self.out, self.kinds, self.unknown_below)
        except ZooError as error:
            result = _failure(job, error)
        self._add(job, result)

    def _options(self, batch: int | None) -> Options:
        from zoo.predict.stream import Options
        from zoo.predictors.tiles import check_tiling

        outputs = tuple(kind for kind in self.kinds if kind != OVERLAY)
        available = self.predictor.available
        if self.unknown_below is not None:
            outputs = tuple(dict.fromkeys((*outputs, RELIABILITY)))
        for name in outputs:
            if OUTPUTS[name].calibrated and LOGITS in available and name not in available:
                raise BundleError(uncalibrated(name))
            if name not in available:
                given = "masks" if available == (MASK,) else " and ".join(available)
                raise BundleError(
                    f"{name} is requested, but this {self.predictor.backend} artifact only returns {given}: "
                    f"predict with the bundle, or export again with --output {MASK}+{name}"
                )
        if self.tiling is not None:
            check_tiling(self.predictor, outputs)
        low, high = self.predictor.limits
        return Options(
            batch=batch,
            least=low[0],
            most=high[0],
            outputs=outputs,
            keep_images=OVERLAY in self.kinds,
            tiling=self.tiling,
        )

    def _check(self, result: Streamed[Job] | Failed[Job]) -> None:
        """Raise if all other images would fail too: if the first image fails, the model is at fault."""
        from zoo.predict.stream import Failed

        if isinstance(result, Failed):
            if not self._runs and not isinstance(result.error, InvalidImageError):
                raise result.error
            return
        self._runs = True

    def _finish(self, result: Streamed[Job] | Failed[Job]) -> Result:
        """Write the outputs of an image to temporary files, in a thread; a failed image has none."""
        from zoo.predict.stream import Failed

        if isinstance(result, Failed):
            return _failure(result.item, result.error)
        try:
            return write_result(result, self.out, self.kinds, self.predictor.classes, self.unknown_below)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            name = result.item.input.name
            reason = ZooError(f"{name} has a name that is too long for its results: rename it")
            return _failure(result.item, reason)

    def _note(self, writing: Writing) -> None:
        """Add the first result to the journal once its files are written; it stays queued on an interrupt."""
        job, future = writing[0]
        self._add(job, future.result())
        writing.popleft()

    def _add(self, job: Job, result: Result) -> None:
        """Add the line of an image to the journal and rename its outputs to their final names."""
        try:
            self.journal.add(*result)
        except ZooError as error:
            result.discard()
            result = _failure(job, error)
            self.journal.add(*result)
        except OSError:
            result.discard()
            raise
        if "error" not in result.record:
            self.done += 1
            return
        self.failures.append({"input": job.input.name, "error": result.record["error"]})
        if len(self.failures) <= SHOWN:
            log.error("error: %s", result.record["error"])

    def _salvage(self, writing: Writing) -> None:
        """Add the results that were written before an error."""
        while writing:
            with suppress(OSError):
                self._note(writing)
                continue
            writing.popleft()

    def _unwritable(self, error: OSError, total: int) -> ZooError:
        return ZooError(
            f"{self.out} cannot be written to ({error.strerror or error}) after {self.done:,} of {total:,} "
            f"images: make room there and run the same command again, it resumes from here"
        )


def _failure(job: Job, error: ZooError) -> Result:
    return Result({**describe(job), "error": str(error)}, {})
