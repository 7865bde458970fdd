"""Whose rights are in a model: of the code, the weights it started from, its training data.

The license of the model itself is stated by whoever publishes it, in the metadata of its card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub import metadata_load

from zoo.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.bundle.bundle import BundleConfig

CODE = "apache-2.0"
UNKNOWN = "unknown"

LICENSE_KEYS = ("license", "license_name", "license_link")

DRAWN = frozenset({"shapes"})
"""Built-in data, whose images a program draws: they show nobody's property."""


def license_table(config: BundleConfig) -> list[tuple[str, str, str]]:
    """Return rows of what, its license, and how that is known."""
    return [
        ("code", CODE, "of zoo, which trained it"),
        *_encoder_weights(config),
        _data(data_name(config.data_spec), config.data_spec),
    ]


def stated_license(card: Path) -> dict[str, str]:
    """Return `license`, `license_name` and `license_link` as a model card states them, if there is one.

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
    """Return what to call training data in public: the name of a data set or of a folder, not its path.

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
    """Return a row for each set of weights that a part of the model started from."""
    parts: dict[str, dict[str, Any]] = config.provenance.get("parts", {})
    sources = [(part.get("provenance", {}), part.get("recipe", {})) for part in parts.values()] or [
        (config.provenance, config.recipe)
    ]
    rows: list[tuple[str, str, str]] = []
    for provenance, recipe in sources:
        if recipe.get("pretrained") is False:
            rows.append(("encoder weights", "none", "started from random weights"))
        elif "pretrained_weights" not in provenance:
            rows.append(("encoder weights", UNKNOWN, "which weights it started from was not recorded"))
        else:
            stated = provenance["pretrained_weights"].items()
            rows += [
                ("encoder weights", license_ or UNKNOWN, f"timm, of {name}") for name, license_ in stated
            ]
    return list(dict.fromkeys(rows))


def _data(name: str, spec: str | None) -> tuple[str, str, str]:
    if spec in DRAWN:
        return "training data", "none", f"{name}: images drawn by this program"
    of = "was not recorded" if spec is None else f"{name}: see its own terms"
    return "training data", UNKNOWN, of
