"""Settings of methods that were removed or renamed, by which recipes of older versions are read."""

from __future__ import annotations

from typing import Any

from zoo.errors import RecipeError

Tree = dict[str, Any]

REMOVED: dict[str, dict[str, object]] = {
    "eln": {"views": "both", "pseudo_label_grid": "decoder", "filter.void": "error"},
    "mlmt": {"consistency": "cosine"},
    "rrn": {
        "upsampling": "nearest",
        "cutmix": True,
        "cps_on_labeled": False,
        "average": "logits",
        "discriminator.dropout_last": False,
    },
    "s4gan": {"real_stream": True, "discriminator.dropout_last": False},
    "u2pl": {"single_pass": False, "ema_ramp": True, "contrast.class_mean": "present"},
}
"""Settings of each method that no longer exist, with the default value that they now always have."""

RENAMED = {
    "rrn": {"normalisation": ("method", "normalization")},
    "supervised": {"view": ("data", "labeled_view")},
}
"""Settings of each method that have another name now, with their table and name of today."""


def with_settings_of_today(tree: Tree) -> Tree:
    """Return a recipe without removed settings, and with renamed ones under their new names.

    Raises:
        RecipeError: a removed setting has another value than its default.
    """
    method = tree.get("method")
    if not isinstance(method, dict):
        return tree
    for key, fixed in REMOVED.get(str(method.get("name")), {}).items():
        method = _without(method, key.split("."), fixed, f"recipe {tree.get('recipe')}: method.{key}")
    names = RENAMED.get(str(method.get("name")), {})
    tree = tree | {"method": {key: value for key, value in method.items() if key not in names}}
    for key in names.keys() & method.keys():
        table, name = names[key]
        tree[table] = {**tree.get(table, {}), name: method[key]}
    return tree


def _without(table: Tree, path: list[str], fixed: object, place: str) -> Tree:
    """Return a table without the setting at a path, which must have its only value if it is there."""
    first, *rest = path
    if first not in table:
        return table
    if rest:
        inner = table[first]
        return table | {first: _without(inner, rest, fixed, place)} if isinstance(inner, dict) else table
    if table[first] != fixed:
        raise RecipeError(
            f"{place} is {table[first]!r}, expected {fixed!r}: the setting was removed and always has "
            f"this value; leave it out, or use the version of zoo that wrote the recipe"
        )
    return {key: value for key, value in table.items() if key != first}
