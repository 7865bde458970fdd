"""Recipes: everything that decides what a run computes, as typed TOML.

A recipe file may build on another (`base = "eln.toml"`); `preset = "official"` adds the settings of the
authors' code, from the method and from the file's own `[official]` table. Order, later wins: base, file,
preset, `--set`.
"""

from __future__ import annotations

import logging
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import (
    ValidationError,
)

from zoo.catalog import recipe_files, recipe_names
from zoo.errors import RecipeError, without_library
from zoo.models.config import DECODERS, DEFAULT_DECODER, nest_decoder
from zoo.models.encoder import takes_multi_grid
from zoo.models.vit import is_plain_transformer
from zoo.train.methods.table import METHODS, setting_names
from zoo.train.recipe.schema import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails


Tree = dict[str, Any]

log = logging.getLogger(__name__)

PLAIN_DECODER = "dpt"
"""Decoder of plain transformers whose recipe names none."""

NEAR = 5
"""Recipes that a misspelled name may have meant, at most."""


def load_recipe(
    name: str, settings: Iterable[str] = (), steps: int | None = None, changes: Tree | None = None
) -> Recipe:
    """Return a recipe.

    Args:
        name: of a recipe in the package (`eln_voc_1-8`), or path of a TOML file.
        settings: `key=value` with dotted keys, values as in TOML; text needs no quotes.
        changes: values by dotted key, applied before `settings`.
        steps: shortens or lengthens the run; settings that count steps change in proportion.

    Raises:
        RecipeError: no such recipe, unknown key, value out of range.
    """
    tree = _read(find_recipe(name))
    overrides = [*(changes or {}).items(), *(_parse_setting(text) for text in settings)]
    preset = dict(overrides).get("preset", tree.get("preset", "default"))
    official = tree.pop("official", {})
    if preset == "official":
        method = METHODS.get(tree.get("method", {}).get("name", ""))
        tree = _over(_over(tree, {"method": method.official if method else {}}), official)
    tree = {"recipe": Path(name).stem} | tree
    if steps is not None:
        tree = validate_recipe(tree).with_steps(steps).model_dump(mode="json", exclude_unset=True)
    above: Tree = {}
    for key, value in overrides:
        above = _merge(above, _nested(key, value))
    return validate_recipe(_over(tree, above))


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
    if error["loc"][:2] == ("network", "decoder"):
        return f"{key}: the decoder has no such setting; check its spelling, and network.decoder.name"
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
    found = next((name for name in (f"{method}_{spec}", method) if name in recipe_names()), None)
    if found is None:
        raise RecipeError(
            f"method {method} has no recipe {method}.toml: give --recipe FILE, or add one "
            f"(entry point `zoo.recipes`)"
        )
    return found


def find_recipe(name: str) -> Path:
    """Return the file of a recipe, by path or by name.

    Raises:
        RecipeError: neither a file nor a recipe of the package.
    """
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path
    if name in recipe_names():
        return Path(str(recipe_files()[name]))
    near = get_close_matches(name, recipe_names(), NEAR)
    hint = f"; near it: {', '.join(near)}" if near else f" such as {', '.join(METHODS)}"
    raise RecipeError(
        f"recipe {name} not found, expected a .toml file or a recipe's name{hint}; zoo list shows those of "
        f"papers"
    )


def _read(path: Path, above: tuple[Path, ...] = ()) -> Tree:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
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
    """Return a recipe's settings `below` with those of `above`.

    Where `above` names another decoder, of the settings of the former one those are kept that both have.
    Where it names another encoder, what does not suit that is replaced, see `_suited`.
    """
    below, above = ({**tree, **_with_nested_decoder(tree)} for tree in (below, above))
    below, above = _suited(below, above)
    former, decoder = (_decoder_of(tree) for tree in (below, above))
    name = str(decoder.get("name", former.get("name", DEFAULT_DECODER)))
    if former and name in DECODERS and name != former.get("name", DEFAULT_DECODER):
        known = DECODERS[name].config.model_fields
        below["network"] |= {"decoder": {key: value for key, value in former.items() if key in known}}
    return _merge(below, above)


def _suited(below: Tree, above: Tree) -> tuple[Tree, Tree]:
    """Return both with what suits the encoder that `above` names, as far as `above` does not say it itself.

    A plain transformer gets DPT; `multi_grid` is left to ResNets.
    """
    network = above.get("network")
    if not isinstance(network, dict) or not isinstance(encoder := network.get("encoder"), str):
        return below, above
    changes: Tree = {}
    if is_plain_transformer(encoder) and "name" not in _decoder_of(above):
        log.info("network.decoder.name %s, which suits %s; set it to choose another", PLAIN_DECODER, encoder)
        changes["decoder"] = {**_decoder_of(above), "name": PLAIN_DECODER}
    former = below.get("network")
    if isinstance(former, dict) and former.get("multi_grid") and not takes_multi_grid(encoder):
        log.info("network.multi_grid %s left out: %s is no ResNet", former["multi_grid"], encoder)
        below = below | {"network": {key: value for key, value in former.items() if key != "multi_grid"}}
    return below, above | {"network": network | changes}


def _with_nested_decoder(tree: Tree) -> Tree:
    network = tree.get("network")
    return {"network": nest_decoder(network)} if isinstance(network, dict) else {}


def _decoder_of(tree: Tree) -> Tree:
    """Return the settings of the decoder, as far as a recipe gives them."""
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
