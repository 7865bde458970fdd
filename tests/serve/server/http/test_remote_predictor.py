"""`RemotePredictor` and `zoo predict http://...` against the app itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zoo
from tests.bundles import calibrate_by
from zoo.bundle.reliability import Calibration
from zoo.cli import app
from zoo.errors import BundleError, InvalidImageError, ZooError
from zoo.predictors.load import load_predictor
from zoo.predictors.remote.connection import ServerError
from zoo.predictors.remote.predictor import RemotePredictor
from zoo.serve.server.core.model import About

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    ServeApp = Callable[..., Any]

RANDOM = np.random.default_rng(0)
SIZES = ((90, 70), (50, 70), (64, 64), (33, 47), (90, 70))
IMAGES = [RANDOM.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_API_KEY", raising=False)


def test_the_masks_are_those_of_the_model_behind_the_app(serve_app: ServeApp, tiny_bundle: Path) -> None:
    local = load_predictor(tiny_bundle)
    running = serve_app({"tiny": load_predictor(tiny_bundle)}, max_batch=2)
    remote = RemotePredictor(f"http://127.0.0.1:{running.port}/tiny")
    assert remote.classes == local.classes
    assert remote.preprocessing == local.preprocessing
    for image in IMAGES:
        assert np.array_equal(remote.predict(image), local.predict(image))
    batch = np.stack([IMAGES[0], IMAGES[4], IMAGES[0]])
    assert np.array_equal(remote.run(batch), local.run(batch))


def test_a_folder_is_predicted_by_the_app(
    serve_app: ServeApp, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve_app({"tiny": load_predictor(tiny_bundle)})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for index, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"in/{index}.png")
    url = f"http://127.0.0.1:{running.port}"
    result = CliRunner().invoke(app, ["predict", url, "in", "--out", "out", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["predicted"] == len(IMAGES)
    local = load_predictor(tiny_bundle)
    for index, image in enumerate(IMAGES):
        assert np.array_equal(np.asarray(Image.open(f"out/{index}.png")), local.predict(image))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/0.png").write_bytes(b"drawn by hand")
    result = CliRunner().invoke(app, ["predict", url, "in", "--out", "masks"])
    assert "1 file in masks would be overwritten" in str(result.exception)
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["0.png"]


def test_unsure_pixels_and_reliability_of_a_server_are_those_of_its_bundle(
    serve_app: ServeApp, tmp_path: Path, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = Calibration(score="temperature", temperature=0.1)
    calibrate_by(bundle_copy, calibration)
    local = load_predictor(bundle_copy)
    running = serve_app({"tiny": local})
    monkeypatch.chdir(tmp_path)
    Image.fromarray(IMAGES[0]).save("photo.png")
    values = local.predict_outputs(IMAGES[0], ("reliability",)).outputs["reliability"]
    below = float(np.median(values)) / 255
    found = []
    for number, model in enumerate((bundle_copy, f"http://127.0.0.1:{running.port}")):
        options = ["--output", "reliability", "--unknown-below", str(below), "--out", str(number), "--json"]
        result = CliRunner().invoke(app, ["predict", str(model), "photo.png", *options])
        assert result.exit_code == 0, result.output
        [image] = json.loads(result.stdout)["images"]
        found.append([image["reliability_mean"], image["reliability_lowest_decile"], image["areas"]])
    assert found[0] == found[1]
    assert 0 < found[1][2]["unknown"] < 1
    for name in ("photo.png", "photo.reliability.png"):
        assert np.array_equal(*(np.asarray(Image.open(f"{number}/{name}")) for number in range(2)))
    expected = np.asarray(Image.open("0/photo.png"))
    for model in (str(bundle_copy), f"http://127.0.0.1:{running.port}"):
        loaded = zoo.load(model)
        [mask] = loaded(["photo.png"], unknown_below=below)
        assert np.array_equal(mask, expected)
        assert np.array_equal(loaded(IMAGES[0], unknown_below=below), expected)
        with pytest.raises(BundleError, match="got unknown_below 60, expected a reliability from 0 to 1"):
            loaded("photo.png", unknown_below=60)


def test_unknown_pixels_need_a_calibrated_model(serve_app: ServeApp, tiny_bundle: Path) -> None:
    running = serve_app({"tiny": load_predictor(tiny_bundle)})
    for model in (str(tiny_bundle), f"http://127.0.0.1:{running.port}"):
        with pytest.raises(BundleError, match="reliability"):
            zoo.load(model)(IMAGES[0], unknown_below=0.5)


def test_a_server_with_another_model_of_the_same_name_predicts_again(
    serve_app: ServeApp, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(IMAGES[0]).save("photo.png")
    kept = []
    for fingerprint in ("a", "a", "b"):
        running = serve_app({"tiny": load_predictor(tiny_bundle)}, {"tiny": About(fingerprint=fingerprint)})
        url = f"http://127.0.0.1:{running.port}"
        result = CliRunner().invoke(app, ["predict", url, "photo.png", "--json"])
        kept.append(json.loads(result.stdout)["kept"])
    assert kept == [0, 1, 0]


@pytest.mark.parametrize(("timeout", "expected"), [(5.0, 60.0), (300.0, 310.0)])
def test_a_client_waits_longer_than_its_server_works(
    serve_app: ServeApp, timeout: float, expected: float
) -> None:
    remote = RemotePredictor(f"http://127.0.0.1:{serve_app(timeout=timeout).port}")
    assert remote.connection.patience == expected
    remote.renew()  # as in a forked process
    assert remote.connection.patience == expected


def test_white_space_around_a_key_is_no_part_of_it(
    serve_app: ServeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve_app(api_key="secret\n")  # as in a file
    url = f"http://127.0.0.1:{running.port}"
    for key in ("secret", "secret\n"):
        monkeypatch.setenv("ZOO_API_KEY", key)
        assert zoo.load(url)(IMAGES[2]).shape == (64, 64)
    for key in ("cl\u00e9", "two\nlines"):
        monkeypatch.setenv("ZOO_API_KEY", key)
        with pytest.raises(ZooError, match="ZOO_API_KEY: got a key with characters that no") as caught:
            zoo.load(url)
        assert key not in str(caught.value)


def test_a_key_and_an_image_over_the_limit(serve_app: ServeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    running = serve_app(api_key="secret", max_pixels=5000)
    url = f"http://127.0.0.1:{running.port}"
    with pytest.raises(ServerError, match="needs an API key"):
        zoo.load(url)
    monkeypatch.setenv("ZOO_API_KEY", "secret")
    model = zoo.load(url)
    assert model(IMAGES[2]).shape == (64, 64)
    with pytest.raises(InvalidImageError, match="refused the image"):
        model(IMAGES[0])
    with pytest.raises(ServerError, match="has no model 'other', expected stand-in"):
        zoo.load(f"{url}/other")


def test_a_model_that_fails_is_an_error_of_one_line(serve_app: ServeApp) -> None:
    running = serve_app()
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    with pytest.raises(BundleError, match=r"the model failed on http://127\.0\.0\.1") as caught:
        zoo.load(f"http://127.0.0.1:{running.port}")(red)
    assert "secret" not in str(caught.value)
