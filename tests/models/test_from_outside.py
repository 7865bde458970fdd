"""An encoder and a decoder from outside the package, written as CONTRIBUTING.md says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from zoo.bundle.bundle import load_config
from zoo.bundle.weights import load_bundle
from zoo.cli import app
from zoo.models.config import DECODERS, DecoderConfig, DecoderEntry, NetworkConfig
from zoo.models.decoders.decoder import Decoder, Output, resize_logits
from zoo.models.encoder import ENCODERS, Encoder
from zoo.models.segmentation import SegmentationNetwork
from zoo.predictors.load import load_predictor

if TYPE_CHECKING:
    from pathlib import Path


class ToyEncoder(Encoder):
    """Blocks of pixels as channels, at strides 4 and 8; images must be multiples of 8."""

    channels = (8, 16)
    strides = (4, 8)
    size_multiple = 8
    mean = (0.25, 0.5, 0.75)
    std = (0.5, 0.25, 0.5)

    def __init__(self, name: str, *, in_channels: int = 3, **_: Any) -> None:
        super().__init__(name)
        self.fine = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(16 * in_channels, 8, 1), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.coarse = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(32, 16, 3, padding=1), nn.ReLU())

    def encode(self, images: Tensor) -> list[Tensor]:
        fine = self.fine(images)
        return [fine, self.coarse(fine)]


class ToyConfig(DecoderConfig):
    name: Literal["toy"] = "toy"
    levels: int = 2


class ToyDecoder(Decoder):
    """A linear classifier on each of the last features, summed at the finest of them."""

    def __init__(
        self, encoder: Encoder, config: ToyConfig, *, num_classes: int, embedding_channels: int = 0
    ) -> None:
        super().__init__(encoder, config, num_classes=num_classes)
        self.heads = nn.ModuleList(
            nn.Conv2d(width, num_classes, 1) for width in encoder.channels[-config.levels :]
        )
        if embedding_channels:
            self.embed = nn.Conv2d(encoder.channels[-1], embedding_channels, 1)

    def forward(self, features: list[Tensor]) -> Output:
        features = features[-len(self.heads) :]
        size = features[0].shape[-2:]
        maps = [resize_logits(head(each), size) for head, each in zip(self.heads, features, strict=True)]
        embedding = None if self.embed is None else resize_logits(self.embed(features[-1]), size)
        return Output(torch.stack(maps).sum(dim=0), embedding)


@pytest.fixture(autouse=True)
def _added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "toy_encoder", ToyEncoder)
    monkeypatch.setitem(DECODERS, "toy", DecoderEntry(ToyConfig, f"{__name__}:ToyDecoder"))


def zoo(*arguments: object) -> dict[str, Any]:
    """Return what a command says in JSON."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_its_settings_are_checked_and_kept() -> None:
    config = NetworkConfig(encoder="toy_encoder", decoder={"name": "toy", "levels": 1})
    assert NetworkConfig.model_validate_json(config.model_dump_json()) == config
    assert config.decoder == ToyConfig(levels=1)
    with pytest.raises(ValidationError, match=r"decoder\.rates\n.*Extra inputs"):
        NetworkConfig(encoder="toy_encoder", decoder={"name": "toy", "rates": [1]})


def test_it_takes_images_of_any_size_and_gives_logits_of_the_image_alone() -> None:
    network = SegmentationNetwork(
        NetworkConfig(encoder="toy_encoder", num_classes=5, decoder={"name": "toy"}, embedding_channels=3)
    ).eval()
    images = torch.randn(2, 3, 33, 46)
    output = network(images)
    assert output.logits.shape == (2, 5, 9, 12)
    assert output.embedding.shape == (2, 3, 9, 12)
    fine, coarse = network.encoder.encode(F.pad(images, (0, 2, 0, 7)))
    expected = network.decoder([fine[:, :, :9, :12], coarse[:, :, :5, :6]])
    assert torch.equal(output.logits, expected.logits)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["eln", "u2pl", "rrn", "s4gan", "unimatch"])
def test_every_method_trains_it(method: str, tmp_path: Path) -> None:
    small = {
        "eln": ("method.filter.encoder=toy_encoder", "method.pretrain_steps=0", "method.localize_steps=1"),
        "u2pl": ("method.warm_start_steps=1", "method.contrast.embedding_channels=8"),
        "rrn": ("method.cross_steps=1", "method.discriminator.width=8"),
        "s4gan": ("method.discriminator.width=8",),
        "unimatch": (),
    }[method]
    metrics = train(tmp_path, method, *small)
    assert metrics["bad_steps"] == 0


def train(folder: Path, method: str, *settings: str) -> dict[str, Any]:
    settings = ("data.workers=0", "network.decoder.name=toy", *settings)
    return zoo(
        *("train", method, "--data", "shapes", "--partition", "1/16", "--encoder", "toy_encoder"),
        *("--no-pretrained", "--imgsz", "36,44", "--batch", 2, "--steps", 2, "--device", "cpu"),
        *("--out", folder / "run", *(f"--set={each}" for each in settings)),
    )


@pytest.mark.slow
def test_it_is_trained_stripped_exported_timed_and_used(tmp_path: Path) -> None:
    train(tmp_path, "supervised")
    bundle = tmp_path / "run" / "bundle"
    config = load_config(bundle)
    assert config.deployable.network.decoder == ToyConfig(decoder_channels=48)  # of the recipe
    assert (config.preprocessing.mean, config.preprocessing.std) == (ToyEncoder.mean, ToyEncoder.std)
    assert isinstance(load_bundle(bundle)[0].network.decoder, ToyDecoder)

    (artifact,) = zoo("export", bundle, "--onnx", "--precision", "fp32")["artifacts"]
    assert all(each["agreement"] > 0.999 for each in artifact["parity"]["differences"])
    rows = zoo("bench", bundle, "--backends", "eager,ort", "--imgsz", "36,44", "--quick")["rows"]
    assert {"eager", "ort"} <= {row["backend"] for row in rows}
    assert all(row["agreement"] > 0.999 for row in rows if row["backend"] in ("eager", "ort"))

    image = np.random.default_rng(0).integers(256, size=(53, 35, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    zoo("predict", bundle, tmp_path / "image.png", "--out", tmp_path / "masks")
    mask = np.asarray(Image.open(tmp_path / "masks" / "image.png"))
    assert np.array_equal(mask, load_predictor(bundle).predict(image))
    assert (mask == load_predictor(bundle / "model.onnx").predict(image)).mean() > 0.999
