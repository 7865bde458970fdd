"""The published rows of the four papers, each under a short alias such as `eln-voc-1/8-resnet50`.

They are read from the recipes that repeat them: a recipe with a table `[reported]` is a row. The figures are
those of the papers, not measured here.
"""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Tree = dict[str, Any]

DATA = {"voc": "voc", "cityscapes": "cityscapes", "context": "pascal-context"}
"""What a data set is called on the command line, by its name in a recipe's."""


class Scoring(NamedTuple):
    """How authors scored."""

    protocol: str
    """Of `zoo.evaluation.protocols`."""
    text: str
    """The same with their sizes."""


SCORING = {
    ("eln", "voc"): Scoring("resize", "image and label resized to 512 x 512"),
    ("eln", "cityscapes"): Scoring("original", "whole image, full size"),
    ("rrn", "voc"): Scoring("slide-logits", "windows of 512, full size"),
    ("rrn", "cityscapes"): Scoring("slide-logits", "windows of 800, full size"),
    ("u2pl", "voc"): Scoring("center-crop-background", "center crop of 513"),
    ("u2pl", "cityscapes"): Scoring("slide-logits", "windows of 769, full size"),
    ("s4gan", "voc"): Scoring("padded", "whole image, full size"),
    ("s4gan", "cityscapes"): Scoring("half", "image and label at half size"),
    ("s4gan", "pascal-context"): Scoring("short-side-crop", "center crop of 512, short side at 512"),
}
"""How the authors' code scores, by paper and data set."""

LISTS = {
    "eln": "the authors' random subsets",
    "rrn": "CPS",
    "u2pl": "the authors' own",
    "s4gan": "the authors' random subsets",
}
"""Which images were labeled, by paper."""

PSEUDOSEG_LISTS = ("u2pl_voc_92", "u2pl_voc_183", "u2pl_voc_366")
"""Rows of U2PL whose labeled images are those of PseudoSeg."""

CLASSIC = (*PSEUDOSEG_LISTS, "u2pl_voc_732", "u2pl_voc_1464")
"""Rows whose labeled images are some of the 1,464 with VOC's own masks."""

BUNDLES: dict[str, str] = {}
"""Names of the bundles that exist, by alias."""


class Entry(NamedTuple):
    """One row of a paper."""

    alias: str
    method: str
    """`eln`, `rrn`, `u2pl`, `s4gan` or `s4gan + mlmt`."""
    data: str
    """`voc`, `cityscapes` or `pascal-context`."""
    partition: str
    """The labeled share, or the number of labeled images."""
    partition_list: str
    """Whose list of labeled images it was."""
    architecture: str
    encoder: str | None
    """None where the paper does not say."""
    miou: float
    """Reported by the paper, 0..100."""
    labels_only: float | None
    """What the paper reports for the same network without unlabeled images, 0..100."""
    protocol: str
    source: str
    """Table of the paper."""
    recipe: str
    bundle: str | None = None
    """Name of the bundle, None if there are no weights."""

    @property
    def _spec(self) -> str:
        return "voc-classic" if self.recipe in CLASSIC else self.data

    @property
    def commands(self) -> tuple[str, ...]:
        """Return the commands that make the weights; DIR is the folder of the data set."""
        data = f"--data {self._spec}:DIR"
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
    """Return all rows, by method, data set and partition."""
    found = [entry for name in recipe_names() for entry in _rows(name)]
    return tuple(sorted(found, key=lambda entry: (entry.method, entry.data, _share(entry), entry.alias)))


def find_entry(alias: str) -> Entry | None:
    """Return the row of an alias, None if there is none."""
    return next((entry for entry in entries() if entry.alias == alias), None)


def resolve_alias(text: str) -> str:
    """Return the name of the bundle that an alias stands for; any other text comes back as it is.

    Raises:
        BundleError: a row without weights; says what trains them.
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
    """Return the methods that there are recipes of."""
    return {name.partition("_")[0] for name in recipe_names()}


def known_data() -> set[str]:
    """Return the data sets that there are recipes for."""
    parts = (name.split("_") for name in recipe_names())
    return {DATA.get(part[1], part[1]) for part in parts if len(part) > 1}


@cache
def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes in the package, whose code is not imported."""
    files = resources.files("zoo").joinpath("train", "recipes").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def nearest(text: str, names: Iterable[str] = ()) -> tuple[str, ...]:
    """Return up to three aliases, or other names, that a misspelled one may have meant, the best first."""
    return tuple(get_close_matches(text, [*names, *(entry.alias for entry in entries())]))


def _rows(recipe: str) -> Iterator[Entry]:
    """Yield the rows that a recipe repeats: its own figure, and the one under the gate of a classifier."""
    trees = list(_with_bases(recipe))
    reported: Tree | None = trees[0].get("reported")
    if reported is None:
        return
    method, data_set, *rest = recipe.split("_")
    encoder = str(_first(trees, "network", "encoder"))
    variant = rest[0] if len(rest) == 2 else None
    for key, name in (("miou", method), ("with_mlmt", f"{method} + mlmt")):
        if key in reported:
            partition = str(_first(trees, "data", "partition"))
            depth = _depth(encoder)
            parts = (name.replace(" + ", "-"), data_set, partition, variant or depth)
            alias = "-".join(parts)
            yield Entry(
                alias=alias,
                method=name,
                data=DATA[data_set],
                partition=partition,
                partition_list="PseudoSeg" if recipe in PSEUDOSEG_LISTS else LISTS[method],
                architecture=_decoder(trees),
                encoder=None if variant else depth,
                miou=reported[key],
                labels_only=reported.get("labels_only"),
                protocol=SCORING[method, DATA[data_set]].text,
                source=reported["source"],
                recipe=recipe,
                bundle=BUNDLES.get(alias),
            )


def _depth(encoder: str) -> str:
    """Return the encoder as papers call it: `resnet50` for `resnet50c.gluon_in1k`."""
    found = re.match(r"resnet\d+", encoder)
    return found.group() if found else encoder


def _share(entry: Entry) -> float:
    numerator, _, denominator = entry.partition.partition("/")
    return int(numerator) / int(denominator) if denominator else int(numerator)


def _with_bases(recipe: str) -> Iterator[Tree]:
    """Yield the tables of a recipe, then those of the one it builds on, and so on."""
    name: str | None = f"{recipe}.toml"
    while name:
        file = resources.files("zoo").joinpath("train", "recipes", name)
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
        yield tree
        name = tree.get("base")


def _decoder(trees: list[Tree]) -> str:
    """Return the name of the first decoder that a table names, the default if none does."""
    decoders = (tree.get("network", {}).get("decoder", {}) for tree in trees)
    return next((str(decoder["name"]) for decoder in decoders if "name" in decoder), "deeplabv3plus")


def _first(trees: list[Tree], table: str, key: str) -> object:
    """Return a setting from the first table that has it, None if none does."""
    return next((tree[table][key] for tree in trees if key in tree.get(table, {})), None)
