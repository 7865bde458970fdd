"""Licenses of the parts of a model: code, pretrained weights and training data.

The publisher states the license of the model itself in the metadata of its card.
"""

from __future__ import annotations

from difflib import get_close_matches
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

LICENSES = frozenset((
    "apache-2.0", "mit", "openrail", "openrail++", "bigscience-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "creativeml-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd",
    "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0",
    "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
    "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl",
    "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "h-research", "intel-research",
    "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0", "odc-by", "odbl", "openmdw-1.0", "osl-3.0",
    "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl", "lgpl-lr", "deepfloyd-if-license",
    "fair-noncommercial-research-license", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4",
    "grok2-community", "gemma", "other",
))  # fmt: skip
"""Ids of licenses on the Hub; `other` has its own name, in `license_name`."""

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


def check_license(id_: str) -> None:
    """Check the id of a license.

    Raises:
        BundleError: it is no license of the Hub.
    """
    if id_ not in LICENSES:
        near = get_close_matches(id_.lower(), LICENSES) or ["apache-2.0", "mit", "cc-by-4.0"]
        raise BundleError(
            f"got license {id_!r}, expected an id of the Hub such as {', '.join(near)}, or license: other "
            f"with license_name and license_link in the card"
        )


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
