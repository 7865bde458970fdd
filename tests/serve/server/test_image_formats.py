"""Models of images that are not 8-bit RGB, from training to the server."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from zoo.cli import app
from zoo.predictors.load import load_predictor

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.serve.server.conftest import ServeApp

SIZE = 36, 40


class Case(NamedTuple):
    """Images of one format."""

    toml: str
    dtype: str
    channels: int
    suffix: str
    low: float
    high: float


CASES = {
    "four-channel TIFF": Case("channels = 4", "uint8", 4, ".tif", 0, 255),
    "16-bit gray": Case('channels = 1\ndtype = "uint16"\nrange = [0, 4095]', "uint16", 1, ".tif", 0, 4095),
    "six-channel arrays": Case(
        'channels = 6\ndtype = "float32"\npercentiles = [1, 99]\nrgb = [2, 1, 0]',
        "float32",
        6,
        ".npy",
        -3.0,
        7.0,
    ),
}


def write_image(path: Path, image: NDArray[Any]) -> None:
    """Write (H, W, C) as an array, or as a TIFF stack of its channels."""
    if path.suffix == ".npy":
        np.save(path, image)
    else:
        tifffile.imwrite(path, image.transpose(2, 0, 1).squeeze(), photometric="minisblack")


def write_data(folder: Path, case: Case) -> None:
    """Write a data set whose classes differ in one channel."""
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in ("images", "masks"):
            (folder / split / name).mkdir(parents=True)
        for number in range(count):
            cells = random.integers(3, size=(3, 4))
            cells[0, :3] = range(3)
            mask = np.kron(cells, np.ones((12, 10))).astype(np.uint8)
            unit = random.random((*SIZE, case.channels)) * 0.3
            unit[..., -1] += 0.3 * mask
            image = (case.low + unit.clip(0, 1) * (case.high - case.low)).astype(case.dtype)
            write_image(folder / split / "images" / f"{number}{case.suffix}", image)
            Image.fromarray(mask).save(folder / split / "masks" / f"{number}.png")
    (folder / "data.toml").write_text(f'names = ["a", "b", "c"]\n{case.toml}\n')


def zoo(*arguments: object) -> Any:
    """Run `zoo ... --json` and return what it prints."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_model_goes_from_training_to_a_server_of_its_onnx_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve_app: ServeApp
) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data", case)
    settings = ["imgsz=[32,32]", "batch_l=2", "batch_u=2", "workers=0"]
    options = [part for setting in settings for part in ("--set", f"data.{setting}")]
    network = [("encoder", "test_resnet"), ("output_stride", "8"), ("decoder_channels", "16")]
    options += [part for key, value in network for part in ("--set", f"network.{key}={value}")]
    options += ["--steps", "6", "--no-pretrained", "--no-export-check"]
    metrics = zoo("train", "supervised", "--data", "data", "--out", "run", *options)
    bundle = tmp_path / "run" / "bundle"
    format_ = json.loads((bundle / "config.json").read_text())["preprocessing"]["format"]
    assert (format_["channels"], format_["dtype"]) == (case.channels, case.dtype)

    scored = zoo("evaluate", "run")
    assert scored["miou"] == pytest.approx(metrics["val"]["miou"], abs=1e-3)
    zoo("export", "run", "--onnx", "--precision", "fp32", "--min-agreement", "0.99")
    again = zoo("evaluate", bundle / "model.onnx")
    assert again["miou"] == pytest.approx(scored["miou"], abs=1e-3)
    rows = zoo("bench", "run", "--quick", "--backends", "eager,ort", "--batch", 1, "--imgsz", "32,32")
    assert {"eager", "ort"} <= {row["backend"] for row in rows["rows"]}

    for model, out in (("run", "eager"), (bundle / "model.onnx", "ort")):
        zoo("predict", model, "data/val/images", "--out", out, "--overlay")
        assert np.asarray(Image.open(tmp_path / out / "0.png")).shape == SIZE
        assert Image.open(tmp_path / out / "0.overlay.png").mode == "RGB"  # enlarged, with a legend

    server = serve_app({"bands": load_predictor(bundle / "model.onnx")})
    body = (tmp_path / "data" / "val" / "images" / f"0{case.suffix}").read_bytes()
    answer = server.client.post("/predict", content=body)
    assert answer.status_code == 200, answer.text
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(answer.content))), np.asarray(Image.open(tmp_path / "ort" / "0.png"))
    )
