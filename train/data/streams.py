"""Choosing the step that is kept by labeled images that are not trained on; `val` never chooses."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.bundle.bundle import replacing
from zoo.child import is_first
from zoo.data.check import check_source
from zoo.data.open import open_source
from zoo.data.partition import Partition, count_of, make_partition
from zoo.data.source import Source
from zoo.errors import DatasetError, RecipeError
from zoo.train.methods.table import METHODS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from zoo.data.partition import Partition
    from zoo.data.source import Split
    from zoo.train.method import Phase
    from zoo.train.recipe.schema import Recipe


log = logging.getLogger(__name__)

HELD_OUT_NAME = "held_out.txt"


class HeldOut(Source):
    """Held-out images of a source as its split `val`, the only one."""

    def __init__(self, source: Source, held_out: tuple[str, ...]) -> None:
        super().__init__(source.spec, source.classes)
        self.source, self.held_out = source, held_out

    def ids(self, split: Split) -> tuple[str, ...]:
        """Return the held-out ids as `val`."""
        return self.held_out if split == "val" else ()

    def read_image(self, id_: str) -> NDArray[np.uint8]:
        """Return the image of an id."""
        return self.source.read_image(id_)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        """Return the mask of an id."""
        return self.source.read_mask(id_)


def hold_out(recipe: Recipe, partition: Partition) -> tuple[Partition, tuple[str, ...]]:
    """Return the partition without the labeled images that select, and these.

    They are drawn by the recipe's seed and join no other stream. Those of one seed are nested.

    Raises:
        RecipeError: none would be left to train on, or there is nothing to choose between.
    """
    if recipe.select_on is None:
        return partition, ()
    if not 0 < recipe.validate_every < recipe.steps:
        raise RecipeError(
            f"select_on {recipe.select_on} chooses between evaluations, got validate_every "
            f"{recipe.validate_every} in {recipe.steps} steps: give --set validate_every=N below that"
        )
    labeled = partition.labeled
    if len(labeled) < 2:
        raise RecipeError(
            f"select_on {recipe.select_on}: got {len(labeled)} labeled image{'s' * (len(labeled) != 1)}, "
            f"expected at least two, to train on and to hold out: label more, or leave select_on out"
        )
    try:
        count = count_of(recipe.select_on, len(labeled) - 1)
    except DatasetError as error:
        raise RecipeError(
            f"select_on {recipe.select_on}: expected a share up to 1, or a number below {len(labeled)}, the "
            f"labeled images: hold out fewer, or label more"
        ) from error

    def rank(id_: str) -> bytes:
        return hashlib.sha256(f"{recipe.seed}:held out:{id_}".encode()).digest()

    held_out = set(sorted(labeled, key=rank)[:count])
    rest = tuple(id_ for id_ in labeled if id_ not in held_out)
    return replace(partition, labeled=rest), tuple(id_ for id_ in labeled if id_ in held_out)


def write_held_out(folder: Path, held_out: tuple[str, ...]) -> None:
    """Write the list of held-out images beside those of the partition, if there are any."""
    if held_out:
        with replacing(folder / HELD_OUT_NAME) as temporary:
            temporary.write_text("".join(f"{id_}\n" for id_ in held_out), encoding="utf-8")


def read_held_out(folder: Path) -> tuple[str, ...]:
    """Return the list of held-out images.

    Raises:
        DatasetError: there is none.
    """
    path = folder / HELD_OUT_NAME
    try:
        found = tuple(path.read_text(encoding="utf-8").split("\n")[:-1])
    except OSError as error:
        raise DatasetError(
            f"{path}: got no list that can be read ({error.strerror}), expected the held-out images: train "
            f"again"
        ) from error
    if not found:
        raise DatasetError(f"{path}: got an empty list, expected the held-out images: train again")
    return found


def checked_source(recipe: Recipe) -> Source:
    """Return the data of a recipe, every file of it read once.

    Raises:
        ZooError: it names none, or they cannot be used.
    """
    if not recipe.data.spec:
        raise RecipeError(f"recipe {recipe.recipe} names no data, expected some: give --data FOLDER")
    source = open_source(recipe.data.spec)
    check_source(source)
    return source


def check_streams(recipe: Recipe, partition: Partition, phases: tuple[Phase, ...]) -> None:
    """Raise if the method needs unlabeled images and there are none, or whole images and they are cropped.

    Raises:
        RecipeError: so.
    """
    if any(phase.unlabeled for phase in phases) and not partition.unlabeled:
        raise RecipeError(
            f"data.partition {recipe.data.partition}: all {len(partition.labeled)} images are labeled "
            f"and {recipe.method.name} needs others: add an unlabeled/ folder, or give --partition 1/8"
        )
    data = recipe.data
    if any(phase.tags for phase in phases) and (data.resize != "stretch" or data.augment.scale != (1, 1)):
        raise RecipeError(
            f"{recipe.method.name} learns what whole images show, got data.resize {data.resize} and "
            f"data.augment.scale {list(data.augment.scale)}, which crop or pad them: give --set "
            f"data.resize=stretch and --set data.augment.scale=[1,1]"
        )


def draw_partition(recipe: Recipe, source: Source) -> tuple[Recipe, Partition]:
    """Return the recipe with what follows from its data, its partition among it, and that partition.

    Raises:
        DatasetError: the recipe asks for images that are not there.
    """
    needed = METHODS[recipe.method.name].needs_unlabeled
    partition = make_partition(source, recipe.data.partition, recipe.partition_seed, needs_unlabeled=needed)
    warn_of_hidden(partition, source)
    recipe = recipe.for_classes(len(source.classes))
    data = recipe.data.model_copy(update={"partition": partition.spec})
    return recipe.model_copy(update={"data": data}), partition


def warn_of_hidden(partition: Partition, source: Source) -> None:
    """Say how many masks are hidden though nobody asked for it."""
    note = partition.hidden_note(source.spec)
    if note is not None and is_first():
        log.warning("warning: %s", note)
