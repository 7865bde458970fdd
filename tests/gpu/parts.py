"""The parts of the measurements on a GPU, each a sequence of commands."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).resolve().parents[1]

NUM_CLASSES, IMAGE_SIZE, BLOCK = 21, (375, 500), 25
"""Classes and image size of PASCAL VOC."""
COUNTS = {"train": 64, "val": 4}
RECIPES = [
    "supervised",
    "eln_voc_1-8",
    "rrn_voc_1-8",
    "u2pl_voc_1323",
    "s4gan_voc_v3plus_1-8",
    "mlmt_voc_1-8",
    "unimatch_voc_183",
    "fixmatch_voc_183",
]
"""One of each method, at the size of its paper."""
VARIANTS = {"bf16": "--precision bf16", "fp32": "--precision fp32", "compile": "--precision bf16 --compile"}
LEARN = "--set method.optimizer.lr=1e-3 --set method.optimizer.encoder_lr_mult=1.0"
"""Rates at which a model from random weights predicts several classes after a few steps."""
V2 = "--set network.architecture=deeplabv2 --set network.output_stride=8 --set network.rates=[6,12,18,24]"
MODELS = {
    "deeplabv3plus-r50": f"supervised --encoder resnet50 {LEARN}",
    "deeplabv3plus-r101": f"supervised --encoder resnet101 {LEARN}",
    "deeplabv2-r101": f"supervised --encoder resnet101 {LEARN} {V2}",
    "ensemble-r50": f"rrn --encoder resnet50 {LEARN}",
}
SIZES = ("512,512", "1024,2048")
BACKENDS = "--batch 1,4,16 --backends compile,compile-amp,ort:fp32,ort:fp16,trt"
GATE = "--min-agreement 0.5 --max-drop 1"
"""Of an export: a model that hardly learned has many near ties. The latency tables show the agreement."""


class Command(NamedTuple):
    """A command of a part; what the last one prints are the part's figures."""

    text: str
    makes: Path | None = None
    """File that it writes last, into a folder of its own; if the file exists, the command is skipped."""
    is_optional: bool = False
    """Whether the part continues if it fails."""


class Part(NamedTuple):
    """A unit of measurement, whose commands share one time limit."""

    name: str
    commands: tuple[Command, ...]


class Settings(NamedTuple):
    """What is measured and where files go: results to `out`; images, models and logs to `work`."""

    device: str
    quick: bool
    compare: str | None
    out: Path
    work: Path


def plan(settings: Settings) -> list[Part]:
    """Return all parts in the order in which they are measured."""
    folder = os.path.relpath(TESTS)
    tests = f"pytest -q -rfE {f'{folder}/test_classes.py' if settings.quick else f'{folder} -m gpu'}"
    parts = [Part("tests", (Command(tests),)), *training_parts(settings), *latency_parts(settings)]
    if settings.compare is None:
        return parts
    name = f"compare-{hashlib.sha256(settings.compare.encode()).hexdigest()[:8]}"
    out = settings.out / name
    begun = (out / "compare.json").is_file()
    options = "--resume" if begun else f"{settings.compare} --device {settings.device}"
    return [*parts, Part(name, (Command(f"zoo compare {options} --out {out} --json"),))]


def training_parts(settings: Settings) -> Iterator[Part]:
    """Yield a part for each method and way to compute its steps."""
    recipes, variants, size = RECIPES, VARIANTS, ""
    if settings.quick:
        recipes, variants = ["supervised_shapes"], {"fp32": "--precision fp32"}
        size = "--imgsz 32,32 --batch 2"
    for variant, options in variants.items():
        for recipe in recipes:
            method = recipe.partition("_")[0]
            name = f"train-{method}-{variant}"
            text = f"zoo train {method} --recipe {recipe} {options} {size} {data_options(settings)} --profile"
            yield Part(name, (Command(f"{text} --out {settings.work / name} --json"),))


def latency_parts(settings: Settings) -> Iterator[Part]:
    """Yield a part for each model and image size."""
    models, sizes, backends, training = MODELS, SIZES, BACKENDS, "--imgsz 128,128 --batch 8 --steps 30"
    precisions, last_file = "fp32,fp16", "model.fp16.onnx"
    if settings.quick:
        models, sizes = {"deeplabv3plus-tiny": "supervised --recipe supervised_shapes"}, ("64,64",)
        training = "--imgsz 64,64 --batch 2 --steps 4"
        backends = "--batch 1,2 --backends ort:fp32 --quick"
        precisions, last_file = "fp32", "model.onnx"
    for model, options in models.items():
        run, bundle = settings.work / model, settings.work / f"{model}-exported"
        text = f"zoo train {options} {training} {data_options(settings)} --out {run} --json"
        train = Command(text, run / "metrics.json")
        text = f"zoo export {run} --onnx --precision {precisions} {GATE} --out {bundle} --json"
        export = Command(text, bundle / last_file)
        for size in sizes:
            name = f"infer-{model}-{size.replace(',', 'x')}"
            used, build = bundle, ()
            if settings.device == "cuda":
                used = bundle.with_name(f"{bundle.name}-{size.replace(',', 'x')}")
                text = (
                    f"zoo export {bundle} --onnx --precision {precisions} --imgsz {size} {GATE} --out {used}"
                )
                first = Command(f"{text} --json", used / last_file)
                text = f"zoo export {used} --trt --rebuild --batch 1,1,16 {GATE} --json"
                build = (first, Command(text, is_optional=True))
            text = f"zoo bench {used} --imgsz {size} {backends} --images 0 --device {settings.device}"
            bench = Command(f"{text} --report {settings.out / name} --json")
            yield Part(name, (train, export, *build, bench))


def data_options(settings: Settings) -> str:
    """Return the options of a training from random weights on the generated images."""
    return f"--data {settings.work / 'images'} --partition 1/8 --no-pretrained --device {settings.device}"


def write_images(folder: Path) -> None:
    """Write labeled images of blocks, each in the color of its class with noise, unless they exist."""
    if (folder / f"val/masks/{COUNTS['val'] - 1}.png").is_file():  # written last
        return
    random = np.random.default_rng(0)
    colors = random.integers(200, size=(NUM_CLASSES, 3))
    rows, columns = (side // BLOCK for side in IMAGE_SIZE)
    for split, count in COUNTS.items():
        for index in range(count):
            blocks = random.permutation(rows * columns).reshape(rows, columns) % NUM_CLASSES
            mask = blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
            image = colors[mask] + random.integers(56, size=(*mask.shape, 3))
            for file, pixels in (("images/{}.jpg", image), ("masks/{}.png", mask)):
                path = folder / split / file.format(index)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
