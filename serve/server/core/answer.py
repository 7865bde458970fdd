"""Prediction requests: the path from request to response that all routes share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar

from zoo.serve.server.core.timing import Timings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from numpy.typing import NDArray

    from zoo.serve.server.core.context import Context
    from zoo.serve.server.core.model import Model
    from zoo.serve.server.core.runner import Values
    from zoo.serve.server.core.timing import Trace

P = ParamSpec("P")
T = TypeVar("T")
Body = TypeVar("Body")


class Decoded(NamedTuple, Generic[T]):
    """Decoded request."""

    images: NDArray[Any]
    """(B, H, W, C) at the network's size."""
    outputs: tuple[str, ...]
    """Names of the requested outputs."""
    encode: Callable[[Sequence[Values]], T]
    """Function that encodes the outputs of each image as a response; it runs in the codec pool."""
    held_bytes: int
    """Memory held by the images until the response is sent."""


class Answer(NamedTuple, Generic[T]):
    """Response and its timings."""

    response: T
    server_timing: str
    """Value of the header `Server-Timing`."""


async def answer(
    context: Context,
    model: Model,
    trace: Trace,
    read: Callable[[], Awaitable[Body]],
    decode: Callable[[Body], Decoded[T]],
) -> Answer[T]:
    """Return the response to a request for a prediction.

    Args:
        context: context of the server.
        model: model to run.
        trace: trace of the request.
        read: function that reads the body.
        decode: function that decodes the body and resizes its images; it runs in the codec pool.

    Raises:
        ZooError: an invalid request, overload, timeout or failure of the backend.
    """
    await context.start()  # for apps that run without their lifespan
    stopwatch = RequestTimer(context)
    with model.admit():  # do not read the body of a request that would be refused
        pass
    body = await read()
    with model.admit() as place:  # before anything is decoded
        decoded = await stopwatch.run("decode", decode, body)
        with context.budget.holding(decoded.held_bytes):
            found = await model.run(
                decoded.images,
                deadline=trace.deadline,
                timings=stopwatch.timings,
                place=place,
                outputs=decoded.outputs,
            )
            response = await stopwatch.run("encode", decoded.encode, found)
    return Answer(response, stopwatch.server_timing)


class RequestTimer:
    """Runs and times parts of a request in the codec pool.

    Args:
        context: context with the pool.
    """

    def __init__(self, context: Context) -> None:
        self.timings = Timings()
        """Timings that the model fills in."""
        self._context = context
        self._codec: dict[str, float] = {}

    async def run(self, part: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a thread of the codec pool and return its result.

        Args:
            part: `decode` or `encode`.
            function: function to run and time.
            args: positional arguments of the function.
            kwargs: keyword arguments of the function.
        """
        begin = time.perf_counter()
        result = await self._context.in_pool(function, *args, **kwargs)
        self._codec[part] = time.perf_counter() - begin
        return result

    @property
    def server_timing(self) -> str:
        """Return the value of the header `Server-Timing`, in milliseconds and in the order of the parts."""
        parts = {
            "decode": self._codec["decode"],
            "queue": self.timings.queue_s,
            "compute": self.timings.compute_s,
            "encode": self._codec["encode"],
        }
        return ", ".join(f"{part};dur={seconds * 1000:.2f}" for part, seconds in parts.items())
