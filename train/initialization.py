"""Initialization of a run: weights of other runs and bundles, of files, or pretrained ones."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from zoo.bundle.bundle import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME
from zoo.bundle.manifest import sha256
from zoo.bundle.weights import load_bundle
from zoo.card.licenses import UNKNOWN, data_name, stated_license
from zoo.child import is_first
from zoo.errors import BundleError, RecipeError
from zoo.image_format import RGB
from zoo.models.classifier import ImageClassifier
from zoo.models.encoder import ENCODERS, Encoder, build_encoder, without_pretrained
from zoo.models.origin import Origin, origins_of
from zoo.models.pretrained import check_same, fitting_state, read_state
from zoo.models.segmentation import SegmentationNetwork, segmentation_networks
from zoo.train.runs.folder import RunFolder
from zoo.train.strip import holds_another_step, strip

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoo.preprocess import Preprocessing
    from zoo.train.method import Method
    from zoo.train.recipe.schema import Recipe


log = logging.getLogger(__name__)

State = dict[str, Tensor]


class StartModel(NamedTuple):
    """Segmentation network of another model, from which a run starts."""

    network: SegmentationNetwork
    names: tuple[str, ...]
    """Class names in label order."""
    preprocessing: Preprocessing
    origins: tuple[Origin, ...]
    """Origins of its weights: the model itself, then those that it started from."""


def read_start(recipe: Recipe) -> tuple[Recipe, tuple[StartModel, ...]]:
    """Return the recipe with absolute paths and the models' normalization, and the models it starts from.

    Each branch of an ensemble is one model.

    Raises:
        BundleError: a path of `start_from` is neither a run nor a bundle of a segmentation model.
        RecipeError: the models normalize images differently, or `encoder_weights` cannot be read.
    """
    if recipe.encoder_weights is not None:
        path = Path(recipe.encoder_weights).absolute()
        read_state(path)  # a file that cannot be read is refused before networks are built
        recipe = recipe.model_copy(update={"encoder_weights": str(path)})
    folders = [_bundle_at(Path(path).absolute()) for path in recipe.start_from]
    if not folders:
        return recipe, ()
    models = tuple(model for folder in folders for model in _models_of(folder))
    normalizations = {
        (model.preprocessing.mean, model.preprocessing.std, model.preprocessing.format) for model in models
    }
    if len(normalizations) > 1:
        listed = " and ".join(f"mean {mean}, std {std}" for mean, std, _ in sorted(normalizations, key=str))
        raise RecipeError(
            f"start_from: got models that normalize images by {listed}, expected the same: start from models "
            f"whose encoders started from the same weights"
        )
    [(mean, std, format_)] = normalizations
    given = {"mean": recipe.data.mean or mean, "std": recipe.data.std or std, "format": format_}
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
        recipe: recipe with the number of classes.
        models: models from `read_start`.
        names: class names of the data.

    Raises:
        RecipeError: the networks of the method do not fit the models, or weights cannot be loaded.
    """
    own = nullcontext() if not models and recipe.encoder_weights is None else without_pretrained()
    with own:
        method = recipe.new_method(pretrained=recipe.pretrained)
    if models:
        _load_models(method, recipe, models, names)
    if recipe.encoder_weights is not None:
        _load_file(method, recipe, Path(recipe.encoder_weights))
    started = [part for part in method.modules() if isinstance(part, Encoder | ImageClassifier)]
    for origin in dict.fromkeys(part.origin for part in started if part.origin is not None):
        if is_first():
            log.info("encoder weights: %s, license %s", origin.label, origin.license or UNKNOWN)
    networks = [part for part in method.modules() if isinstance(part, SegmentationNetwork | ImageClassifier)]
    encoders: list[Encoder | ImageClassifier] = [
        part.encoder if isinstance(part, SegmentationNetwork) else part for part in networks
    ]
    given = [origin for model in models for origin in model.origins]
    origins = dict.fromkeys(given or [part.origin for part in encoders if part.origin is not None])
    if recipe.freeze_encoder:
        _check_frozen(recipe, networks, tuple(origins))
    return method, tuple(origins)


def _check_frozen(recipe: Recipe, networks: list[Any], origins: tuple[Origin, ...]) -> None:
    """Raise if the method has no encoder to freeze; warn if the frozen weights are random.

    Raises:
        RecipeError: the method trains no segmentation network.
    """
    if not any(isinstance(network, SegmentationNetwork) for network in networks):
        raise RecipeError(
            f"freeze_encoder: {recipe.method.name} trains no segmentation network: leave --freeze-encoder out"
        )
    if not origins and is_first():
        log.warning("the encoder is frozen at random weights: start from others, or train it")


def _load_file(method: Method, recipe: Recipe, path: Path) -> None:
    """Load a file into the encoders of segmentation networks, and into classifiers except their heads.

    Raises:
        RecipeError: the file cannot be read, its tensors are not those of the encoder, or the images of a
            classifier do not have three channels.
    """
    origin = Origin(kind="file", name=path.name, path=str(path), sha256=sha256(path))
    if recipe.network.in_channels != RGB.channels and any(
        isinstance(part, ImageClassifier) for part in method.modules()
    ):
        raise RecipeError(
            f"encoder_weights: {recipe.method.name} loads a file for images of 3 channels only, got "
            f"{recipe.network.in_channels}: leave --encoder-weights out"
        )
    states: dict[tuple[str, int], State] = {}  # student and teacher have the same encoder
    for part in method.modules():
        if isinstance(part, SegmentationNetwork):
            key = part.config.encoder, part.config.output_stride
            states[key] = states.get(key) or _encoder_state(part, path)
            part.encoder.load_state_dict(states[key])
            part.encoder.origin = origin
        elif isinstance(part, ImageClassifier):
            part.body.load_state_dict(fitting_state(path, part.config.encoder), strict=False)
            part.origin = origin


def _encoder_state(network: SegmentationNetwork, path: Path) -> State:
    """Return the weights of a file as those of a network's encoder.

    Raises:
        RecipeError: the file cannot be read, or its tensors are not those of the encoder.
    """
    name = network.config.encoder
    if name in ENCODERS:
        state = read_state(path)
        check_same(f"encoder_weights: {path}", state, name, network.encoder.state_dict())
        return state
    state = fitting_state(path, name)
    config = network.config
    return build_encoder(
        name,
        output_stride=config.output_stride,
        size=config.encoder_size,
        pretrained=state,
        in_channels=config.in_channels,
    ).state_dict()


def _load_models(
    method: Method, recipe: Recipe, models: tuple[StartModel, ...], names: tuple[str, ...]
) -> None:
    """Load models into the segmentation networks of a method (`initialized_method`)."""
    networks = segmentation_networks(method)
    trained = [name for name, network in networks.items() if network.is_trained]
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


def _bundle_at(path: Path) -> Path:
    """Return the bundle at a path: that of a run, stripped if it has none of its last step, or the path."""
    run = RunFolder(path)
    if not run.is_run:
        if not (path / CONFIG_NAME).is_file():
            raise BundleError(
                f"start_from: {path} is neither a run nor a bundle: name the folder of a trained model"
            )
        return path
    is_there = (run.bundle / CONFIG_NAME).is_file()
    if is_there and not (run.bundle_is_older and holds_another_step(run)):
        return run.bundle
    return strip(path)


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
        for network in segmentation_networks(deployable).values()
    ]


def _check_count(recipe: Recipe, count: int, trained: list[str]) -> None:
    """Raise unless there is one model for all trained networks, or one for each.

    Raises:
        RecipeError: another number of models, or the method trains no segmentation network.
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
    """Load a model into a network and return the names of the tensors, or modules, that stay new.

    The encoder must be the same. Decoder tensors of the same name and shape are loaded. Tensors with an entry
    for each class are reordered by class name, and stay new if the class names differ.

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
    """Return the index of each wanted class among the given ones; None if the classes differ."""
    if sorted(given) != sorted(wanted) or len(set(wanted)) != len(wanted):
        return None
    return torch.tensor([given.index(name) for name in wanted])


def _by_class(network: SegmentationNetwork, given: State, order: Tensor | None) -> State:
    """Return the decoder tensors with an entry for each class, in the order of the network's classes.

    They are found by comparison with a decoder for one more class. If the classes differ, they are returned
    empty, so that no shape matches.

    Args:
        network: network with the wanted classes.
        given: tensors of another network with the same decoder.
        order: index of each wanted class among the given ones; None if the classes differ.
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
        RecipeError: the encoders differ.
    """
    wanted, found = network.config.encoder, model.network.config.encoder
    if wanted.partition(".")[0] != found.partition(".")[0]:
        raise RecipeError(
            f"start_from: {model.origins[0].path} has the encoder {found}, expected {wanted} of the recipe: "
            f"give --encoder {found}"
        )
    ours, theirs = (
        {name: tensor for name, tensor in each.items() if name.startswith("encoder.")}
        for each in (state, given)
    )
    check_same(f"start_from: {model.origins[0].path}", theirs, wanted, ours)


def _grouped(new: list[str], others: Iterable[str]) -> list[str]:
    """Return the names of tensors, replaced by the largest module whose tensors are all among them.

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
