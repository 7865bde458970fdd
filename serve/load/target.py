"""Discovery of a server's model, and requests for it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from zoo.api_key import KEY_VARIABLE
from zoo.errors import ZooError
from zoo.predictors.outputs import MASK
from zoo.predictors.remote.oip import infer_request
from zoo.preprocess import Preprocessing, resize_image
from zoo.serve.load.http import Connection, ProtocolError, parse_address, request
from zoo.serve.load.inputs import Picture, described
from zoo.serve.load.loops import Target
from zoo.serve.load.measurement import Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zoo.serve.load.http import Address, Answer
    from zoo.serve.load.measurement import Route

REACH_SECONDS = 10.0
START = "start it with zoo serve MODEL, or check the address"


class Asked(NamedTuple):
    """Requested target of a load test."""

    url: str
    key: str | None
    """API key; None without one."""
    model: str | None
    """Name of the model; None for the server's first."""
    route: Route
    timeout: float
    """Time limit of each request, in seconds."""


class Found(NamedTuple):
    """Server that answered the first request successfully."""

    server: Server
    target: Target
    inputs: tuple[NDArray[np.uint8], ...]
    """Input images, each (H, W, 3), for `oip` at the network's size."""


def find(asked: Asked, pictures: tuple[Picture, ...]) -> Found:
    """Return the server with its requests, after a successful response to the first one.

    Args:
        asked: requested target.
        pictures: images to send.

    Raises:
        ZooError: the server cannot be reached, needs a key, lacks the model or responds unexpectedly.
    """
    address = parse_address(asked.url)
    return asyncio.run(_find(Finder(asked, address), pictures))


async def _find(finder: Finder, pictures: tuple[Picture, ...]) -> Found:
    model = await finder.model()
    name = str(model["name"])
    requests, inputs = await finder.requests(model, pictures)
    await finder.ask(requests[0], "the first request of the test", finder.asked.timeout)
    address = finder.address
    told = {key: model.get(key) for key in ("version", "backend", "description", "reason")}
    sizes = [len(each) - each.index(b"\r\n\r\n") - 4 for each in requests]
    images = f"{len(inputs)} tensors {_sizes(inputs)}" if finder.asked.route == "oip" else described(pictures)
    server = Server(
        url=finder.asked.url, model=name, **told, images=images, request_bytes=sum(sizes) / len(sizes)
    )
    return Found(server, Target(address, tuple(requests), finder.asked.timeout), inputs)


class Finder:
    """Queries a server about its models.

    Args:
        asked: requested target.
        address: address of the server.
    """

    def __init__(self, asked: Asked, address: Address) -> None:
        self.asked = asked
        self.address = address
        self.headers = {} if asked.key is None else {"Authorization": f"Bearer {asked.key}"}

    async def model(self) -> dict[str, Any]:
        """Return the server's description of the model: its name, and more from `zoo serve`."""
        answer = await self._ask(request(self.address, "/models", self.headers))
        if answer.status == 404 and self.asked.route == "oip" and self.asked.model is not None:
            return {"name": self.asked.model}  # another server that speaks the protocol
        models = {model["name"]: model for model in self._json(answer, "GET /models")}
        name = self.asked.model or next(iter(models), None)
        if name not in models:
            raise ZooError(f"{self.asked.url} has no model {name}, expected one of {', '.join(models)}")
        found: dict[str, Any] = models[name]
        return found

    async def requests(
        self, model: Mapping[str, Any], pictures: Sequence[Picture]
    ) -> tuple[list[bytes], tuple[NDArray[np.uint8], ...]]:
        """Return the requests as sent over the wire, and the images in them.

        Raises:
            ZooError: the model does not take 8-bit RGB.
        """
        if (model.get("channels", 3), model.get("dtype", "uint8")) != (3, "uint8"):
            raise ZooError(
                f"{model['name']} takes images of {model['channels']} channels of {model['dtype']}, expected "
                f"a model of 8-bit RGB: time others with zoo bench"
            )
        name = quote(str(model["name"]), safe="")
        if self.asked.route == "predict":
            route = f"/predict?format=png&model={name}"
            made = [
                request(
                    self.address, route, {**self.headers, "Content-Type": picture.media_type}, picture.data
                )
                for picture in pictures
            ]
            return made, tuple(picture.pixels for picture in pictures)
        route = f"/v2/models/{name}"
        metadata = self._json(await self._ask(request(self.address, route, self.headers)), f"GET {route}")
        [tensor], outputs = metadata["inputs"], [output["name"] for output in metadata["outputs"]]
        output = MASK if MASK in outputs else outputs[0]
        inputs = tuple(_fitted(picture.pixels, tensor["shape"], model) for picture in pictures)
        return [self._infer(route, tensor["name"], output, image) for image in inputs], inputs

    def _infer(self, route: str, name: str, output: str, image: NDArray[np.uint8]) -> bytes:
        """Return an inference request of the Open Inference Protocol with a binary tensor."""
        message = infer_request(name, image[None], (output,))
        return request(self.address, f"{route}/infer", {**self.headers, **message.headers}, message.body)

    async def ask(self, message: bytes, what: str, timeout: float) -> None:
        """Send a request and check that the response is successful.

        Raises:
            ZooError: an unsuccessful response.
        """
        self._check(await self._ask(message, timeout), what)

    async def _ask(self, message: bytes, timeout: float = REACH_SECONDS) -> Answer:
        connection = Connection(self.address)
        try:
            async with asyncio.timeout(timeout):
                return await connection.ask(message)
        except TimeoutError as error:
            raise ZooError(f"{self.asked.url} did not respond within {timeout:g} s: {START}") from error
        except (OSError, EOFError, ProtocolError) as error:
            raise ZooError(f"{self.asked.url} cannot be reached ({error}): {START}") from error
        finally:
            connection.close()

    def _json(self, answer: Answer, what: str) -> Any:
        self._check(answer, what)
        try:
            return json.loads(answer.body)
        except ValueError as error:
            raise ZooError(
                f"{self.asked.url} answered {what} without JSON, expected a server started by zoo serve: "
                f"check the address"
            ) from error

    def _check(self, answer: Answer, what: str) -> None:
        if answer.status == 200:
            return
        if answer.status == 401:
            raise ZooError(
                f"{self.asked.url} needs an API key, got {'a wrong one' if self.asked.key else 'none'}: "
                f"set {KEY_VARIABLE}"
            )
        raise ZooError(
            f"{self.asked.url} answered {what} with {answer.status}, expected 200: {_detail(answer)}"
        )


def _fitted(pixels: NDArray[np.uint8], shape: Sequence[int], model: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return an image at the size that a model takes, unchanged if it takes any and names none."""
    if model.get("imgsz"):
        preprocessing = Preprocessing(imgsz=tuple(model["imgsz"]), resize=model["resize"])
        size = preprocessing.model_size(*pixels.shape[:2])
    else:
        size = pixels.shape[:2]
    height, width = (fixed if fixed > 0 else wanted for fixed, wanted in zip(shape[1:3], size, strict=True))
    return resize_image(pixels, (height, width))


def _sizes(images: Sequence[NDArray[np.uint8]]) -> str:
    sizes = {f"{image.shape[1]} x {image.shape[0]}" for image in images}
    return f"of {sizes.pop()}" if len(sizes) == 1 else f"of {len(sizes)} sizes"


def _detail(answer: Answer) -> str:
    """Return the detail of a problem response, or the beginning of another body."""
    text = answer.body[:300].decode("utf-8", "replace")
    try:
        return str(json.loads(answer.body)["detail"])
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split()) or "without further detail"
