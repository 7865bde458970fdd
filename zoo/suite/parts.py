"""What the suite consists of: parts, each measured in a process of its own within minutes."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = Literal["machine", "tests", "train", "infer", "compare"]

METHODS = ("supervised", "eln", "rrn", "u2pl", "s4gan")
ENCODERS = ("resnet50", "resnet101")
RECIPES = {
    "supervised": "supervised",
    "eln": "eln_voc_1-8",
    "rrn": "rrn_voc_1-8",
    "u2pl": "u2pl_voc_1323",
    "s4gan": "s4gan_voc_v3plus_1-8",
}
"""Of each method at the size of its paper, on VOC 1/8."""

MODELS = ("deeplabv3plus-r50", "deeplabv3plus-r101", "deeplabv2-r101", "ensemble", "gated")
SIZES = ((512, 512), (1024, 2048))
BATCHES = (1, 4, 16)

QUICK_MODELS = ("deeplabv3plus-tiny", "deeplabv2-tiny", "ensemble-tiny", "gated-tiny")
QUICK_SIZES = ((64, 64),)
QUICK_BATCHES = (1, 2)

COMPARE_PARTITIONS = ("1/8", "1/16")
COMPARE_STEPS = 4000
COMPARE_IMGSZ = (360, 480)
QUICK_METHODS = ("supervised", "u2pl")

SOURCES: dict[Kind, tuple[str, ...]] = {
    "machine": ("suite/peaks.py", "serve/bench/machine.py", "serve/bench/gpu.py"),
    "tests": ("",),
    "train": ("train", "models", "suite/training.py"),
    "infer": (
        *("serve", "export", "predictors", "models", "preprocess.py"),
        *("suite/inference.py", "suite/models.py", "suite/work.py"),
    ),
    "compare": (
        *("train", "models", "data", "predictors", "preprocess.py", "evaluate.py", "metrics.py"),
        "suite/comparing.py",
    ),
}
"""Files and folders of the package that decide a kind's figures: one that changes makes them outdated."""


class Settings(BaseModel):
    """What the suite is asked for.

    Args:
        device: `cpu` or `cuda`.
        quick: smallest sizes and few runs, to see that all of it works.
        data: spec of the images that methods are compared on; None leaves the comparison out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["cpu", "cuda"]
    quick: bool = False
    data: str | None = None


class Part(NamedTuple):
    """A unit of measurement.

    Args:
        name: of its file and its process.
        kind: what is measured.
        options: everything that decides what, ready for JSON.
    """

    name: str
    kind: Kind
    options: dict[str, Any]


def plan(settings: Settings) -> tuple[Part, ...]:
    """Return the parts in the order in which they are measured."""
    return (
        Part("machine", "machine", {"quick": settings.quick}),
        *_training(settings),
        *_inference(settings),
        Part("tests", "tests", _tests(settings)),
        *_comparisons(settings),
    )


def choose(parts: Iterable[Part], patterns: Iterable[str] | None) -> tuple[Part, ...]:
    """Return the parts that a pattern such as `train-*` names, all of them without patterns.

    Raises:
        ZooError: a pattern names none.
    """
    parts = tuple(parts)
    if patterns is None:
        return parts
    patterns = tuple(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(part.name, pattern) for part in parts):
            names = ", ".join(part.name for part in parts)
            raise ZooError(f"--parts {pattern} names no part, expected some of {names}; 'train-*' names many")
    return tuple(part for part in parts if any(fnmatchcase(part.name, each) for each in patterns))


def _training(settings: Settings) -> list[Part]:
    if settings.quick:
        return [_training_part(method, f"{method}_shapes", "test_resnet", quick=True) for method in METHODS]
    return [
        _training_part(method, RECIPES[method], encoder, quick=False)
        for method in METHODS
        for encoder in ENCODERS
    ]


def _training_part(method: str, recipe: str, encoder: str, *, quick: bool) -> Part:
    options = {"method": method, "recipe": recipe, "encoder": encoder, "quick": quick}
    return Part(f"train-{method}-{encoder}", "train", options)


def _inference(settings: Settings) -> list[Part]:
    models = QUICK_MODELS if settings.quick else MODELS
    sizes = QUICK_SIZES if settings.quick else SIZES
    batches = QUICK_BATCHES if settings.quick else BATCHES
    return [
        Part(
            f"infer-{model}-{height}x{width}",
            "infer",
            {"model": model, "imgsz": [height, width], "batches": [*batches], "quick": settings.quick},
        )
        for model in models
        for height, width in sizes
    ]


def _tests(settings: Settings) -> dict[str, Any]:
    if settings.quick:  # one file, to see that the part works
        return {"select": "not slow and not gpu", "files": ["tests/test_classes.py"]}
    return {"select": "gpu", "files": ["tests"]}


def _comparisons(settings: Settings) -> list[Part]:
    if settings.data is None:
        return []
    if settings.quick:
        quick = {"data": settings.data, "methods": list(QUICK_METHODS), "partition": "2", "quick": True}
        return [Part("compare-2", "compare", quick)]
    common: dict[str, Any] = {"data": settings.data, "methods": list(METHODS), "quick": False}
    common |= {"steps": COMPARE_STEPS, "imgsz": list(COMPARE_IMGSZ), "encoder": "resnet50"}
    return [
        Part(f"compare-{partition.replace('/', '-')}", "compare", {**common, "partition": partition})
        for partition in COMPARE_PARTITIONS
    ]
