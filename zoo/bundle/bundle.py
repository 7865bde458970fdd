"""Bundle: a stripped model in a folder, the unit that is exported, benchmarked, pushed and served.

Its files:

    config.json          networks, classes, preprocessing, recipe, provenance, metrics
    model.safetensors    weights
    README.md            model card
    preprocessor_config.json    size and range of the input, in the format of transformers
    after export also    model.onnx, model.fp16.onnx, manifest.json, engines/
"""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from zoo.bundle.reliability import Reliability
from zoo.classes import Classes, Color
from zoo.errors import BundleError, ZooError
from zoo.frozen import Frozen, first_fault
from zoo.models.config import ClassifierConfig, DeployableConfig
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zoo.bundle.reliability import Calibration

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
PREPROCESSOR_NAME = "preprocessor_config.json"
MODEL_FILES = (WEIGHTS_NAME, CARD_NAME, PREPROCESSOR_NAME, CONFIG_NAME)
"""Files of a bundle before export."""


class BundleConfig(Frozen):
    """Contents of `config.json`.

    Args:
        deployable: configuration of the networks and their combination, or of a classifier.
        method: method that trained the model.
        weights: network of the method that was kept (`student`, `teacher`, `fused`, ...).
        names: class names in label order.
        palette: RGB colors in label order.
        preprocessing: resizing and normalization of images.
        recipe: resolved recipe of the run.
        provenance: versions, steps, partition id, and the stripped parts.
        metrics: measured metrics with split and protocol.
        reliability: calibration by `zoo calibrate`; None before it.
    """

    format: Literal[2] = 2
    deployable: Annotated[DeployableConfig | ClassifierConfig, Field(discriminator="kind")]
    method: str
    weights: str = "student"
    names: tuple[str, ...]
    palette: tuple[Color, ...]
    preprocessing: Preprocessing
    recipe: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    reliability: Reliability | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_format_1(cls, value: object) -> object:
        """Return contents of version 0.1 in the current format; `NetworkConfig` converts their networks."""
        return {**value, "format": 2} if isinstance(value, dict) and value.get("format", 1) == 1 else value

    @model_validator(mode="after")
    def _check_lengths(self) -> BundleConfig:
        counts = self.deployable.num_classes
        for num_classes in (counts,) if isinstance(counts, int) else counts:
            if not len(self.names) == len(self.palette) == num_classes:
                raise ValueError(
                    f"{len(self.names)} names and {len(self.palette)} palette colors for a network of "
                    f"{num_classes} classes"
                )
        return self

    @property
    def classes(self) -> Classes:
        """Return the classes: names and palette."""
        return Classes(self.names, self.palette)

    @property
    def calibration(self) -> Calibration | None:
        """Return the calibration of the output `reliability`; None before `zoo calibrate`."""
        return None if self.reliability is None else self.reliability.chosen

    @property
    def data_spec(self) -> str | None:
        """Return the spec of the training data; None if the recipe names none."""
        spec: str | None = self.recipe.get("data", {}).get("spec")
        return spec


def load_config(folder: Path) -> BundleConfig:
    """Return the configuration of a bundle.

    Raises:
        BundleError: the folder is not a bundle of this version.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise BundleError(f"{folder} has no {CONFIG_NAME}, expected a bundle: choose a run or bundle folder")
    try:
        return BundleConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BundleError(
            f"{path}: {first_fault(error)}: export the bundle again with this version"
        ) from error


def update_config(folder: Path, **changes: object) -> BundleConfig:
    """Replace values in the `config.json` of a bundle atomically and return the new configuration.

    Raises:
        BundleError: the folder is not a bundle of this version.
    """
    config = load_config(folder).model_copy(update=changes)
    write_text(folder / CONFIG_NAME, config.model_dump_json(indent=2) + "\n")
    return config


def find_bundle(path: Path) -> Path | None:
    """Return the bundle at `path`, or the one that contains the artifact at `path`; None without one."""
    folders = (path,) if path.is_dir() else (path.parent, path.parent.parent)
    return next((folder for folder in folders if (folder / CONFIG_NAME).is_file()), None)


def check_writable(folder: Path) -> None:
    """Raise unless files can be written to a folder, which need not exist; no file is left.

    Raises:
        ZooError: the folder cannot be written.
    """
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        TemporaryFile(dir=there).close()
    except OSError as error:
        raise ZooError(
            f"{folder} cannot be written ({error.strerror}), expected a folder: choose another"
        ) from error


def temporary_name(path: Path) -> Path:
    """Return the temporary path beside `path` to which this process writes."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in a folder whose process was killed."""
    for path in folder.glob(".*.tmp"):
        match = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if match and not _is_running(int(match[1])):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name != "posix":  # where `os.kill` ends the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is moved to `path` if the block succeeds, and removed otherwise."""
    temporary = temporary_name(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")
