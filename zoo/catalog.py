"""Catalog of published results, by a short alias such as `eln-voc-1/8-resnet50`, with their recipes.

Each recipe `METHOD_DATA_[VARIANT_]PARTITION.toml` whose table `[reported]` has a figure (`miou`) is an entry.
All other keys of the table are optional: `labels_only` and `source`, and, in the recipe or its base,
`protocol`, `scored`, `lists` and `spec`. The figures are those of the papers, not measured here.
"""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from functools import cache
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from importlib.resources.abc import Traversable

Tree = dict[str, Any]

DATA = {
    "voc": "voc",
    "cityscapes": "cityscapes",
    "context": "pascal-context",
    "ade20k": "ade20k",
    "coco": "coco",
}
"""Name of each data set on the command line, by the name in recipe file names."""


BUNDLES: dict[str, str] = {}
"""Names of the published bundles, by alias."""


class Entry(NamedTuple):
    """One result of a paper."""

    alias: str
    method: str
    """Name of the method; `s4gan + mlmt` with a classifier as gate."""
    data: str
    """Name of the data set."""
    partition: str
    """The labeled share, or the number of labeled images."""
    partition_list: str
    """Origin of the list of labeled images."""
    architecture: str
    encoder: str | None
    """None if the paper does not name it."""
    miou: float
    """Reported by the paper, 0..100."""
    labels_only: float | None
    """The paper's figure for the same network trained on labeled images only, 0..100."""
    protocol: str
    """How the paper evaluates, with image sizes."""
    evaluated_by: str
    """The matching protocol of `zoo.evaluation.protocols`; empty if the recipe names none."""
    source: str
    """Table of the paper."""
    recipe: str
    spec: str
    """Prefix of the data set on the command line."""
    bundle: str | None = None
    """Name of the published bundle; None if there are no weights."""

    @property
    def commands(self) -> tuple[str, ...]:
        """Return the commands that train the model; DIR stands for the folder of the data set."""
        data = f"--data {self.spec}:DIR"
        method, data_set, *_ = self.recipe.split("_")
        train = f"zoo train {method} --recipe {self.recipe} {data}"
        if self.method == method:
            return (train,)
        gate = f"mlmt_{data_set}_{self.partition.replace('/', '-')}"
        known = (
            f"--recipe {gate} {data}" if gate in recipe_names() else f"{data} --partition {self.partition}"
        )
        return (
            f"{train} --out runs/s4gan",
            f"zoo train mlmt {known} --out runs/mlmt",
            "zoo export runs/s4gan --gate runs/mlmt",
        )


@cache
def entries() -> tuple[Entry, ...]:
    """Return all entries, sorted by method, data set and partition."""
    found = [entry for name in recipe_names() for entry in _rows(name)]
    return tuple(sorted(found, key=lambda entry: (entry.method, entry.data, _share(entry), entry.alias)))


def find_entry(alias: str) -> Entry | None:
    """Return the entry of an alias; None if the alias is unknown."""
    return next((entry for entry in entries() if entry.alias == alias), None)


def resolve_alias(text: str) -> str:
    """Return the name of the bundle that an alias stands for; any other text is returned unchanged.

    Raises:
        BundleError: an entry without weights; the message gives the commands that train them.
    """
    entry = find_entry(text)
    if entry is None:
        return text
    if entry.bundle is None:
        raise BundleError(
            f"{text} has no weights yet, only the figure of the paper ({entry.miou:g} mIoU): make them with "
            f"{' && '.join(entry.commands)}"
        )
    return entry.bundle


def known_methods() -> set[str]:
    """Return the names of the methods that have recipes."""
    return {name.partition("_")[0] for name in recipe_names()}


def known_data() -> set[str]:
    """Return the names of the data sets that have recipes."""
    parts = (name.split("_") for name in recipe_names())
    return {DATA.get(part[1], part[1]) for part in parts if len(part) > 1}


@cache
def recipe_files() -> dict[str, Traversable]:
    """Return the recipe files by name: the built-in ones and those of entry points in `zoo.recipes`.

    An entry point names a package whose TOML files are recipes; no training code is imported.
    """
    plugins = [entry.value for entry in metadata.entry_points(group="zoo.recipes")]
    folders = [resources.files("zoo").joinpath("train", "recipes"), *map(resources.files, plugins)]
    found = {
        file.name.removesuffix(".toml"): file
        for folder in folders
        for file in folder.iterdir()
        if file.name.endswith(".toml")
    }
    return dict(sorted(found.items()))


@cache
def ablation_files() -> dict[str, Traversable]:
    """Return the built-in recipes of rows of ablation studies by name; the catalog does not list them."""
    folder = resources.files("zoo").joinpath("train", "recipes", "ablations")
    found = {file.name.removesuffix(".toml"): file for file in folder.iterdir()}
    return dict(sorted(found.items()))


def recipe_names() -> tuple[str, ...]:
    """Return the names of all recipes."""
    return tuple(recipe_files())


def reported_protocols() -> dict[tuple[str, str], str]:
    """Return the evaluation protocol of the papers' figures, by method and data set."""
    return {
        (entry.method, entry.data): entry.evaluated_by
        for entry in entries()
        if entry.evaluated_by and " + " not in entry.method
    }


def nearest(text: str, names: Iterable[str] = ()) -> tuple[str, ...]:
    """Return up to three aliases or other names that are similar to a text, the most similar first."""
    return tuple(get_close_matches(text, [*names, *(entry.alias for entry in entries())]))


def _rows(recipe: str) -> Iterator[Entry]:
    """Yield the entries of a recipe: its own figure, and the one with a classifier as gate."""
    trees = list(_with_bases(recipe))
    own: Tree = trees[0].get("reported", {})
    method, data_set, *rest = [*recipe.split("_"), ""]
    encoder = str(_first(trees, "network", "encoder"))
    variant = rest[0] if len(rest) == 3 else None
    data = DATA.get(data_set, data_set)
    for key, name in (("miou", method), ("with_mlmt", f"{method} + mlmt")):
        if key not in own:
            continue
        partition = str(_first(trees, "data", "partition"))
        depth = _depth(encoder)
        alias = "-".join((name.replace(" + ", "-"), data_set, partition, variant or depth))
        yield Entry(
            alias=alias,
            method=name,
            data=data,
            partition=partition,
            partition_list=str(_first(trees, "reported", "lists") or ""),
            architecture=_decoder(trees),
            encoder=None if variant else depth,
            miou=own[key],
            labels_only=own.get("labels_only"),
            protocol=str(_first(trees, "reported", "scored") or ""),
            evaluated_by=str(_first(trees, "reported", "protocol") or ""),
            source=str(own.get("source", "")),
            recipe=recipe,
            spec=str(_first(trees, "reported", "spec") or data),
            bundle=BUNDLES.get(alias),
        )


def _depth(encoder: str) -> str:
    """Return the encoder's name in papers: `resnet50` for `resnet50c.gluon_in1k`, `vit_base` for a ViT-B."""
    found = re.match(r"resnet\d+|vit_[a-z]+", encoder)
    return found.group() if found else encoder


def _share(entry: Entry) -> float:
    """Return the labeled share as a number, or the number of labeled images."""
    numerator, _, denominator = entry.partition.partition("/")
    return int(numerator) / int(denominator) if denominator else int(numerator)


def _with_bases(recipe: str) -> Iterator[Tree]:
    """Yield the parsed recipe, then its base, the base of that, and so on."""
    name: str | None = f"{recipe}.toml"
    while name:
        tree = tomllib.loads(recipe_files()[name.removesuffix(".toml")].read_text(encoding="utf-8"))
        yield tree
        name = tree.get("base")


def _decoder(trees: list[Tree]) -> str:
    """Return the decoder of the first recipe that names one, or the default decoder."""
    decoders = (tree.get("network", {}).get("decoder", {}) for tree in trees)
    return next((str(decoder["name"]) for decoder in decoders if "name" in decoder), "deeplabv3plus")


def _first(trees: list[Tree], table: str, key: str) -> object:
    """Return a setting from the first recipe that has it; None if none does."""
    return next((tree[table][key] for tree in trees if key in tree.get(table, {})), None)
