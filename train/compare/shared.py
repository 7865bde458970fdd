"""What all rows of a comparison share, whichever method they train: settings, and a warm start.

What makes a comparison fair is taken from one recipe, that of labels only: data, batch, crop, weak view,
network, optimizer, schedule, steps and precision. A method keeps what is its own: its settings under `method`
but the segmentation network's optimizer, its embedding head, its view of labeled images, and the strength of
its strong view.

All rows of a seed continue one warm start, a run on labels alone, for the same number of steps with a new
optimizer. Phases of a method that learn from labels alone are left out then, and its other phases keep their
shares of the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.catalog import recipe_names
from zoo.errors import RecipeError
from zoo.train.compare.record import BASELINE
from zoo.train.method import labels_only_settings
from zoo.train.methods.table import METHODS
from zoo.train.recipe.read import default_recipe, load_recipe

if TYPE_CHECKING:
    from zoo.train.recipe.read import Tree
    from zoo.train.recipe.schema import Recipe

OWN = (
    "recipe",
    "preset",
    "seed",
    "method",
    "score",
    "also_score",
    "reported",
    "start_from",
    "network.embedding_channels",
    "network.decoder.separate_embedding",
    "data.labeled_view",
    "data.augment.jitter",
    "data.augment.jitter_probability",
    "data.augment.grayscale",
    "data.augment.blur",
    "data.augment.blur_sigma",
)
"""Settings that each method takes from its own recipe; a key stands for those below it."""
OPTIMIZER = "method.optimizer"
"""Settings of the segmentation network's optimizer, which are shared; all methods call it so."""
OWN_RECIPES = (*OWN, OPTIMIZER, "network", "data.batch_l", "data.batch_u", "accumulate")
"""The same where methods keep their recipes."""

PARTITION_KEY = "data.partition"
UNREMARKABLE = (
    "encoder_weights",
    "steps",
    "validate_every",
    "checkpoint_every",
    "max_bad_steps",
    "data.workers",
)
"""Shared settings whose difference from a method's recipe decides nothing."""
REFUSED = {
    "select_on": "figures of a comparison are of the last step: leave it out",
    "seed": "every row runs with the same seeds, give them by --seeds",
    "steps": "it would not change the phases of methods, give --steps",
    "also_score": "--controls scores all networks of a method: leave it out",
    "start_from": "rows start from the warm starts of the comparison, see --warm-steps",
}
"""Settings that cannot be given, and why."""


class Request(NamedTuple):
    """What the user asks for.

    Args:
        methods: names, None for all that leave a segmentation model.
        spec: spec of the data.
        seeds: seeds, at least one.
        settings: `key=value` for all methods; `METHOD.key=value` is `method.key` of that one.
        steps: steps of every row, warm start included; None for the recipe's.
        changes: values by dotted key, for all methods.
        device: `cpu`, `cuda` or None for a GPU if there is one.
        warm_steps: steps of the warm starts; 0 for none, None for the default.
        own_recipes: whether each method keeps optimizer, batch and network of its recipe.
        controls: whether rows that learn from labels alone and all networks of a method are added.
        until_clear: number of seeds up to which more are added until every method is clear; None adds none.
    """

    methods: tuple[str, ...] | None
    spec: str
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()
    steps: int | None = None
    changes: dict[str, Any] = {}  # noqa: RUF012 - never changed
    device: str | None = None
    warm_steps: int | None = None
    own_recipes: bool = False
    controls: bool = True
    until_clear: int | None = None

    @property
    def wanted(self) -> Tree:
        """Return the values that every recipe gets before its settings, by dotted key."""
        return {"data.spec": self.spec, **self.changes}


class Shared(NamedTuple):
    """What all rows share.

    Args:
        reference: recipe of labels only.
        settings: settings in which all rows agree, by dotted key.
        warm_steps: steps of the warm starts; 0: none.
    """

    reference: Recipe
    settings: Tree
    warm_steps: int

    def settings_of(self, method: str) -> Tree:
        """Return the settings that a method has: one of a plugin may name its optimizer otherwise."""
        if OPTIMIZER.partition(".")[2] in METHODS[method].config.model_fields:
            return self.settings
        return {key: value for key, value in self.settings.items() if not is_below(key, (OPTIMIZER,))}


def shared_plan(request: Request) -> Shared:
    """Return what all rows of a comparison share.

    Raises:
        RecipeError: a setting is wrong, or no step is left after the warm start.
    """
    for text in request.settings:
        why = REFUSED.get(head(text))
        if why is not None:
            raise RecipeError(f"--set {text}: {why}")
    steps = request.steps or load_recipe(default_recipe(BASELINE, request.spec)).steps
    warm_steps = _warm_steps(request, steps)
    if warm_steps >= steps:
        raise RecipeError(
            f"the warm start has {warm_steps} steps, expected less than the {steps} of a whole row: give "
            f"fewer --warm-steps, or more --steps"
        )
    reference = reference_recipe(request, steps - warm_steps)
    if reference.data.partition_seed is not None:
        raise RecipeError(
            f"--set data.partition_seed={reference.data.partition_seed}: each seed of a comparison draws its "
            f"own labeled images: leave it out, or name them with --partition FILE"
        )
    return Shared(reference, shared_settings(reference, own_recipes=request.own_recipes), warm_steps)


def _warm_steps(request: Request, steps: int) -> int:
    """Return the steps of the warm starts of rows of so many steps.

    By default it is the longest share that labels alone have in the recipe of any method for these data,
    compared or not: as long as ELN pretrains, with the recipes of this package.
    """
    if request.own_recipes:
        if request.warm_steps:
            raise RecipeError(
                f"--own-recipes with --warm-steps {request.warm_steps}: networks of different recipes cannot "
                f"continue one warm start, expected one of both: leave one out"
            )
        return 0
    if request.warm_steps is not None:
        return request.warm_steps
    shares = [0.0]
    for name, row in METHODS.items():
        if row.segments and name in recipe_names():  # a plugin may have no recipe for these data
            recipe = load_recipe(default_recipe(name, request.spec))
            shares.append(sum(labels_only_settings(recipe.method).values()) / recipe.steps)
    return round(max(shares) * steps)


def reference_recipe(request: Request, steps: int) -> Recipe:
    """Return the recipe of labels only, with what the user wants for all methods.

    As many unlabeled images make a batch as labeled ones, unless the user wants another number.
    """
    settings = [
        text for text in request.settings if head(text) not in METHODS and not _is_of_other_methods(text)
    ]
    base = default_recipe(BASELINE, request.spec)
    recipe = load_recipe(base, settings, steps, request.wanted)
    return load_recipe(base, settings, steps, {"data.batch_u": recipe.data.batch_l, **request.wanted})


def start_recipe(request: Request, shared: Shared) -> Recipe:
    """Return the recipe of the warm starts: labels only, evaluated at its end."""
    recipe = reference_recipe(request, shared.warm_steps)
    return recipe.model_copy(update={"validate_every": 0, "reported": None})


def with_partition(request: Request, spec: str) -> Request:
    """Return the request for a partition: all methods have the same, also where `auto` differs by method."""
    settings = tuple(text for text in request.settings if text.partition("=")[0].strip() != PARTITION_KEY)
    return request._replace(settings=settings, changes={**request.changes, PARTITION_KEY: spec})


def shared_settings(reference: Recipe, *, own_recipes: bool = False) -> Tree:
    """Return the settings in which all rows agree, by dotted key."""
    own = OWN_RECIPES if own_recipes else OWN
    values = flat(reference.model_dump(mode="json"))
    return {
        key: value
        for key, value in values.items()
        if not is_below(key, own) or (not own_recipes and is_below(key, (OPTIMIZER,)))
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
    names = tuple(dict.fromkeys(request.methods or (BASELINE, *segmenting)))
    if request.until_clear is not None and BASELINE not in names:
        raise RecipeError(
            f"--until-clear needs {BASELINE}, which differences are taken to, got {', '.join(names)}: add it"
        )
    return names


def _is_of_other_methods(setting: str) -> bool:
    """Return whether a setting under `method` is none of labels only, which has an optimizer alone."""
    key = setting.partition("=")[0].strip()
    return is_below(key, ("method",)) and not is_below(key, (OPTIMIZER,))


def is_below(key: str, tops: tuple[str, ...]) -> bool:
    """Return whether a dotted key is one of some, or below it."""
    return any(key == top or key.startswith(f"{top}.") for top in tops)


def head(setting: str) -> str:
    """Return what stands before the first dot of the key of `key=value`."""
    return setting.partition("=")[0].partition(".")[0].strip()


def flat(tree: Tree, prefix: str = "") -> Tree:
    """Return the values of nested tables by dotted key."""
    found: Tree = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
