"""Remote backend: a running server (`zoo serve`) as a predictor, over HTTP.

`predict` sends the image, and the server resizes it; `infer` sends a batch at the network's size by the Open
Inference Protocol with binary tensors (REST, version 2).
"""

from __future__ import annotations

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from zoo.classes import Classes
from zoo.frozen import first_fault
from zoo.image_format import RGB, Dtype, ImageFormat
from zoo.predictors.artifact import INPUT_NAME
from zoo.predictors.base import Predictor
from zoo.predictors.outputs import MASK, OUTPUTS, RELIABILITY, check_given, check_unknown, output_of
from zoo.predictors.remote.connection import (
    PATIENCE_S,
    Connection,
    NotFoundError,
    ServerError,
    parse_addresses,
)
from zoo.predictors.remote.oip import JSON_LENGTH, Message, infer_request, tensors_of
from zoo.predictors.session import renew_after_fork
from zoo.preprocess import Preprocessing, Resize, check_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zoo.classes import Mask

BATCH_BYTES = 16 * 2**20
"""Largest size of the images in one request, as servers limit the body."""

SLACK_S = 10.0
"""Seconds that a client waits beyond the server's time limit."""

REQUESTS = 4
"""Number of concurrent requests, which a server batches and distributes over its workers."""


class ServedClass(BaseModel):
    """A class in the response of `/models`."""

    name: str
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


class ServedModel(BaseModel):
    """A model in the response of `/models`."""

    name: str
    version: str
    backend: str
    description: str
    imgsz: tuple[int, int]
    resize: Resize
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = RGB.channels
    """Servers of earlier versions take 8-bit RGB."""
    dtype: Dtype = RGB.dtype
    ranges: tuple[tuple[float, float], ...] | None = None
    classes: list[ServedClass]
    output: Literal["uint8", "int32"]
    outputs: list[str] = [MASK]
    """Servers of earlier versions have masks only."""
    max_batch: Annotated[int, Field(ge=1)]
    timeout: float = 0.0
    """Time limit of a request, in seconds; 0 if a server of an earlier version does not say."""


class RemotePredictor(Predictor):
    """A model of a running server.

    Args:
        url: `http://host:port` of its first model, or `http://host:port/NAME`; behind a proxy also
            `http://host/PREFIX[/NAME]`.
        key: API key; None for that in the environment variable `ZOO_API_KEY`, if it is set.

    Raises:
        ServerError: the server is unreachable or not `zoo serve`, has no such model, or rejects the key.
    """

    backend = "remote"

    def __init__(self, url: str, key: str | None = None) -> None:
        self.served, self.fingerprint = self._reach(url, key)
        renew_after_fork(self)
        names = tuple(each.name for each in self.served.classes)
        palette = tuple(tuple(bytes.fromhex(each.color[1:])) for each in self.served.classes)
        fields = self.served.model_dump(include={"imgsz", "resize", "mean", "std"})
        format_ = ImageFormat(**self.served.model_dump(include={"channels", "dtype", "ranges"}))
        super().__init__(Classes(names, palette), Preprocessing(**fields, format=format_))  # type: ignore[arg-type]

    def renew(self) -> None:
        """Open a new connection and thread pool: a forked process cannot use those of its parent."""
        self.connection = self._connect()
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="zoo-remote")

    @property
    def description(self) -> str:
        """Return model, server and the server's backend."""
        served = self.served
        return f"{served.name} {served.version} of {self.connection.server}, {served.description}"

    @property
    def available(self) -> tuple[str, ...]:
        """Return the names of the server's outputs that this version knows."""
        return tuple(name for name in self.served.outputs if name in OUTPUTS)

    def infer(self, images: NDArray[Any], outputs: Sequence[str] = (MASK,)) -> dict[str, NDArray[Any]]:
        """Return outputs of a batch by name, in as many requests as the server's limits require.

        Raises:
            InvalidImageError: the server rejects the images.
            BundleError: the model fails on the images, or lacks an output.
            ServerError: the server does not respond.
        """
        check_given(self.available, outputs)
        count = max(1, min(self.served.max_batch, BATCH_BYTES // max(1, images[0].nbytes)))
        parts = [images[start : start + count] for start in range(0, len(images), count)]
        try:
            found = list(self._pool.map(lambda part: self._infer(part, outputs), parts))
        except KeyboardInterrupt:
            self.connection.give_up()
            raise
        return {name: np.concatenate([values[name] for values in found]) for name in outputs}

    def predict(self, image: NDArray[Any], unknown_below: float | None = None) -> Mask:
        """Return the mask of an image of any size, at the image's size, (H, W).

        Args:
            image: (H, W, C) of the format of the model; RGB is sent as PNG, others as `.npy`.
            unknown_below: reliability, 0 to 1, below which the server makes a pixel 255; None for no such
                pixel.

        Raises:
            InvalidImageError: an array of another shape or type, or an image that the server rejects.
            BundleError: the model fails on the image, or `unknown_below` of a model without reliability or of
                more than 255 classes.
            ServerError: the server does not respond.
        """
        check_image(image, self.format)
        body, media_type = io.BytesIO(), "image/png"
        if self.format.is_rgb:
            Image.fromarray(image).save(body, "PNG", compress_level=1)
        else:
            np.save(body, image, allow_pickle=False)
            media_type = "application/x-npy"
        params: dict[str, str | float] = {"format": "npy", "model": self.served.name}
        if unknown_below is not None:
            check_unknown(unknown_below, self.classes)
            check_given(self.available, (RELIABILITY,))
            params["unknown_below"] = unknown_below
        how: dict[str, Any] = {
            "params": params,
            "headers": {"Content-Type": media_type},
        }
        answer = self.connection.send("POST", "/predict", content=body.getvalue(), **how)
        try:
            mask = np.load(io.BytesIO(answer.content), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise self.connection.strange("/predict", str(error)) from error
        checked: Mask = self._checked(MASK, mask[None], (1, *image.shape[:2]), "/predict")[0]
        return checked

    def close(self) -> None:
        """Close the connections."""
        self._pool.shutdown(cancel_futures=True)
        self.connection.close()

    def _reach(self, url: str, key: str | None) -> tuple[ServedModel, str]:
        """Connect to the server of a URL, and return what `_find` returns."""
        addresses = parse_addresses(url)
        for address in addresses:
            self._connect = partial(Connection, address.server, key)
            self.renew()
            try:
                found, fingerprint = self._find(address.model)
            except NotFoundError:
                self.close()
                if address == addresses[-1]:
                    raise
                continue
            if found.timeout + SLACK_S > PATIENCE_S:
                self.close()
                self._connect = partial(Connection, address.server, key, found.timeout + SLACK_S)
                self.renew()
            return found, fingerprint
        raise AssertionError  # there is at least one address

    def _find(self, name: str | None) -> tuple[ServedModel, str]:
        """Return a model of the server, and the SHA-256 of the server's description of it."""
        answer = self.connection.send("GET", "/models")
        try:
            entries = TypeAdapter(list[dict[str, Any]]).validate_json(answer.content)
            models = TypeAdapter(Annotated[list[ServedModel], Field(min_length=1)]).validate_python(entries)
        except ValidationError as error:
            raise self.connection.strange("/models", first_fault(error)) from error
        for model, entry in zip(models, entries, strict=True):
            if name in (None, model.name):
                said = {key: value for key, value in entry.items() if key != "ready"}
                return model, hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        raise ServerError(
            f"{self.connection.server} has no model {name!r}, expected "
            f"{' or '.join(model.name for model in models)}: name one of these in the URL"
        )

    def _infer(self, images: NDArray[Any], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return outputs of a batch from one request, by name."""
        request = infer_request(INPUT_NAME, images, outputs)
        path = f"/v2/models/{self.served.name}/versions/{self.served.version}/infer"
        answer = self.connection.send("POST", path, headers=request.headers, content=request.body)
        try:
            found = tensors_of(Message(answer.content, int(answer.headers[JSON_LENGTH])))
            shape = images.shape[0], images.shape[1], images.shape[2]
            return {name: self._checked(name, found[name], shape, path) for name in outputs}
        except (ValueError, KeyError, TypeError) as error:
            raise self.connection.strange(path, str(error)) from error

    def _checked(
        self, name: str, values: NDArray[Any], shape: tuple[int, int, int], path: str
    ) -> NDArray[Any]:
        expected = output_of(name, len(self.classes))
        if values.shape != expected.size(*shape) or values.dtype.name != expected.dtype:
            raise self.connection.strange(
                path, f"a {name} of shape {values.shape} and {values.dtype}, not {expected.size(*shape)}"
            )
        return values
