"""Prediction requests: the path from request to response that all routes share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from zoo.serve.server.core.timing import Timings
from zoo.serve.server.http.request import trace_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from starlette.requests import Request
    from starlette.responses import Response

    from zoo.serve.server.core.model import Model
    from zoo.serve.server.core.runner import Values
    from zoo.serve.server.http.context import Context

P = ParamSpec("P")
T = TypeVar("T")


class Decoded(NamedTuple):
    """Decoded request."""

    images: NDArray[np.uint8]
    """(B, H, W, 3) at the network's size."""
    outputs: tuple[str, ...]
    """Names of the requested outputs."""
    encode: Callable[[Sequence[Values]], Response]
    """Function that encodes the outputs of each image as a response; it runs in the codec pool."""
    held_bytes: int
    """Memory held by the images until the response is sent."""


async def answer(
    context: Context,
    model: Model,
    request: Request,
    read: Callable[[Request], Awaitable[bytes]],
    decode: Callable[[bytes], Decoded],
) -> Response:
    """Return the response to a request for a prediction.

    Args:
        context: context of the app.
        model: model to run.
        request: HTTP request.
        read: function that reads the body.
        decode: function that decodes the body and resizes its images; it runs in the codec pool.

    Raises:
        ZooError: an invalid request, overload, timeout or failure of the backend.
    """
    await context.start()  # for apps that run without their lifespan
    stopwatch = RequestTimer(context)
    with model.admit():  # do not read the body of a request that would be refused
        pass
    body = await read(request)
    with model.admit() as place:  # before anything is decoded
        decoded = await stopwatch.run("decode", decode, body)
        with context.budget.holding(decoded.held_bytes):
            found = await model.run(
                decoded.images,
                deadline=trace_of(request.scope).deadline,
                timings=stopwatch.timings,
                place=place,
                outputs=decoded.outputs,
            )
            response = await stopwatch.run("encode", decoded.encode, found)
    response.headers.update({**stopwatch.headers, "X-Zoo-Model": model.name})
    return response


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
    def headers(self) -> dict[str, str]:
        """Return the header `Server-Timing`, in milliseconds and in the order of the parts."""
        parts = {
            "decode": self._codec["decode"],
            "queue": self.timings.queue_s,
            "compute": self.timings.compute_s,
            "encode": self._codec["encode"],
        }
        text = ", ".join(f"{part};dur={seconds * 1000:.2f}" for part, seconds in parts.items())
        return {"Server-Timing": text}
