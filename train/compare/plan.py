"""The plan of a comparison: each warm start, control and method with its complete recipe.

Where a method's recipe differs from what all rows share (`zoo.train.compare.shared`), the comparison's value
is used. What was changed, and what still differs from labels only, is in the report.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.bundle.bundle import write_text
from zoo.errors import RecipeError
from zoo.models.segmentation import segmentation_networks
from zoo.train.compare.record import BASELINE, SECOND_START, START, Candidate
from zoo.train.compare.shared import OPTIMIZER, UNREMARKABLE, flat, head, is_below, start_recipe
from zoo.train.data.streams import check_streams
from zoo.train.method import labels_only_settings
from zoo.train.methods.table import METHODS
from zoo.train.optim import OptimizerConfig
from zoo.train.recipe.read import default_recipe, load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from zoo.data.partition import Partition
    from zoo.data.source import Source
    from zoo.train.compare.shared import Request, Shared
    from zoo.train.method import Method, MethodConfig
    from zoo.train.recipe.schema import Recipe

NAMES = (
    "encoder_weights",
    "recipe",
    "preset",
    "method.name",
    "reported",
    "seed",
    "score",
    "also_score",
    "start_from",
)
"""Own settings whose difference is none of training."""


class Control(NamedTuple):
    """A row that learns from labels alone, beside a method.

    Args:
        name: name of the row.
        method: method that is trained.
        beside: method that it is a control of.
        settings: settings that make it one.
        shows: description of the row and of the effect that it separates.
    """

    name: str
    method: str
    beside: str
    settings: tuple[str, ...] = ()
    shows: str = ""


CONTROLS = (
    Control(
        "supervised-strong",
        BASELINE,
        BASELINE,
        ("data.labeled_view=strong",),
        "labels only with color jitter and CutMix among labeled images, the effect of augmentation alone",
    ),
    Control(
        "supervised-ensemble",
        "rrn",
        "rrn",
        ("method.lambda_cps=0", "method.self_training=none"),
        "two networks trained on labels only and averaged, the effect of RRN's ensemble alone",
    ),
)
"""What a method must exceed for its unlabeled images to be the reason: the same augmentation on labeled
images, and as many networks."""


class Entrant(NamedTuple):
    """A candidate with its complete recipe."""

    recipe: Recipe
    candidate: Candidate


def find_entrants(
    names: tuple[str, ...], request: Request, shared: Shared, source: Source, partition: Partition
) -> list[Entrant]:
    """Return the warm starts, then the methods `names` and their controls, each with its complete recipe.

    Raises:
        RecipeError: a setting is wrong, or a method lacks images of a kind.
    """
    for text in request.settings:
        if head(text) in METHODS and head(text) not in names:
            raise RecipeError(
                f"--set {text}: {head(text)} is not compared, expected one of {', '.join(names)}"
            )
    chosen = [Control(name, name, name) for name in names]
    if request.controls:
        added = [control for control in CONTROLS if control.beside in names]
        place = names.index(BASELINE) + 1 if BASELINE in names else 0
        chosen[place:place] = added
    entrants = [_entrant(each, request, shared, source, partition) for each in chosen]
    if not shared.warm_steps:
        return entrants
    recipe = start_recipe(request, shared)
    whole = recipe.for_classes(len(source.classes))
    method = whole.new_method()
    plain = Candidate(
        name=START,
        method=BASELINE,
        role="start",
        recipe=recipe.recipe,
        phases={phase.name: phase.steps for phase in method.phases(recipe.steps)},
        overridden={},
        **_networks(method, recipe),
    )
    needed = max(len(entrant.candidate.starts) for entrant in entrants)
    starts = [plain.model_copy(update={"name": name}) for name in (START, SECOND_START)[:needed]]
    return [*(Entrant(recipe, each) for each in starts), *entrants]


def _entrant(
    chosen: Control, request: Request, shared: Shared, source: Source, partition: Partition
) -> Entrant:
    name = chosen.method
    base, steps = default_recipe(name, request.spec), shared.reference.steps
    settings = [*_settings_of(name, request), *chosen.settings]
    load = partial(load_recipe, base, settings, steps, after_labels=bool(shared.warm_steps))
    common = shared.settings_of(name)
    alone, recipe = load(request.wanted), load({**request.wanted, **common, "reported": None})
    whole = recipe.for_classes(len(source.classes))
    method = whole.new_method()
    if shared.warm_steps:  # which brings the weights of the encoder
        recipe = recipe.model_copy(update={"encoder_weights": None})
    is_method = chosen.name == name
    if is_method and request.controls:
        scored = recipe.score or method.default_weights
        others = tuple(weights for weights in method.weights if weights != scored)
        recipe = recipe.model_copy(update={"also_score": others})
    try:
        phases = method.phases(recipe.steps)
        check_streams(recipe, partition, phases)
    except RecipeError as error:
        raise RecipeError(f"{chosen.name}: {error}") from error
    unlabeled = any(phase.unlabeled for phase in phases)
    unremarkable = UNREMARKABLE if unlabeled else (*UNREMARKABLE, "data.batch_u")
    wanted, used = (flat(each.model_dump(mode="json")) for each in (alone, recipe))
    changed = {key: (wanted.get(key), used.get(key)) for key in common if key not in unremarkable}
    if shared.warm_steps:
        in_full = load_recipe(base, (), steps + shared.warm_steps).method
        changed |= {
            f"method.{key}": (n, used[f"method.{key}"]) for key, n in labels_only_settings(in_full).items()
        }
    networks = sum(network.is_trained for network in segmentation_networks(method).values())
    candidate = Candidate(
        name=chosen.name,
        method=name,
        role="method" if is_method else "control",
        recipe=base,
        phases={phase.name: phase.steps for phase in phases},
        overridden={key: pair for key, pair in changed.items() if pair[0] != pair[1]},
        own=_own_settings(recipe, shared) | (_other_optimizers(recipe.method) if is_method else {}),
        starts=(START, SECOND_START)[:networks] if shared.warm_steps else (),
        **_networks(method, recipe),
    )
    return Entrant(recipe, candidate)


def _networks(method: Method, recipe: Recipe) -> dict[str, Any]:
    """Return the scored networks of a method, the main one first, and sizes, as fields of `Candidate`."""
    names = (recipe.score or method.default_weights, *recipe.also_score)
    kept = {name: _count(method.deployable(name)) for name in names}
    return {"networks": names, "kept": kept, "trained": _count(method)}


def _own_settings(recipe: Recipe, shared: Shared) -> dict[str, tuple[Any, Any]]:
    """Return the settings that labels only has too, and in which a recipe differs: [labels only, used]."""
    reference, used = (flat(each.model_dump(mode="json")) for each in (shared.reference, recipe))
    common = [key for key in used if key in reference and not is_below(key, NAMES)]
    return {key: (reference[key], used[key]) for key in common if reference[key] != used[key]}


def _other_optimizers(config: MethodConfig) -> dict[str, tuple[None, str]]:
    """Return the optimizers of the networks that a method has beside: [nothing, in words]."""
    values = {name: getattr(config, name) for name in type(config).model_fields}
    return {
        f"method.{name}": (None, f"{value.name}, lr {value.lr:g}, {value.schedule}")
        for name, value in values.items()
        if isinstance(value, OptimizerConfig) and f"method.{name}" != OPTIMIZER
    }


def _settings_of(name: str, request: Request) -> list[str]:
    """Return the settings that concern a method; `NAME.key` stands for its `method.key`."""
    return [
        f"method.{text.partition('.')[2]}" if head(text) == name else text
        for text in request.settings
        if head(text) == name or head(text) not in METHODS
    ]


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe with all its values as TOML, a dotted key a line."""
    values = {k: v for k, v in flat(recipe.model_dump(mode="json")).items() if v is not None}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"# {path.stem} in a comparison: {recipe.recipe}, with the settings that all rows share."
    write_text(path, "\n".join([title, *lines]) + "\n")
    if load_recipe(str(path)) != recipe:
        raise RecipeError(f"{path} does not give back its recipe: leave --set preset=official out")


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
