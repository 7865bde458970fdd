"""An output that another package adds by one row: predicted, exported, written to files, served."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zoo.cli import app
from zoo.errors import BundleError
from zoo.export.options import ExportOptions
from zoo.export.pipeline import export_bundle
from zoo.predictors.load import load_predictor
from zoo.predictors.outputs import OUTPUTS
from zoo.predictors.remote.predictor import RemotePredictor
from zoo.predictors.runtimes.ort import OrtPredictor

if TYPE_CHECKING:
    import httpx2
    from numpy.typing import NDArray

    from tests.conftest import Install
    from tests.serve.conftest import ExportPixels
    from tests.serve.server.conftest import ServeApp
    from zoo.predictors.base import Predictor

MODULE = """
import math

from zoo.predictors.outputs import OutputRow


def entropy(logits):
    import torch

    prob = logits.float().softmax(dim=1)
    bits = -(prob * (prob + 1e-9).log()).sum(dim=1)
    return (255 / math.log(logits.shape[1]) * bits).clamp(0, 255).round().to(torch.uint8)


ENTROPY = OutputRow("entropy", entropy, suffix=".entropy.png", formats=("png", "npy"))
"""


@pytest.fixture(autouse=True)
def entropy(install: Install) -> None:
    install(MODULE, outputs={"entropy": "ENTROPY"})


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)


@pytest.fixture
def photo(image: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Image.fromarray(image).save("photo.png")
    return Path("photo.png")


def test_the_bundle_gives_it(tiny_bundle: Path, image: NDArray[np.uint8]) -> None:
    predictor = load_predictor(tiny_bundle)
    assert "entropy" in predictor.available
    found = predictor.predict_outputs(image, ("entropy", "mask"))
    assert np.array_equal(found.mask, predictor.predict(image))
    assert found.outputs["entropy"].shape == (70, 50)
    batch = np.stack([image[:64, :48]] * 2)
    logits = predictor.logits(batch)
    assert logits is not None
    prob = np.exp(logits - logits.max(axis=1, keepdims=True))
    prob /= prob.sum(axis=1, keepdims=True)
    expected = -(prob * np.log(prob + 1e-9)).sum(axis=1) / np.log(logits.shape[1])
    np.testing.assert_allclose(predictor.infer(batch, ("entropy",))["entropy"], 255 * expected, atol=0.51)


@pytest.mark.slow
def test_an_export_with_it_passes_its_gate(bundle_copy: Path, image: NDArray[np.uint8]) -> None:
    options = ExportOptions(precision=("fp32",), output="mask+entropy", images="shapes", min_agreement=0.99)
    [artifact] = export_bundle(bundle_copy, options).artifacts
    assert artifact.parity is not None
    assert artifact.parity.passed
    exported = load_predictor(bundle_copy, backend="ort", threads=1)
    got, expected = (of(predictor, image) for predictor in (exported, load_predictor(bundle_copy)))
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_it_is_exported_written_and_served(
    export_pixels: ExportPixels, tmp_path: Path, photo: Path, image: NDArray[np.uint8], serve_app: ServeApp
) -> None:
    path, eager = export_pixels(tmp_path, "mask+entropy")
    exported = OrtPredictor(path, threads=1)
    assert [output.name for output in exported.metadata.outputs] == ["mask", "entropy"]
    got, expected = (of(predictor, image) for predictor in (exported, eager))
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert len(np.unique(got)) > 20
    with pytest.raises(BundleError, match=r"returns mask, entropy, got a request for 'confidence'"):
        exported.predict_outputs(image, ("confidence",))

    result = CliRunner().invoke(app, ["predict", str(path), str(photo), "--output", "entropy", "--json"])
    assert result.exit_code == 0, result.output
    [record] = json.loads(result.stdout)["images"]
    assert record["entropy"] == "predictions/photo.entropy.png"
    with Image.open(record["entropy"]) as written:
        assert np.array_equal(np.asarray(written), got)

    running = serve_app({"tiny": exported})
    assert running.client.get("/models").json()[0]["outputs"] == ["mask", "entropy"]
    for format_, read in (("npy", np.load), ("png", lambda file: np.asarray(Image.open(file)))):
        answer = ask(running.client, photo, output="entropy", format=format_)
        assert answer.status_code == 200, answer.text
        assert np.array_equal(read(io.BytesIO(answer.content)), got)
    for wrong, words in (
        ({"output": "confidence"}, "expected mask or entropy"),
        ({"output": "entropy", "format": "json"}, "expected png or npy"),
    ):
        answer = ask(running.client, photo, **wrong)
        assert (answer.status_code, words in answer.json()["detail"]) == (400, True)
    remote = RemotePredictor(f"http://127.0.0.1:{running.port}")
    assert remote.available == ("mask", "entropy")
    assert np.array_equal(remote.predict_outputs(image, ("entropy", "mask")).outputs["entropy"], got)


def of(predictor: Predictor, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the entropy of an image."""
    return predictor.predict_outputs(image, ("entropy",)).outputs["entropy"]


def ask(client: httpx2.Client, path: Path, **parameters: str) -> httpx2.Response:
    return client.post("/predict", params=parameters, content=path.read_bytes())


def test_an_unknown_output_is_a_usage_error_that_lists_it(bundle_copy: Path, photo: Path) -> None:
    for words in (["export", str(bundle_copy)], ["predict", str(bundle_copy), str(photo)]):
        result = CliRunner().invoke(app, [*words, "--output", "mask+energy"])
        assert result.exit_code == 2
        assert "'energy', expected some of" in " ".join(result.stderr.split())
        assert "entropy" in result.stderr
    assert set(OUTPUTS) == {"mask", "logits", "confidence", "reliability", "entropy"}
