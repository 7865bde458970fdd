"""Reading of recipes: TOML files, with bases, presets and `--set`.

A recipe file may extend another (`base = "eln.toml"`); `preset = "official"` adds the settings of the
authors' code, from the method and from the file's own `[official]` table. Later settings override earlier
ones, in the order base, file, preset, `--set`.
"""

from __future__ import annotations

import logging
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from zoo.catalog import ablation_files, recipe_files, recipe_names
from zoo.data.open import built_in_name
from zoo.errors import RecipeError, without_library
from zoo.models.config import DECODERS, DEFAULT_DECODER, nest_decoder
from zoo.models.timm_models import takes_multi_grid
from zoo.models.vit import is_plain_transformer
from zoo.train.methods.table import METHODS, setting_names
from zoo.train.optim import OptimizerConfig
from zoo.train.recipe.removed import with_settings_of_today
from zoo.train.recipe.schema import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails


Tree = dict[str, Any]

log = logging.getLogger(__name__)

PLAIN_DECODER = "dpt"
"""Decoder of plain transformers whose recipe names none."""

NEAR = 5
"""Largest number of suggestions for a misspelled name."""


def load_recipe(
    name: str,
    settings: Iterable[str] = (),
    steps: int | None = None,
    changes: Tree | None = None,
    *,
    after_labels: bool = False,
) -> Recipe:
    """Return a recipe.

    Args:
        name: name of a recipe in the package (`eln_voc_1-8`), or path of a TOML file.
        settings: `key=value` with dotted keys, values as in TOML; text needs no quotes.
        changes: values by dotted key, applied before `settings`.
        steps: number of steps of the run; settings that count steps are scaled in proportion.
        after_labels: whether to leave out the phases that learn from labels alone, before scaling.

    Raises:
        RecipeError: an unknown recipe or key, or a value out of range.
    """
    tree = _read(find_recipe(name))
    overrides = [*(changes or {}).items(), *(_parse_setting(text) for text in settings)]
    preset = dict(overrides).get("preset", tree.get("preset", "default"))
    official = tree.pop("official", {})
    if preset == "official":
        method = METHODS.get(tree.get("method", {}).get("name", ""))
        tree = _over(_over(tree, {"method": method.official if method else {}}), official)
    tree = {"recipe": Path(name).stem} | tree
    if after_labels:
        tree = validate_recipe(tree).after_labels().model_dump(mode="json")
    if steps is not None:
        tree = validate_recipe(tree).with_steps(steps).model_dump(mode="json", exclude_unset=True)
    above: Tree = {}
    for key, value in overrides:
        above = _merge(above, _nested(key, value))
    return validate_recipe(_over(tree, above))


def with_encoder_rate(recipe: Recipe, rate: float) -> Recipe:
    """Return the recipe with this learning rate of the encoders, whatever the decoders' is.

    Raises:
        RecipeError: the method has no optimizer with a rate of encoders, or they are frozen.
    """
    if rate <= 0:
        raise RecipeError(
            f"--lr-encoder is {rate:g}, expected more than 0; --freeze-encoder keeps the encoder"
        )
    if recipe.freeze_encoder:
        raise RecipeError("got --lr-encoder and --freeze-encoder, expected one: a frozen encoder has no rate")
    config = recipe.method
    optimizers = {name: getattr(config, name) for name in type(config).model_fields}
    update = {
        name: each.model_copy(update={"encoder_lr_mult": rate / each.lr})
        for name, each in optimizers.items()
        if isinstance(each, OptimizerConfig) and each.of_encoders
    }
    if not update:
        raise RecipeError(f"--lr-encoder: {config.name} has one rate for all: set method.optimizer.lr")
    return recipe.model_copy(update={"method": config.model_copy(update=update)})


def validate_recipe(tree: Tree) -> Recipe:
    """Return the recipe of a parsed file.

    Raises:
        RecipeError: an unknown key, or a value out of range.
    """
    try:
        return Recipe.model_validate(with_settings_of_today(tree))
    except ValidationError as error:
        method = tree.get("method")
        name = method.get("name") if isinstance(method, dict) else None
        raise RecipeError(f"recipe {tree['recipe']}: {_told(error.errors()[0], name)}") from error


def _told(error: ErrorDetails, method: object) -> str:
    """Return the error message for a setting of a recipe for `method`."""
    key = ".".join(str(part) for part in error["loc"] if part not in METHODS)
    if error["type"] == "missing":
        return f"{key}: this setting is required"
    if error["type"] != "extra_forbidden":
        return f"{key} is {error['input']!r}: {without_library(error['msg'])}"
    if error["loc"][:2] == ("network", "decoder"):
        return f"{key}: the decoder has no such setting; check its spelling, and network.decoder.name"
    if key in setting_names(method):
        return (
            f"{key}: no such setting here, expected method.{key}: settings of a method stand under `method.`"
        )
    near = _nearest_settings(key, method)
    return f"{key}: no such setting; {f'nearest: {near}' if near else 'check its spelling'}"


def _nearest_settings(key: str, method: object) -> str:
    """Return the dotted keys of settings with the same last part as a key, or else with a similar name."""
    keys = [*_dotted(Recipe), *(f"method.{name}" for name in setting_names(method))]
    if isinstance(method, str) and method in METHODS:
        keys += _dotted(METHODS[method].config, "method.")
    last = key.rpartition(".")[2]
    same = [known for known in dict.fromkeys(keys) if known.rpartition(".")[2] == last]
    return ", ".join((same or get_close_matches(key, keys, NEAR))[:NEAR])


def _dotted(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted keys of the settings of a model, without those of unions."""
    found = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        is_table = isinstance(inner, type) and issubclass(inner, BaseModel)
        found += _dotted(inner, f"{prefix}{name}.") if is_table else [f"{prefix}{name}"]  # type: ignore[arg-type]
    return found


def default_recipe(method: str, spec: str) -> str:
    """Return the name of the default recipe of a method for a source.

    Raises:
        RecipeError: an unknown method.
    """
    if method not in METHODS:
        raise RecipeError(f"method {method} is unknown, expected one of {', '.join(METHODS)}")
    own = f"{method}_{built_in_name(spec) or spec}"
    found = next((name for name in (own, method) if name in recipe_names()), None)
    if found is None:
        raise RecipeError(
            f"method {method} has no recipe {method}.toml: give --recipe FILE, or add one "
            f"(entry point `zoo.recipes`)"
        )
    return found


def find_recipe(name: str) -> Path:
    """Return the file of a recipe, by path or by name.

    Raises:
        RecipeError: the name is neither a file nor a recipe of the package.
    """
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path
    known = recipe_files() | ablation_files()
    if name in known:
        return Path(str(known[name]))
    near = get_close_matches(name, known, NEAR)
    hint = f"; near it: {', '.join(near)}" if near else f" such as {', '.join(METHODS)}"
    raise RecipeError(
        f"recipe {name} not found, expected a .toml file or a recipe's name{hint}; zoo list shows those of "
        f"papers"
    )


def _read(path: Path, above: tuple[Path, ...] = ()) -> Tree:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    base = tree.pop("base", None)
    if base is None:
        return _over({}, tree)
    below = path.parent / base if isinstance(base, str) else path
    if not below.is_file() or below in (path, *above):
        raise RecipeError(f"{path}: base is {base!r}, expected the name of another recipe file in its folder")
    return _over(_read(below, (path, *above)), tree)


def _over(below: Tree, above: Tree) -> Tree:
    """Return the settings `below` overridden by those of `above`.

    If `above` names another decoder, only the decoder settings that both decoders have are kept. If it names
    another encoder, settings that do not suit that one are replaced, see `_suited`.
    """
    below, above = ({**tree, **_with_nested_decoder(tree)} for tree in (below, above))
    below, above = _suited(below, above)
    former, decoder = (_decoder_of(tree) for tree in (below, above))
    name = str(decoder.get("name", former.get("name", DEFAULT_DECODER)))
    if former and name in DECODERS and name != former.get("name", DEFAULT_DECODER):
        known = DECODERS[name].config.model_fields
        kept = {key: value for key, value in former.items() if key in known}
        below = below | {"network": below["network"] | {"decoder": kept}}
    return _merge(below, above)


def _suited(below: Tree, above: Tree) -> tuple[Tree, Tree]:
    """Return both with what suits the encoder that `above` names, as far as `above` does not say it itself.

    A plain transformer gets DPT; `multi_grid` is left to ResNets with bottleneck blocks.
    """
    network = above.get("network")
    if not isinstance(network, dict) or not isinstance(encoder := network.get("encoder"), str):
        return below, above
    changes: Tree = {}
    if is_plain_transformer(encoder) and "name" not in _decoder_of(above):
        log.info("network.decoder.name %s, which suits %s; set it to choose another", PLAIN_DECODER, encoder)
        changes["decoder"] = {**_decoder_of(above), "name": PLAIN_DECODER}
    former = below.get("network")
    factors = former.get("multi_grid") if isinstance(former, dict) else None
    if isinstance(former, dict) and factors and not takes_multi_grid(encoder, tuple(factors)):
        reason = f"{encoder} is no ResNet with {len(factors)} bottleneck blocks in its last stage"
        log.info("network.multi_grid %s left out: %s", factors, reason)
        below = below | {"network": {key: value for key, value in former.items() if key != "multi_grid"}}
    return below, above | {"network": network | changes}


def _with_nested_decoder(tree: Tree) -> Tree:
    network = tree.get("network")
    return {"network": nest_decoder(network)} if isinstance(network, dict) else {}


def _decoder_of(tree: Tree) -> Tree:
    """Return the decoder settings that a recipe gives."""
    network = tree.get("network")
    decoder = network.get("decoder") if isinstance(network, dict) else None
    return decoder if isinstance(decoder, dict) else {}


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
