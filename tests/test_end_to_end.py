"""The main job as a user does it, command by command, on real street scenes and on the built-in shapes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"

pytestmark = pytest.mark.slow


def zoo(folder: Path, *arguments: str) -> Any:
    """Run `zoo ... --json` in a folder and return what it prints."""
    command = [sys.executable, "-m", "zoo", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def check_the_way_of_a_model(
    folder: Path, train: list[str], images: list[str], size: tuple[int, int]
) -> None:
    """Train, export, benchmark, evaluate and predict; check what each leaves."""
    metrics = zoo(folder, "train", "eln", "--out", "run", *train)
    assert 0 < metrics["val"]["miou"] < 1
    assert set(metrics["step_ms"]) == {"pretrain", "localize", "semi"}
    for name in ("recipe.json", "log.csv", "last.ckpt", "metrics.json", "curves.png", "preview.png"):
        assert (folder / "run" / name).is_file(), name

    trt = ["--trt", "--sm", "86"] if has_builder() else []
    # a hardly trained model has so many near ties that fp16 may miss its gate
    zoo(folder, "export", "run", "--onnx", *trt, "--min-agreement", "0.99")
    bundle = folder / "run" / "bundle"
    assert {"model.onnx", "model.fp16.onnx", "manifest.json"} <= {file.name for file in bundle.iterdir()}
    assert not trt or list((bundle / "engines").glob("*.engine"))

    zoo(folder, "bench", "run", "--quick", "--backends", "eager,ort", "--batch", "1", "--imgsz", "96,128")
    scored = zoo(folder, "evaluate", str(bundle / "model.onnx"))
    assert scored["miou"] == pytest.approx(metrics["val"]["miou"], abs=1e-3)

    zoo(folder, "predict", "run", *images, "--overlay", "--limit", "2", "--out", "predictions")
    masks = [file for file in (folder / "predictions").rglob("*.png") if ".overlay" not in file.name]
    assert len(masks) == 2
    for file in masks:
        mask = np.asarray(Image.open(file))
        assert mask.shape == size
        assert mask.max() < len(metrics["val"]["iou"])


def has_builder() -> bool:
    """Return whether TensorRT-RTX, which builds without a GPU, is installed."""
    try:
        import tensorrt_rtx  # noqa: F401
    except ImportError:
        return False
    return True


def test_the_main_job_works_on_the_built_in_shapes(tmp_path: Path) -> None:
    check_the_way_of_a_model(tmp_path, ["--steps", "12"], ["shapes"], (96, 96))


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not beside the checkout")
def test_the_main_job_works_on_camvid(tmp_path: Path) -> None:
    for split, step in (("train", 8), ("val", 16)):
        for path in sorted((CAMVID / split / "images").iterdir())[::step]:
            for file in (path, CAMVID / split / "masks" / f"{path.stem}.png"):
                target = tmp_path / "camvid" / file.relative_to(CAMVID)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
    data = str(tmp_path / "camvid")
    train = ["--data", data, "--partition", "1/8", "--encoder", "resnet18", "--no-pretrained"]
    train += ["--imgsz", "96,128", "--steps", "9", "--batch", "2"]
    images = sorted(str(path) for path in (CAMVID / "val" / "images").iterdir())[:2]
    check_the_way_of_a_model(tmp_path, train, images, (360, 480))


def test_forty_steps_on_thirty_masks_already_find_the_shapes(tmp_path: Path) -> None:
    metrics = zoo(tmp_path, "train", "supervised", "--steps", "40")
    assert metrics["val"]["miou"] > 0.2  # background alone gives 0.13
