"""Licenses of the parts of a model: code, pretrained weights and training data.

The publisher states the license of the model itself in the metadata of its card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub import metadata_load

from zoo.errors import BundleError
from zoo.models.origin import origins_of

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.bundle.bundle import BundleConfig

CODE = "apache-2.0"
UNKNOWN = "unknown"

LICENSE_KEYS = ("license", "license_name", "license_link")

DRAWN = frozenset({"shapes"})
"""Built-in data sets, whose images are drawn by a program and have no owner."""


def license_table(config: BundleConfig) -> list[tuple[str, str, str]]:
    """Return a row for each part: its name, its license, and the source of that information."""
    return [
        ("code", CODE, "of zoo, which trained it"),
        *_encoder_weights(config),
        _data(data_name(config.data_spec), config.data_spec),
    ]


def stated_license(card: Path) -> dict[str, str]:
    """Return `license`, `license_name` and `license_link` in a model card, as far as they are stated.

    Raises:
        BundleError: a card whose metadata cannot be read.
    """
    if not card.is_file():
        return {}
    try:
        stated = metadata_load(card) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise BundleError(
            f"{card} does not begin with valid YAML: correct it, or delete it and export again"
        ) from error
    return {key: str(stated[key]) for key in LICENSE_KEYS if stated.get(key)}


def data_name(spec: str | None) -> str:
    """Return the public name of training data: the name of a data set or folder, not its path.

    Example:
        >>> [data_name(spec) for spec in ("shapes", "voc:/data/VOC2012", "/data/roads/", "roads/data.toml")]
        ['shapes', 'voc', 'roads', 'roads']
    """
    if not spec:
        return UNKNOWN
    prefix, colon, _ = spec.partition(":")
    if colon and len(prefix) > 1:
        return prefix
    *above, last = spec.replace("\\", "/").rstrip("/").split("/")
    return above[-1] if last == "data.toml" and above else last.removesuffix(".toml")


def _encoder_weights(config: BundleConfig) -> list[tuple[str, str, str]]:
    """Return a row for each set of pretrained weights in the model."""
    parts: dict[str, dict[str, Any]] = config.provenance.get("parts", {})
    sources = [(part.get("provenance", {}), part.get("recipe", {})) for part in parts.values()] or [
        (config.provenance, config.recipe)
    ]
    rows: list[tuple[str, str, str]] = []
    for provenance, recipe in sources:
        origins = origins_of(recipe, provenance)
        if origins is None:
            rows.append(("encoder weights", UNKNOWN, "which weights it started from was not recorded"))
        elif not origins:
            rows.append(("encoder weights", "none", "started from random weights"))
        else:
            rows += [(each.part, each.license or UNKNOWN, each.label) for each in origins]
    return list(dict.fromkeys(rows))


def _data(name: str, spec: str | None) -> tuple[str, str, str]:
    if spec in DRAWN:
        return "training data", "none", f"{name}: images drawn by this program"
    of = "was not recorded" if spec is None else f"{name}: see its own terms"
    return "training data", UNKNOWN, of
