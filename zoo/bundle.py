"""The bundle: a stripped model in a folder, the unit that is exported, benchmarked, pushed and served.

Its files:

    config.json          what the model is: networks, classes, preprocessing, recipe, provenance, metrics
    model.safetensors    its weights
    README.md            the model card
    preprocessor_config.json    size and range of its input, as transformers writes them
    after export also    model.onnx, model.fp16.onnx, manifest.json, engines/
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from zoo.classes import Classes, Color
from zoo.errors import BundleError
from zoo.models.classifier import ClassifierConfig, ImageClassifier
from zoo.models.deployable import Deployable, DeployableConfig, build_deployable
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
PREPROCESSOR_NAME = "preprocessor_config.json"
MODEL_FILES = (WEIGHTS_NAME, CARD_NAME, PREPROCESSOR_NAME, CONFIG_NAME)
"""Of a bundle before anything is exported."""

Model = TypeVar("Model", bound="nn.Module")


class BundleConfig(BaseModel):
    """The contents of `config.json`.

    Args:
        deployable: which networks, and how they work together; or the classifier that it is instead.
        method: the method that trained it.
        weights: which of the method's networks was kept (`student`, `teacher`, `fused`, ...).
        names: class names in label order.
        palette: RGB colours in label order.
        preprocessing: see `zoo.preprocess`.
        recipe: the resolved recipe of the run.
        provenance: versions, steps, partition id, what was stripped.
        metrics: measured figures with split and protocol.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    deployable: Annotated[DeployableConfig | ClassifierConfig, Field(discriminator="kind")]
    method: str
    weights: str = "student"
    names: tuple[str, ...]
    palette: tuple[Color, ...]
    preprocessing: Preprocessing
    recipe: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    metrics: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check_lengths(self) -> BundleConfig:
        counts = self.deployable.num_classes
        for num_classes in (counts,) if isinstance(counts, int) else counts:
            if not len(self.names) == len(self.palette) == num_classes:
                raise ValueError(
                    f"{len(self.names)} names and {len(self.palette)} palette colours for a network of "
                    f"{num_classes} classes"
                )
        return self

    @property
    def classes(self) -> Classes:
        """Return names and palette as one value."""
        return Classes(self.names, self.palette)

    @property
    def data_spec(self) -> str | None:
        """Return the spec of the data it was trained on, None if the recipe names none."""
        spec: str | None = self.recipe.get("data", {}).get("spec")
        return spec


def save_bundle(folder: Path, deployable: nn.Module, config: BundleConfig, card: str) -> None:
    """Write a bundle; the folder appears complete or keeps its former contents.

    Args:
        folder: created if missing; the four files are replaced.
        deployable: whose state dict is stored.
        config: of `config.json`.
        card: Markdown of the model card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in deployable.state_dict().items()}
    with (
        replacing(folder / CONFIG_NAME) as config_path,
        replacing(folder / CARD_NAME) as card_path,
        replacing(folder / PREPROCESSOR_NAME) as preprocessor_path,
        replacing(folder / WEIGHTS_NAME) as weights_path,
    ):
        # part of the file, so that its hash, which artifacts carry, also tells a changed weight or gate
        save_file(state, weights_path, {"deployable": config.deployable.model_dump_json()})
        weights_path.chmod(0o644)  # safetensors makes it readable for its owner alone
        card_path.write_text(card, encoding="utf-8")
        preprocessor = json.dumps(config.preprocessing.as_transformers(), indent=2)
        preprocessor_path.write_text(preprocessor + "\n", encoding="utf-8")
        config_path.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_config(folder: Path) -> BundleConfig:
    """Return the configuration of a bundle.

    Raises:
        BundleError: no bundle there, or not one of this version.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise BundleError(f"{folder} holds no {CONFIG_NAME}, expected a bundle: give a run or bundle folder")
    try:
        return BundleConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise BundleError(
            f"{path}: {where}: {first['msg']}: export the bundle again with this version"
        ) from error


def find_bundle(path: Path) -> Path | None:
    """Return the bundle that `path` is, or that the artifact at `path` lies in, also under `engines/`."""
    folders = (path,) if path.is_dir() else (path.parent, path.parent.parent)
    return next((folder for folder in folders if (folder / CONFIG_NAME).is_file()), None)


def load_bundle(folder: Path) -> tuple[Deployable, BundleConfig]:
    """Return the segmentation model of a bundle, in evaluation mode on the CPU, and its configuration.

    Raises:
        BundleError: no bundle there, one of a classifier, or weights that do not fit its configuration.
    """
    config = load_config(folder)
    if isinstance(config.deployable, ClassifierConfig):
        raise BundleError(
            f"{folder} is a classifier ({config.method}), which tells classes and not masks, expected a "
            f"segmentation model: use it with zoo export MODEL --gate {folder}"
        )
    return _with_weights(build_deployable(config.deployable), folder), config


def load_classifier(folder: Path) -> tuple[ImageClassifier, BundleConfig]:
    """Return the classifier of a bundle, in evaluation mode on the CPU, and its configuration.

    Raises:
        BundleError: no bundle there, one of a segmentation model, or weights that do not fit.
    """
    config = load_config(folder)
    if not isinstance(config.deployable, ClassifierConfig):
        raise BundleError(
            f"{folder} is a segmentation model ({config.method}), expected a classifier: train one with "
            f"zoo train mlmt"
        )
    return _with_weights(ImageClassifier(config.deployable), folder), config


def _with_weights(model: Model, folder: Path) -> Model:
    """Give a model the weights of a bundle and return it in evaluation mode."""
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise BundleError(
            f"{folder} holds no {WEIGHTS_NAME}, expected the weights beside {CONFIG_NAME}: copy them"
        )
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(
            f"{path} does not fit {CONFIG_NAME} ({reason}): the bundle is broken, get it again"
        ) from error
    return model.eval()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, moved to `path` when the block ends well and removed otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file at once or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
