"""Saving and loading of a bundle's networks; `zoo.bundle.bundle` has the parts that do not need PyTorch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from zoo.bundle.bundle import CARD_NAME, CONFIG_NAME, PREPROCESSOR_NAME, WEIGHTS_NAME, load_config, replacing
from zoo.errors import BundleError
from zoo.models.classifier import ImageClassifier
from zoo.models.config import ClassifierConfig
from zoo.models.deployable import Deployable, build_deployable

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from zoo.bundle.bundle import BundleConfig

Model = TypeVar("Model", bound="nn.Module")


def save_bundle(folder: Path, deployable: nn.Module, config: BundleConfig, card: str) -> None:
    """Write a bundle; on an error, the folder keeps its previous contents.

    Args:
        folder: folder of the bundle, created if it does not exist; the four files are replaced.
        deployable: network whose state dict is stored.
        config: contents of `config.json`.
        card: Markdown of the model card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = _state_of(deployable)
    with (
        replacing(folder / CONFIG_NAME) as config_path,
        replacing(folder / CARD_NAME) as card_path,
        replacing(folder / PREPROCESSOR_NAME) as preprocessor_path,
        replacing(folder / WEIGHTS_NAME) as weights_path,
    ):
        # part of the file, so that its hash, which artifacts store, covers the configuration too
        save_file(state, weights_path, {"deployable": config.deployable.model_dump_json()})
        weights_path.chmod(0o644)  # safetensors makes it readable only by its owner
        card_path.write_text(card, encoding="utf-8")
        preprocessor = json.dumps(config.preprocessing.as_transformers(), indent=2)
        preprocessor_path.write_text(preprocessor + "\n", encoding="utf-8")
        config_path.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict on the CPU; safetensors refuses memory that is shared, as by layers of CoaT."""
    state: dict[str, Tensor] = {}
    known: set[int] = set()
    for name, value in model.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        state[name] = tensor.clone() if memory in known else tensor
        known.add(memory)
    return state


def load_bundle(folder: Path) -> tuple[Deployable, BundleConfig]:
    """Return the segmentation model of a bundle, in evaluation mode on the CPU, and its configuration.

    Raises:
        BundleError: the folder is not a bundle, holds a classifier, or its weights do not fit its
            configuration.
    """
    config = load_config(folder)
    if isinstance(config.deployable, ClassifierConfig):
        raise BundleError(
            f"{folder} is a classifier ({config.method}), which predicts no masks, expected a "
            f"segmentation model: use it with zoo export MODEL --gate {folder}"
        )
    return _with_weights(build_deployable(config.deployable), folder), config


def load_classifier(folder: Path) -> tuple[ImageClassifier, BundleConfig]:
    """Return the classifier of a bundle, in evaluation mode on the CPU, and its configuration.

    Raises:
        BundleError: the folder is not a bundle, holds a segmentation model, or its weights do not fit.
    """
    config = load_config(folder)
    if not isinstance(config.deployable, ClassifierConfig):
        raise BundleError(
            f"{folder} is a segmentation model ({config.method}), expected a classifier: train one with "
            f"zoo train mlmt"
        )
    return _with_weights(ImageClassifier(config.deployable), folder), config


def _with_weights(model: Model, folder: Path) -> Model:
    """Load the weights of a bundle into a model and return it in evaluation mode."""
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise BundleError(
            f"{folder} has no {WEIGHTS_NAME}, expected the weights next to {CONFIG_NAME}: copy them"
        )
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(
            f"{path} does not fit {CONFIG_NAME} ({reason}): the bundle is damaged, get it again"
        ) from error
    return model.eval()
