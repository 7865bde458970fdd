"""Images that a network cannot take, or that its backend fails on, amid usual traffic on a real server."""

from __future__ import annotations

import asyncio
import io
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import FRAGILE, PATCHES
from zoo.errors import InvalidImageError
from zoo.predictors.limits import Limits
from zoo.predictors.load import load_predictor
from zoo.serve.server.core.errors import ModelFailedError
from zoo.serve.server.core.model import Model
from zoo.serve.server.core.runner import MAX_FAILURES, Runner
from zoo.serve.server.core.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import httpx2
    from numpy.typing import NDArray

    from tests.serve.server.conftest import Running, ServeApp, StandIn
    from zoo.classes import Mask

    Picture = NDArray[np.uint8]
    WriteOnnx = Callable[..., Path]

THREADS = 8
RED, BLUE = (255, 0, 0), (0, 0, 255)
"""Of the first corner: the stand-in fails on it, and from it on."""


@pytest.fixture(params=["ort", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    name: str = request.param
    return name


def blocks(height: int, width: int, seed: int) -> Picture:
    """Return an image of noise in blocks of a patch, with the corner that the fragile file runs on."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, 256, (-(-height // PATCHES), -(-width // PATCHES), 3), np.uint8)
    image: Picture = cells.repeat(PATCHES, 0).repeat(PATCHES, 1)[:height, :width].copy()
    image[0, 0, 0] = FRAGILE
    return image


def post(server: Running, image: Picture) -> httpx2.Response:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return server.client.post("/predict", params={"format": "npy"}, content=file.getvalue())


def mask_of(answer: httpx2.Response) -> Mask:
    assert answer.status_code == 200, answer.text
    mask: Mask = np.load(io.BytesIO(answer.content), allow_pickle=False)
    return mask


def traffic(server: Running, images: list[Picture]) -> list[httpx2.Response]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda image: post(server, image), images))


@pytest.mark.parametrize("max_batch", [1, 4])
def test_a_4_x_4_image_amid_usual_traffic_is_400_and_spoils_nothing(
    serve_app: ServeApp, write_patches: WriteOnnx, tmp_path: Path, backend: str, max_batch: int
) -> None:
    path = write_patches(tmp_path / "patches.onnx", resize="none")
    server = serve_app({"m": load_predictor(path, backend=backend, threads=1)}, max_batch=max_batch)
    sizes = [(64, 64), (64, 64), (4, 4), (64, 64), (80, 120), (3, 64), (64, 64), (9, 8), (64, 7)]
    images = [blocks(*size, seed) for seed, size in enumerate(sizes * 6)]
    expected = load_predictor(path, backend="ort", threads=1)
    for image, answer in zip(images, traffic(server, images), strict=True):
        height, width, _ = image.shape
        if min(height, width) < PATCHES:
            assert answer.status_code == 400
            assert f"got an image of {height} x {width}, expected 8..any x 8..any" in answer.json()["detail"]
        else:
            assert np.array_equal(mask_of(answer), expected.predict(image))
    assert server.client.get("/readyz").status_code == 200
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 4, 4, 3], "data": [0] * 48}
    answer = server.client.post("/v2/models/m/infer", json={"inputs": [tensor]})
    assert answer.status_code == 400
    assert "got an image of 4 x 4" in answer.json()["error"]


def test_a_size_that_only_the_runtime_refuses_fails_alone(
    serve_app: ServeApp, write_patches: WriteOnnx, tmp_path: Path, backend: str
) -> None:
    predictor: Any = load_predictor(
        write_patches(tmp_path / "patches.onnx", resize="none"), backend=backend, threads=1
    )
    expected = load_predictor(predictor.path, backend="ort", threads=1)
    predictor._limits = Limits()
    server = serve_app({"m": predictor})
    images = [blocks(*((4, 4) if seed % 4 == 1 else (64, 64)), seed) for seed in range(24)]
    for image, answer in zip(images, traffic(server, images), strict=True):
        if len(image) == 4:
            assert answer.status_code == (400 if backend == "openvino" else 500)  # which says why it fails
        else:
            assert np.array_equal(mask_of(answer), expected.predict(image))
    assert server.client.get("/readyz").status_code == 200


def test_what_the_backend_fails_on_is_500_and_all_else_is_right(
    serve_app: ServeApp, write_fragile: WriteOnnx, tmp_path: Path, backend: str
) -> None:
    predictor = load_predictor(write_fragile(tmp_path / "fragile.onnx"), backend=backend, threads=1)
    predictor.preprocessing = predictor.preprocessing.model_copy(update={"resize": "none"})
    server = serve_app({"m": predictor}, max_batch=1)  # the file looks at the first image of a batch only
    images = [blocks(*((64, 64) if seed % 2 else (40, 72)), seed) for seed in range(24)]
    for image in images[::5]:
        image[0, 0, 0] = FRAGILE + 3
    for number, (image, answer) in enumerate(zip(images, traffic(server, images), strict=True)):
        if number % 5:
            assert np.array_equal(mask_of(answer), image.sum(axis=2, dtype=np.int32) > 384)
        else:
            assert answer.status_code == 500
    assert server.client.get("/readyz").status_code == 200


def test_a_model_that_fails_on_all_images_is_not_ready_until_it_has_succeeded(
    serve_app: ServeApp, stand_in: StandIn
) -> None:
    predictor: Any = stand_in((32, 32), resize="none", base_s=0)
    server = serve_app({"m": predictor})
    good, breaks = np.zeros((2, 32, 32, 3), np.uint8)
    breaks[0, 0] = BLUE
    statuses = [post(server, image).status_code for image in (good, breaks, *[good] * (MAX_FAILURES - 1))]
    assert statuses == [200, *[500] * MAX_FAILURES]
    for path in ("/readyz", "/v2/health/ready", "/v2/models/m/ready"):
        answer = server.client.get(path)
        assert answer.status_code == 503
        assert answer.json()["detail"] == "m failed on all recent images: see the server's log"
    assert server.client.get("/models").json()[0]["ready"] is False
    assert server.client.get("/healthz").status_code == 200
    predictor.broken = False
    assert post(server, good).status_code == 200
    assert server.client.get("/v2/models/m/ready").status_code == 200


def picture(corner: tuple[int, int, int] = (0, 0, 0), side: int = 32) -> Picture:
    image = np.full((side, side, 3), 200, np.uint8)
    image[0, 0] = corner
    return image


def test_images_that_are_at_fault_do_not_make_a_predictor_fail(stand_in: StandIn) -> None:
    predictor = stand_in((32, 32), base_s=0)
    runner = Runner(predictor, 4)
    for _ in range(4 * MAX_FAILURES):
        with pytest.raises(RuntimeError, match="red corner"):
            runner.run([picture(RED)])
        assert not runner.failing
    blank = [shape for shape in predictor.shapes if shape == (1, 32, 32, 3)]
    assert len(blank) == len(predictor.shapes) == 4 * MAX_FAILURES + 4


def test_a_predictor_fails_once_a_blank_image_of_the_size_that_fails_does(stand_in: StandIn) -> None:
    predictor = stand_in((32, 32), base_s=0)
    infer = predictor.infer

    def on_other_sizes(images: Picture, outputs: Sequence[str]) -> Any:
        if images.shape[1] == 48:
            raise RuntimeError("not at this size")
        return infer(images, outputs)

    predictor.infer = on_other_sizes  # type: ignore[method-assign]
    runner = Runner(predictor, 4)
    for count in range(1, MAX_FAILURES + 3):
        with pytest.raises(RuntimeError, match="not at this size"):
            runner.run([picture(side=48)])
        assert runner.failing is (count >= MAX_FAILURES)
    runner.run([picture()])
    assert not runner.failing


def test_an_image_that_is_refused_is_no_failure(write_patches: WriteOnnx, tmp_path: Path) -> None:
    predictor = load_predictor(write_patches(tmp_path / "patches.onnx", resize="none"), threads=1)
    runner = Runner(predictor, 1)
    for _ in range(2 * MAX_FAILURES):
        with pytest.raises(InvalidImageError):
            runner.run([picture(side=4)])
    assert not runner.failures


def test_a_probe_of_a_model_that_fails_on_all_images_fails(stand_in: StandIn) -> None:
    """Ray Serve asks it of each replica."""
    predictor: Any = stand_in((32, 32), base_s=0)

    async def main() -> None:
        model = Model("m", predictor, ServerSettings())
        await model.start()
        predictor.broken = True
        for _ in range(MAX_FAILURES):
            with pytest.raises(ModelFailedError, match="failed on this image"):
                await model.run(picture()[None], deadline=time.monotonic() + 5)
        with pytest.raises(ModelFailedError, match="m has failed again and again"):
            await model.probe()
        await model.stop()

    asyncio.run(main())
