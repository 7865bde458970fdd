"""The weights that a run starts from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from zoo.bundle.bundle import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME
from zoo.bundle.manifest import sha256
from zoo.bundle.weights import load_bundle
from zoo.card.licenses import data_name, stated_license
from zoo.child import is_first
from zoo.errors import BundleError, RecipeError
from zoo.models.encoder import pretrained_origin
from zoo.models.origin import Origin, origins_of
from zoo.models.segmentation import SegmentationNetwork, without_pretrained_encoders
from zoo.train.methods.table import build_method
from zoo.train.runs.folder import RunFolder
from zoo.train.strip import strip

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoo.preprocess import Preprocessing
    from zoo.train.method import Method
    from zoo.train.recipe.schema import Recipe


log = logging.getLogger(__name__)

SHOWN = 3
"""Tensors in a message, at most."""

State = dict[str, Tensor]


class StartModel(NamedTuple):
    """A segmentation network that a run starts from."""

    network: SegmentationNetwork
    names: tuple[str, ...]
    """Of its classes, in label order."""
    preprocessing: Preprocessing
    origins: tuple[Origin, ...]
    """The model, then the weights that itself started from."""


def read_start(recipe: Recipe) -> tuple[Recipe, tuple[StartModel, ...]]:
    """Return the recipe with absolute paths and the normalization of these models, and their networks.

    An ensemble gives each of its branches.

    Raises:
        BundleError: a path of `start_from` is neither a run nor a bundle of a segmentation model.
        RecipeError: the models normalize images differently.
    """
    folders = [_bundle_at(Path(path).absolute()) for path in recipe.start_from]
    if not folders:
        return recipe, ()
    models = tuple(model for folder in folders for model in _models_of(folder))
    normalizations = {(model.preprocessing.mean, model.preprocessing.std) for model in models}
    if len(normalizations) > 1:
        listed = " and ".join(f"mean {mean}, std {std}" for mean, std in sorted(normalizations))
        raise RecipeError(
            f"start_from: got models that normalize images by {listed}, expected the same: start from models "
            f"whose encoders started from the same weights"
        )
    [(mean, std)] = normalizations
    given = {"mean": recipe.data.mean or mean, "std": recipe.data.std or std}
    if (given["mean"], given["std"]) != (mean, std):
        log.warning("data.mean and data.std differ from those of %s: %s, %s", folders[0], mean, std)
    update = {
        "start_from": tuple(str(folder) for folder in folders),
        "data": recipe.data.model_copy(update=given),
    }
    return recipe.model_copy(update=update), models


def initialized_method(
    recipe: Recipe, models: tuple[StartModel, ...], names: tuple[str, ...]
) -> tuple[Method, tuple[Origin, ...]]:
    """Return the method of a recipe with the weights that a run starts from, and their origins.

    Args:
        recipe: with the number of classes.
        models: that `start_from` names; see `read_start`.
        names: of the classes of the data.

    Raises:
        RecipeError: the networks of the method do not fit the models, or weights cannot be loaded.
    """
    if not models:
        method = build_method(recipe.method, recipe.network, pretrained=recipe.pretrained)
        return method, (pretrained_origin(recipe.network.encoder),) if recipe.pretrained else ()
    with without_pretrained_encoders():
        method = build_method(recipe.method, recipe.network, pretrained=recipe.pretrained)
    networks = {name: part for name, part in method.named_modules() if isinstance(part, SegmentationNetwork)}
    trained = [name for name, part in networks.items() if any(p.requires_grad for p in part.parameters())]
    averaged = [name for name in networks if name not in trained]
    _check_count(recipe, len(models), trained)
    for number, name in (*enumerate(trained), *enumerate(averaged)):
        model = models[number % len(models)]
        new = _load(networks[name], model, names)
        if is_first():
            also = f"; new: {', '.join(new)}" if new else ""
            log.info("%s starts from %s, %s%s", name, model.origins[0].label, model.origins[0].path, also)
    if len(models) < len(trained) and is_first():
        log.warning(
            "%s start from the same weights: give --from a second model, of another seed, for each to find "
            "its own errors", " and ".join(trained),
        )  # fmt: skip
    return method, tuple(dict.fromkeys(origin for model in models for origin in model.origins))


def _bundle_at(path: Path) -> Path:
    """Return the bundle of a run, stripped now if there is none, or the bundle that the path is."""
    run = RunFolder(path)
    if not run.is_run:
        if not (path / CONFIG_NAME).is_file():
            raise BundleError(
                f"start_from: {path} is neither a run nor a bundle: name the folder of a trained model"
            )
        return path
    return run.bundle if (run.bundle / CONFIG_NAME).is_file() else strip(path)


def _models_of(folder: Path) -> list[StartModel]:
    """Return each segmentation network of a bundle."""
    deployable, config = load_bundle(folder)
    origin = Origin(
        kind="model",
        name=f"{config.method} on {data_name(config.data_spec)}",
        license=stated_license(folder / CARD_NAME).get("license"),
        path=str(folder),
        sha256=sha256(folder / WEIGHTS_NAME),
    )
    earlier = origins_of(config.recipe, config.provenance) or ()
    return [
        StartModel(network, config.names, config.preprocessing, (origin, *earlier))
        for network in deployable.modules()
        if isinstance(network, SegmentationNetwork)
    ]


def _check_count(recipe: Recipe, count: int, trained: list[str]) -> None:
    """Raise unless there is one model for all networks that are trained, or one for each.

    Raises:
        RecipeError: so.
    """
    method = recipe.method.name
    if not trained:
        raise RecipeError(f"start_from: {method} trains no segmentation network: leave --from out")
    if count not in (1, len(trained)):
        expected = "1" if len(trained) == 1 else f"1 or {len(trained)}"
        raise RecipeError(
            f"start_from: got {count} networks ({', '.join(recipe.start_from)}), expected {expected}: "
            f"{method} trains {', '.join(trained)}; zoo export MODEL --branch makes a bundle of one branch"
        )


def _load(network: SegmentationNetwork, model: StartModel, names: tuple[str, ...]) -> list[str]:
    """Give a network the weights of a model; return the names of tensors, or modules, that stay new.

    The encoder must be the same. Of the decoder, tensors of the same name and shape are loaded; those with an
    entry for each class follow the names of the classes, and stay new where the names differ.

    Raises:
        RecipeError: the encoders differ.
    """
    given, state = model.network.state_dict(), network.state_dict()
    _check_encoder(network, model, given, state)
    if network.config.decoder.name != model.network.config.decoder.name:
        given = {name: tensor for name, tensor in given.items() if name.startswith("encoder.")}
    elif model.names != names:
        given |= _by_class(network, given, _order(model.names, names))
    loaded = {
        name: given[name]
        for name, tensor in state.items()
        if name in given and given[name].shape == tensor.shape
    }
    network.load_state_dict(state | loaded)
    return _grouped([name for name in state if name not in loaded], loaded)


def _order(given: tuple[str, ...], wanted: tuple[str, ...]) -> Tensor | None:
    """Return where each wanted class is among those given; None unless they are the same classes."""
    if sorted(given) != sorted(wanted) or len(set(wanted)) != len(wanted):
        return None
    return torch.tensor([given.index(name) for name in wanted])


def _by_class(network: SegmentationNetwork, given: State, order: Tensor | None) -> State:
    """Return the decoder's tensors that have an entry for each class, in the order of the classes.

    They are found by a decoder of one class more. Those of other classes are empty, so that they fit nowhere.

    Args:
        network: whose classes are wanted.
        given: tensors of another network of the same decoder.
        order: where each wanted class is among those given; None if these are other classes.
    """
    count = network.config.num_classes
    larger = network.new_decoder(num_classes=count + 1).state_dict()
    found: State = {}
    for name, tensor in network.decoder.state_dict().items():
        sizes = zip(tensor.shape, larger[name].shape, strict=True)
        dims = [dim for dim, (size, size_of_more) in enumerate(sizes) if size != size_of_more]
        if not dims or f"decoder.{name}" not in given:
            continue
        value = given[f"decoder.{name}"]
        if order is None or any(value.shape[dim] != count for dim in dims):
            found[f"decoder.{name}"] = value.new_empty(0)
            continue
        for dim in dims:
            value = value.index_select(dim, order)
        found[f"decoder.{name}"] = value
    return found


def _check_encoder(network: SegmentationNetwork, model: StartModel, given: State, state: State) -> None:
    """Raise unless both encoders have the same tensors.

    Raises:
        RecipeError: so.
    """
    ours, theirs = (
        {name: tuple(tensor.shape) for name, tensor in each.items() if name.startswith("encoder.")}
        for each in (state, given)
    )
    wanted, found = network.config.encoder, model.network.config.encoder
    if wanted.partition(".")[0] != found.partition(".")[0]:
        raise RecipeError(
            f"start_from: {model.origins[0].path} has the encoder {found}, expected {wanted} of the recipe: "
            f"give --encoder {found}"
        )
    if ours != theirs:
        differing = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
        listed = ", ".join(f"{name} {theirs.get(name)} for {ours.get(name)}" for name in differing[:SHOWN])
        raise RecipeError(
            f"start_from: the encoder {found} of {model.origins[0].path} differs in {len(differing)} tensors "
            f"({listed}), expected the same network: give its settings under network"
        )


def _grouped(new: list[str], others: Iterable[str]) -> list[str]:
    """Return tensors by name, or by that of the largest module of which all tensors are among them.

    Example:
        >>> _grouped(["a.b.weight", "a.b.bias", "a.c.bias"], ["a.c.weight"])
        ['a.b', 'a.c.bias']
    """
    others = tuple(others)
    found: dict[str, None] = {}
    for name in new:
        parts = name.split(".")
        modules = (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        found[next(each for each in modules if not any(o.startswith(f"{each}.") for o in others))] = None
    return list(found)
