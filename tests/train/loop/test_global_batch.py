"""Two processes take the steps of one with the same global batch: images, CutMix boxes, statistics.

In four steps: differences of rounding grow tenfold in a few steps, until a pseudo-label at a tie differs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from typer.testing import CliRunner

from zoo.cli import app
from zoo.train.loop.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 150

RECIPE = """
steps = 4
pretrained = false
checkpoint_every = 4

[data]
spec = "FOLDER"
partition = "4"
imgsz = [32, 32]
resize = "stretch"
workers = 0
augment = { scale = [1, 1] }

[network]
encoder = "test_resnet"
output_stride = 8
decoder_channels = 16
low_level_channels = 8
rates = [1, 2]
dropout = { aspp = 0.0, fuse_1 = 0.0, fuse_2 = 0.0 }

[method]
name = "rrn"
self_training = "none"  # feature matching compares the means of batches, which are not those of their parts
"""


def options(recipe: Path, out: Path, *more: str) -> list[str]:
    return [
        "train",
        "rrn",
        "--recipe",
        str(recipe),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--no-export-check",
        *more,
    ]


@pytest.mark.slow
def test_two_processes_mix_and_learn_what_one_does(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace("FOLDER", tiny_folder.as_posix()))
    words = options(recipe, tmp_path / "together", "--batch", "2", "--devices", "2", "--wandb", "trials")
    command = [sys.executable, "-m", "zoo", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        alone = CliRunner().invoke(app, options(recipe, tmp_path / "alone", "--batch", "4"))
        assert alone.exit_code == 0, alone.output
        _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, error
    one, two = (load_checkpoint(tmp_path / name / "last.ckpt")["method"] for name in ("alone", "together"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert len(list((tmp_path / "together/wandb").glob("offline-run-*"))) == 1  # the first process tells W&B
