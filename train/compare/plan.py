"""The plan of a comparison: which settings all methods share, and each method's complete recipe.

What makes a comparison fair is taken from one recipe, that of labels only: data, batch, crop, weak view,
network, steps and precision. A method keeps what is its own: all settings under `method`, its dropout and
embedding head, and the strength of its strong view. Where its recipe differs in more than that, the
comparison's value is used and the difference stands in the report.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.bundle.bundle import replacing
from zoo.errors import RecipeError
from zoo.train.compare.record import BASELINE, Candidate
from zoo.train.data.streams import check_streams
from zoo.train.methods.table import METHODS, build_method
from zoo.train.recipe.read import default_recipe, load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from zoo.data.partition import Partition
    from zoo.data.source import Source
    from zoo.train.recipe.read import Tree
    from zoo.train.recipe.schema import Recipe

OWN = (
    "recipe",
    "preset",
    "seed",
    "method",
    "score",
    "reported",
    "network.decoder.dropout",
    "network.decoder.channel_dropout",
    "network.embedding_channels",
    "network.decoder.separate_embedding",
    "data.augment.jitter",
    "data.augment.jitter_probability",
    "data.augment.grayscale",
    "data.augment.blur",
    "data.augment.blur_sigma",
)
"""Settings that each method takes from its own recipe; a key stands for those below it."""

PARTITION_KEY = "data.partition"
UNREMARKABLE = ("steps", "validate_every", "checkpoint_every", "max_bad_steps", "data.workers")
"""Shared settings whose difference from a method's recipe decides nothing."""


class Request(NamedTuple):
    """What the user asks for.

    Args:
        methods: names, None for all that leave a segmentation model.
        spec: of the data.
        seeds: at least one.
        settings: `key=value` for all methods; `METHOD.key=value` is `method.key` of that one.
        steps: length of every run, None for the recipe's.
        changes: values by dotted key, for all methods.
        device: `cpu`, `cuda` or None for a GPU if there is one.
    """

    methods: tuple[str, ...] | None
    spec: str
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()
    steps: int | None = None
    changes: dict[str, Any] = {}  # noqa: RUF012 - never changed
    device: str | None = None

    @property
    def wanted(self) -> Tree:
        """Return the values that every recipe gets before its settings, by dotted key."""
        return {"data.spec": self.spec, **self.changes}


class Entrant(NamedTuple):
    """A method with its complete recipe."""

    recipe: Recipe
    candidate: Candidate


def reference_recipe(request: Request) -> Recipe:
    """Return the recipe of labels only, with what the user wants for all methods.

    As many unlabeled images make a batch as labeled ones, unless the user wants another number.
    """
    special = (*METHODS, "method")
    settings = [text for text in request.settings if _head(text) not in special]
    base = default_recipe(BASELINE, request.spec)
    recipe = load_recipe(base, settings, request.steps, request.wanted)
    return load_recipe(base, settings, request.steps, {"data.batch_u": recipe.data.batch_l, **request.wanted})


def with_partition(request: Request, spec: str) -> Request:
    """Return the request for a partition: all methods have the same, also where `auto` differs by method."""
    settings = tuple(text for text in request.settings if text.partition("=")[0].strip() != PARTITION_KEY)
    return request._replace(settings=settings, changes={**request.changes, PARTITION_KEY: spec})


def shared_settings(reference: Recipe) -> Tree:
    """Return the settings in which all methods agree, by dotted key."""
    return {
        key: value
        for key, value in _flat(reference.model_dump(mode="json")).items()
        if not any(key == own or key.startswith(f"{own}.") for own in OWN)
    }


def compared_methods(request: Request) -> tuple[str, ...]:
    """Return the names of the methods that are compared, labels only first unless the user names some.

    Raises:
        RecipeError: one is unknown, or leaves no segmentation model.
    """
    segmenting = [name for name, entry in METHODS.items() if entry.segments]
    for name in request.methods or ():
        if name not in METHODS:
            raise RecipeError(f"method {name} is unknown, expected one of {', '.join(segmenting)}")
        if name not in segmenting:
            raise RecipeError(f"method {name} leaves no segmentation model, so it has no mIoU: leave it out")
    return tuple(dict.fromkeys(request.methods or (BASELINE, *segmenting)))


def find_entrants(
    names: tuple[str, ...], request: Request, shared: Tree, source: Source, partition: Partition
) -> list[Entrant]:
    """Return the methods `names`, each with its complete recipe.

    Raises:
        RecipeError: a setting is wrong, or a method lacks images of a kind.
    """
    for text in request.settings:
        if _head(text) == "select_on":
            raise RecipeError(f"--set {text}: figures of a comparison are of the last step: leave it out")
        if _head(text) == "seed":
            raise RecipeError(f"--set {text}: every method runs with the same seeds, give them by --seeds")
        if _head(text) in METHODS and _head(text) not in names:
            raise RecipeError(
                f"--set {text}: {_head(text)} is not compared, expected one of {', '.join(names)}"
            )
    return [_entrant(name, request, shared, source, partition) for name in names]


def _entrant(name: str, request: Request, shared: Tree, source: Source, partition: Partition) -> Entrant:
    base, settings, steps = default_recipe(name, request.spec), _settings_of(name, request), shared["steps"]
    alone = load_recipe(base, settings, steps, request.wanted)
    recipe = load_recipe(base, settings, steps, {**shared, "reported": None})
    whole = recipe.for_classes(len(source.classes))
    method = build_method(whole.method, whole.network, pretrained=False)
    try:
        phases = method.phases(recipe.steps)
        check_streams(recipe, partition, phases)
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from error
    wanted, used = (_flat(each.model_dump(mode="json")) for each in (alone, recipe))
    unremarkable = (
        UNREMARKABLE if any(phase.unlabeled for phase in phases) else (*UNREMARKABLE, "data.batch_u")
    )
    candidate = Candidate(
        method=name,
        recipe=base,
        phases={phase.name: phase.steps for phase in phases},
        kept=_count(method.deployable(recipe.score)),
        trained=_count(method),
        overridden={
            key: (wanted.get(key), used[key])
            for key in shared
            if key not in unremarkable and wanted.get(key) != used[key]
        },
    )
    return Entrant(recipe, candidate)


def _settings_of(name: str, request: Request) -> list[str]:
    """Return the settings that concern a method; `NAME.key` stands for its `method.key`."""
    return [
        f"method.{text.partition('.')[2]}" if _head(text) == name else text
        for text in request.settings
        if _head(text) == name or _head(text) not in METHODS
    ]


def _head(setting: str) -> str:
    return setting.partition("=")[0].partition(".")[0].strip()


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe with all its values as TOML, a dotted key a line."""
    values = {k: v for k, v in _flat(recipe.model_dump(mode="json")).items() if v is not None}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    title = (
        f"# {recipe.method.name} in a comparison: {recipe.recipe}, with the settings that all methods share."
    )
    with replacing(path) as temporary:
        temporary.write_text("\n".join([title, *lines]) + "\n", encoding="utf-8")
    if load_recipe(str(path)) != recipe:
        raise RecipeError(f"{path} does not give back its recipe: leave --set preset=official out")


def _flat(tree: Tree, prefix: str = "") -> Tree:
    """Return the values of nested tables by dotted key."""
    flat: Tree = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
