"""A method from outside the package, written as CONTRIBUTING.md says, by entry points alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

METHOD = '''
import copy
from typing import Literal

from zoo.models.decoders.decoder import resize_logits
from zoo.models.deployable import Student
from zoo.models.segmentation import SegmentationNetwork
from zoo.train.blocks.losses import cross_entropy
from zoo.train.method import Method, MethodConfig, Steps
from zoo.train.methods.table import MethodRow
from zoo.train.optim import OptimizerConfig


class ToyConfig(MethodConfig):
    name: Literal["toy"] = "toy"
    warm_up: Steps = 10
    optimizer: OptimizerConfig = OptimizerConfig()


class Toy(Method):
    """Entropy minimization on the unlabeled images, after a warm-up."""

    def __init__(self, config, network, *, pretrained):
        super().__init__()
        self.config = config
        self.student = SegmentationNetwork(network, pretrained=pretrained)

    def forward(self, batch, progress):
        image_u, valid_u = batch.weak
        logits = resize_logits(self.student(batch.image_l).logits, batch.label_l.shape[-2:])
        losses = {"sup": cross_entropy(logits, batch.label_l)}
        if progress.step >= self.config.warm_up:
            prob = resize_logits(self.student(image_u).logits, image_u.shape[-2:]).softmax(dim=1)
            entropy = -(prob * (prob + 1e-8).log()).sum(dim=1)
            losses["entropy"] = 0.01 * (entropy * valid_u).sum() / valid_u.sum().clamp(min=1)
        return losses

    def optimizers(self):
        return [self.config.optimizer.build([(self.student, 1.0)])]

    def deployable(self, weights=None):
        return Student(copy.deepcopy(self.student))


ROW = MethodRow(Toy, ToyConfig, "Toy", "nobody, nowhere")
'''
RECIPE = """
steps = 20
[data]
spec = "shapes"
partition = "1/16"
imgsz = [64, 64]
batch_l = 2
batch_u = 2
workers = 0
[network]
encoder = "test_resnet"
[network.decoder]
decoder_channels = 16
[method]
name = "toy"
"""
REPORTED = 'base = "toy.toml"\n[data]\npartition = "1/8"\n[reported]\nmiou = 61.0\n'
POINTS = "[zoo.methods]\ntoy = toy_package.method:ROW\n[zoo.recipes]\ntoy = toy_package\n"


@pytest.fixture
def zoo(tmp_path: Path) -> Any:
    """Return a function that runs `zoo --json` beside an installed package with the method."""
    package, info = tmp_path / "site/toy_package", tmp_path / "site/toy-1.0.dist-info"
    for folder in (package, info):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "method.py").write_text(METHOD)
    (package / "toy.toml").write_text(RECIPE)
    (package / "toy_voc_1-8.toml").write_text(REPORTED)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    paths = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    def run(*words: object) -> Any:
        command = [sys.executable, "-m", "zoo", *map(str, words), "--json"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.slow
def test_a_method_of_another_package_is_trained_stripped_exported_timed_and_used(
    zoo: Any, tmp_path: Path
) -> None:
    metrics = zoo(
        "train",
        "toy",
        "--no-pretrained",
        "--steps",
        4,
        "--device",
        "cpu",
        "--out",
        "run",
        "--no-export-check",
    )
    assert metrics["bad_steps"] == 0
    log = (tmp_path / "run/log.csv").read_text()
    assert "loss/entropy" in log  # the warm-up of 10 of 20 steps became 2 of 4
    (artifact,) = zoo("export", "run", "--onnx", "--precision", "fp32")["artifacts"]
    assert artifact["parity"] is not None  # a file that misses its tolerance fails the command
    rows = zoo("bench", "run", "--backends", "eager,ort", "--quick", "--images", 0)["rows"]
    assert {"eager", "ort"} <= {row["backend"] for row in rows}
    found = zoo("predict", "run", "shapes", "--out", "masks")
    assert found["predicted"] > 0


def test_what_a_paper_reports_of_it_is_a_row_of_the_catalog(zoo: Any) -> None:
    listed = zoo("list", "--method", "toy")
    assert "toy-voc-1/8-test_resnet" in json.dumps(listed)
