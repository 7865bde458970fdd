"""Recipes: everything that decides what a run computes, as typed TOML.

A recipe file may build on another (`base = "eln.toml"`); `preset = "official"` adds the settings of the
authors' code, from the method and from the file's own `[official]` table. Order, later wins: base, file,
preset, `--set`.
"""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from zoo.catalog import recipe_names
from zoo.errors import RecipeError, without_library
from zoo.models.config import NetworkConfig
from zoo.preprocess import MIN_IMGSZ, Preprocessing, Resize
from zoo.train.augment import AugmentConfig
from zoo.train.compute import ComputeConfig
from zoo.train.registry import METHODS, AnyMethodConfig, setting_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

Tree = dict[str, Any]

NEAR = 5
"""Recipes that a misspelled name may have meant, at most."""


class DataConfig(BaseModel):
    """Which images, and how a batch is made of them.

    Args:
        spec: `shapes`, a folder or a `data.toml`.
        partition: `1/8`, a number of images, a list file, or None for all labels.
        tags: file of the classes of unlabeled images, for methods that learn them; see `zoo.data.tags`.
        imgsz: height and width of the training crop, `MIN_IMGSZ` or more.
        resize: see `zoo.preprocess.Preprocessing`.
        batch_l: labeled images of a batch and process.
        batch_u: unlabeled ones.
        workers: processes that prepare batches; 0 does it in the training process.
        cache: where decoded images are kept, for all workers: nowhere, in `memory` they share, or on `disk`,
            also for later runs. Batches are the same, bit by bit.
        cache_gb: what each training process may take of it, in 10^9 bytes; None for half of what is free.
        cache_dir: folder of the `disk` cache; None for `semiseg-zoo/pixels` in the user's cache folder.
        augment: weak and strong view.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str = ""
    partition: str | None = None
    tags: str | None = None
    imgsz: tuple[PositiveInt, PositiveInt] = (512, 512)
    resize: Resize = "fit"
    batch_l: int = Field(6, ge=1)
    batch_u: int = Field(6, ge=1)
    workers: int = Field(2, ge=0)
    cache: Literal["none", "memory", "disk"] = "none"
    cache_gb: float | None = Field(None, gt=0)
    cache_dir: str | None = None
    augment: AugmentConfig = AugmentConfig()

    @field_validator("imgsz")
    @classmethod
    def _check_size(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < MIN_IMGSZ:
            raise ValueError(f"expected {MIN_IMGSZ} or more pixels a side")
        return value

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how an image reaches the network outside training."""
        return Preprocessing(imgsz=self.imgsz, resize=self.resize)


class Recipe(BaseModel):
    """A complete recipe.

    Args:
        recipe: name of the file it came from.
        preset: `default`, or `official` for the authors' code.
        seed: of weights, partition, order and augmentation.
        steps: optimiser steps of the run.
        accumulate: batches of a step, one after the other; their losses are averaged. Each has BatchNorm
            statistics of its own.
        precision: `fp32`, or mixed `bf16` or `fp16`.
        pretrained: whether encoders start from their ImageNet weights.
        validate_every: steps between evaluations on `val`; 0 evaluates at the end only.
        checkpoint_every: steps between checkpoints.
        max_bad_steps: consecutive steps with a loss that is not finite, after which the run stops.
        select_on: `1/5` or a number of the labeled images, which are not trained on but evaluated instead:
            of the evaluated steps the one that is best on them is kept. None keeps the last step; `val`
            never selects.
        compute: how steps are computed; see `ComputeConfig`.
        data: see `DataConfig`.
        network: the segmentation network; `num_classes` comes from the data.
        method: the method's settings.
        reported: the paper's figure for this row, if it is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    preset: Literal["default", "official"] = "default"
    seed: int = Field(0, ge=0)
    steps: int = Field(ge=1)
    accumulate: int = Field(1, ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    pretrained: bool = True
    validate_every: int = Field(0, ge=0)
    checkpoint_every: int = Field(500, ge=1)
    max_bad_steps: int = Field(10, ge=1)
    select_on: str | None = None
    compute: ComputeConfig = ComputeConfig()
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    method: AnyMethodConfig
    reported: dict[str, str | float] | None = None

    @field_validator("select_on")
    @classmethod
    def _check_share(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9]\d*(/[1-9]\d*)?", value):
            raise ValueError("expected 1/5 or a number of the labeled images to hold out; val never selects")
        return value

    def for_classes(self, num_classes: int) -> Recipe:
        """Return the recipe with what follows from its data: the classes, the size of the training images."""
        update = {
            "network": self.network.model_copy(update={"num_classes": num_classes}),
            "method": self.method.at_size(self.data.imgsz),
        }
        return self.model_copy(update=update)

    def with_steps(self, steps: int) -> Recipe:
        """Return the recipe for a run of `steps`; phases and evaluations keep their share of it."""

        def share(value: int) -> int:
            return max(1, round(value * steps / self.steps)) if value else 0

        phases = {key: share(value) for key, value in self.method if key.endswith("_steps")}
        update = {
            "steps": steps,
            "validate_every": share(self.validate_every),
            "method": self.method.model_copy(update=phases),
        }
        return self.model_copy(update=update)


def load_recipe(
    name: str, settings: Iterable[str] = (), steps: int | None = None, changes: Tree | None = None
) -> Recipe:
    """Return a recipe.

    Args:
        name: of a recipe in the package (`eln_voc_1-8`), or path of a TOML file.
        settings: `key=value` with dotted keys, values as in TOML; text needs no quotes.
        changes: values by dotted key, applied before `settings`.
        steps: shortens or lengthens the run: its `..._steps` of the method change in proportion.

    Raises:
        RecipeError: no such recipe, unknown key, value out of range.
    """
    tree = _read(find_recipe(name))
    overrides = [*(changes or {}).items(), *(_parse_setting(text) for text in settings)]
    preset = dict(overrides).get("preset", tree.get("preset", "default"))
    official = tree.pop("official", {})
    if preset == "official":
        method = METHODS.get(tree.get("method", {}).get("name", ""))
        tree = _merge(_merge(tree, {"method": method.official if method else {}}), official)
    tree = {"recipe": Path(name).stem} | tree
    if steps is not None:
        tree = validate_recipe(tree).with_steps(steps).model_dump(mode="json")
    for key, value in overrides:
        tree = _merge(tree, _nested(key, value))
    return validate_recipe(tree)


def validate_recipe(tree: Tree) -> Recipe:
    """Return the recipe that a parsed file holds.

    Raises:
        RecipeError: unknown key, value out of range.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        method = tree.get("method")
        name = method.get("name") if isinstance(method, dict) else None
        raise RecipeError(f"recipe {tree['recipe']}: {_told(error.errors()[0], name)}") from error


def _told(error: ErrorDetails, method: object) -> str:
    """Return what is wrong with a setting of a recipe for `method`."""
    key = ".".join(str(part) for part in error["loc"] if part not in METHODS)
    if error["type"] == "missing":
        return f"{key}: this setting is required"
    if error["type"] != "extra_forbidden":
        return f"{key} is {error['input']!r}: {without_library(error['msg'])}"
    if key in setting_names(method):
        return (
            f"{key}: no such setting here, expected method.{key}: settings of a method stand under `method.`"
        )
    return f"{key}: no such setting; check its spelling"


def default_recipe(method: str, spec: str) -> str:
    """Return the name of the recipe that a method starts from on a source of images.

    Raises:
        RecipeError: no such method.
    """
    if method not in METHODS:
        raise RecipeError(f"method {method} is unknown, expected one of {', '.join(METHODS)}")
    return next(name for name in (f"{method}_{spec}", method) if name in recipe_names())


def find_recipe(name: str) -> Path:
    """Return the file of a recipe, by path or by name.

    Raises:
        RecipeError: neither a file nor a recipe of the package.
    """
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path
    if name in recipe_names():
        return Path(str(_folder() / f"{name}.toml"))
    near = get_close_matches(name, recipe_names(), NEAR)
    hint = f"; near it: {', '.join(near)}" if near else f" such as {', '.join(METHODS)}"
    raise RecipeError(
        f"recipe {name} not found, expected a .toml file or a recipe's name{hint}; zoo list shows those of "
        f"papers"
    )


def _folder() -> Any:
    return resources.files("zoo.train") / "recipes"


def _read(path: Path, above: tuple[Path, ...] = ()) -> Tree:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    base = tree.pop("base", None)
    if base is None:
        return tree
    below = path.parent / base if isinstance(base, str) else path
    if not below.is_file() or below in (path, *above):
        raise RecipeError(f"{path}: base is {base!r}, expected the name of another recipe file in its folder")
    return _merge(_read(below, (path, *above)), tree)


def _merge(below: Tree, above: Tree) -> Tree:
    """Return `below` with the values of `above`; tables are merged, everything else replaced."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merge(result[key], value) if both else value
    return result


def _nested(key: str, value: object) -> Tree:
    first, _, rest = key.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _parse_setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {text}: expected key=value, e.g. --set method.ema_decay=0.99")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()
