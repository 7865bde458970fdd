"""One model that is served: its predictor runs in one thread of its own, on batches."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import InvalidImageError
from zoo.predictors.outputs import MASK, OUTPUTS
from zoo.preprocess import check_image, resize_image
from zoo.serve.server.core.batcher import Batcher
from zoo.serve.server.core.errors import DeadlineError, ModelFailedError, QueueFullError, TooLargeError
from zoo.serve.server.core.runner import Ask, Runner
from zoo.serve.server.core.timing import Timings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.classes import Classes
    from zoo.predictors.base import Predictor
    from zoo.preprocess import Preprocessing
    from zoo.serve.server.core.admission import Place
    from zoo.serve.server.core.runner import Values
    from zoo.serve.server.core.settings import ServerSettings
    from zoo.serve.server.core.timing import Observer

    Image = NDArray[Any]

log = logging.getLogger(__name__)


class About(NamedTuple):
    """What there is to tell of a model beside its predictor."""

    version: str = "1"
    path: str = ""
    """Where it was loaded from; never sent to clients."""
    fingerprint: str = ""
    """Digits that differ where the files do."""
    reason: str = ""
    """Why this backend."""
    card: str | None = None
    """Markdown."""


class Model:
    """A predictor behind a queue.

    Before an image of a request is read and decoded, `admit` makes sure that there is room for it:

        with model.admit() as place:
            [values] = await model.run(images, deadline=deadline, place=place)

    Args:
        name: unique in a server, of letters, digits, `.`, `_` and `-`.
        predictor: used by one thread only.
        settings: settings of batches, queue and timeout.
        about: further properties of the model.
        few_shapes: argument of `Runner`.
    """

    def __init__(
        self,
        name: str,
        predictor: Predictor,
        settings: ServerSettings,
        about: About | None = None,
        *,
        few_shapes: bool = False,
    ) -> None:
        self.name = name
        self.version, self.path, self.fingerprint, self.reason, self.card = about or About()
        self._started = False
        self._predictor = predictor
        self._settings = settings
        tiling = settings.tiling
        self.outputs = tuple(
            name
            for name in predictor.available
            if OUTPUTS[name].formats and not (tiling and OUTPUTS[name].calibrated)
        )
        """Names of those that clients may ask for."""
        self._runner = Runner(predictor, settings.max_batch, few_shapes=few_shapes, tiling=tiling)
        self._batcher: Batcher[Ask, Values] = Batcher(
            name,
            self._runner.answer,
            max_batch=self._runner.max_batch,
            max_wait_s=settings.max_wait_ms / 1000,
            queue=settings.queue,
        )

    @property
    def classes(self) -> Classes:
        """Return names and colors of the labels."""
        return self._predictor.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how images are brought to the network's size."""
        return self._predictor.preprocessing

    @property
    def backend(self) -> str:
        """Return the short name of the backend."""
        return self._predictor.backend

    @property
    def description(self) -> str:
        """Return what runs where."""
        return self._predictor.description

    @property
    def takes_batches(self) -> bool:
        """Return whether the file takes more than one image at once."""
        return self._runner.limits.high[0] > 1

    @property
    def max_batch(self) -> int:
        """Return how many images run together at most."""
        return self._batcher.max_batch

    @property
    def waiting(self) -> int:
        """Return how many images wait for their batch."""
        return self._batcher.waiting

    @property
    def failing(self) -> bool:
        """Return whether the backend fails again and again, whatever it is given."""
        return self._runner.failing

    @property
    def ready(self) -> bool:
        """Return whether it is started and does not fail again and again."""
        return self._started and not self.failing

    @property
    def running_s(self) -> float:
        """Return how long the batch that runs now has run, 0 if none does."""
        return self._batcher.running_s

    @property
    def observer(self) -> Observer | None:
        """Return what is told of each batch, None for nothing."""
        return self._batcher.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._batcher.observer = observer

    async def start(self) -> None:
        """Run some blank images, so that the first request finds all set up, and be ready; once is enough.

        Raises:
            Exception: what the backend raised.
        """
        if not self._started:
            await self._batcher.start(self._runner.warm_up)
            self._started = True

    async def stop(self) -> None:
        """Finish what is in the queue, for at most the timeout of the settings."""
        self._started = False
        await self._batcher.stop(self._settings.timeout)

    def admit(self, count: int = 1) -> Place:
        """Return room for some images, used with `with` around all that is done for them.

        Raises:
            QueueFullError: there is none.
        """
        return self._batcher.admit(count)

    def resized(self, image: Image) -> Image:
        """Return an image of any size at the network's size, for `run`; blocks, so that it needs a thread.

        An image that is predicted in tiles keeps its size.

        Args:
            image: (H, W, C) of the format of the model.

        Raises:
            InvalidImageError: not such an image, or one of a size that the file does not take.
        """
        check_image(image, self.preprocessing.format)
        given = image.shape[0], image.shape[1]
        size = self._runner.network_size(given)
        self._runner.limits.check(size, given)
        return image if self._runner.is_cut(given) else resize_image(image, size)

    async def run(
        self,
        images: Image,
        *,
        deadline: float,
        timings: Timings | None = None,
        place: Place | None = None,
        outputs: tuple[str, ...] = (MASK,),
    ) -> list[Values]:
        """Queue each image of a batch and return its outputs by name, at the size of the batch.

        Args:
            images: (B, H, W, C) of the format of the model.
            deadline: deadline by `time.monotonic()`.
            timings: filled in with those of the slowest image.
            place: admission of one image from `admit`; None to admit all images here.
            outputs: names of outputs.

        Returns:
            (H, W); of masks uint8, or int32 above 255 classes.

        Raises:
            InvalidImageError: invalid images, or a size that the file does not accept.
            TooLargeError: more images than the queue can hold.
            QueueFullError: the queue is full.
            DeadlineError: the deadline passed.
            ModelFailedError: the backend failed on an image.
        """
        if images.ndim != 4 or not len(images):
            raise InvalidImageError(
                f"got images of shape {images.shape}, expected (batch, height, width, "
                f"{self.preprocessing.format.channels}): send at least one"
            )
        check_image(images[0], self.preprocessing.format)
        size = images.shape[1], images.shape[2]
        self._runner.limits.check(self._runner.network_size(size) if self._runner.is_cut(size) else size)
        limit = self._batcher.places.limit
        if len(images) > limit:
            raise TooLargeError(f"got {len(images)} images at once, expected at most {limit}: send fewer")
        each = [Timings() for _ in images]
        with self.admit(len(images) - (place is not None)):
            answers = await asyncio.gather(
                *(
                    self._submit(Ask(image, outputs), deadline, times)
                    for image, times in zip(images, each, strict=True)
                ),
                return_exceptions=True,
            )
        if timings is not None:
            slowest = max(each, key=lambda times: times.queue_s + times.compute_s)
            timings.queue_s, timings.compute_s = slowest.queue_s, slowest.compute_s
        return [_values_or_raise(answer) for answer in answers]

    async def probe(self) -> None:
        """Run a blank image, before all that waits and beyond the limit of the queue.

        Raises:
            DeadlineError: no mask within the timeout of the settings.
            ModelFailedError: the backend failed, or has failed again and again on images of another size.
        """
        if self.failing:
            raise ModelFailedError(f"{self.name} has failed again and again: see the server's log")
        ask = Ask(self._runner.blank())
        await self._submit(ask, time.monotonic() + self._settings.timeout, None, urgent=True)

    async def _submit(
        self, ask: Ask, deadline: float, timings: Timings | None, *, urgent: bool = False
    ) -> Values:
        height, width = ask.image.shape[:2]
        key = object() if self._runner.is_cut((height, width)) else ask.image.shape  # tiles are a batch
        try:
            return await self._batcher.submit(ask, key, deadline=deadline, timings=timings, urgent=urgent)
        except (DeadlineError, QueueFullError, InvalidImageError):
            raise
        except Exception as error:
            log.error("%s failed on an image of %d x %d", self.name, height, width, exc_info=error)
            raise ModelFailedError(
                f"{self.name} failed on this image, {height} x {width} for the network: see the server's log"
            ) from error


def _values_or_raise(outcome: Values | BaseException) -> Values:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
