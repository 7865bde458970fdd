"""Data of a run: its images, which of them are labeled, and those that choose the step that is kept."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.bundle.bundle import write_text
from zoo.child import is_first
from zoo.classes import IGNORE
from zoo.data.channels import Measured, measure
from zoo.data.check import check_source
from zoo.data.open import open_source
from zoo.data.partition import Partition, count_of, make_partition
from zoo.data.source import Source, Subset
from zoo.data.tags import with_tags
from zoo.errors import DatasetError, RecipeError
from zoo.image_format import RGB
from zoo.models.encoder import ENCODERS
from zoo.train.data.augment import skipped_augmentations
from zoo.train.methods.table import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoo.train.method import Phase
    from zoo.train.recipe.schema import Recipe


log = logging.getLogger(__name__)

HELD_OUT_NAME = "held_out.txt"


@dataclass(frozen=True)
class TrainingData:
    """The data of a run.

    Args:
        recipe: recipe of the run, with what follows from its data.
        source: images and masks.
        partition: which images are labeled, without those held out.
        held_out: labeled images that choose the step that is kept; `val` never chooses.
    """

    recipe: Recipe
    source: Source
    partition: Partition
    held_out: tuple[str, ...] = ()

    @classmethod
    def draw(
        cls, recipe: Recipe, source: Source | None = None, *, needs_unlabeled: bool | None = None
    ) -> TrainingData:
        """Return the data of a new run.

        Args:
            recipe: its partition may be `auto`.
            source: images that are checked already; None to open and check those of the recipe.
            needs_unlabeled: whether `auto` must leave unlabeled images; None if the method needs them.

        Raises:
            ZooError: the recipe asks for images that are not there, or they cannot be used.
        """
        source = source or checked_source(recipe)
        if needs_unlabeled is None:
            needs_unlabeled = METHODS[recipe.method.name].needs_unlabeled
        partition = make_partition(
            source, recipe.data.partition, recipe.partition_seed, needs_unlabeled=needs_unlabeled
        )
        warn_of_hidden(partition, source)
        recipe = with_images(recipe, source, partition).for_classes(len(source.classes))
        if (size := recipe.network.encoder_size) and is_first():
            name = recipe.network.encoder
            log.info("network.encoder_size %dx%d: %s resizes images to its one size inside", *size, name)
        data = recipe.data.model_copy(update={"partition": partition.spec})
        recipe = recipe.model_copy(update={"data": data})
        rest, held_out = hold_out(recipe, partition)
        if held_out and not any(_has_labels(source, id_) for id_ in held_out):
            raise DatasetError(
                f"select_on {recipe.select_on}: got masks that are ignored throughout ({held_out[0]}), "
                f"expected classes in images that select: label them, hold out more, or give another --seed"
            )
        return cls(recipe, source, rest, held_out)

    @classmethod
    def read(cls, recipe: Recipe, folder: Path) -> TrainingData:
        """Return the data of a run that wrote its lists into a folder.

        Raises:
            ZooError: the lists cannot be read, or the images cannot be used.
        """
        source = checked_source(recipe)
        if not source.format.fits(recipe.data.format):
            raise DatasetError(
                f"{source.spec}: got {source.format}, expected {recipe.data.format}, on which the run was "
                f"started: correct channels and dtype, or train again"
            )
        held_out = read_held_out(folder) if recipe.select_on else ()
        return cls(recipe, source, Partition.read(folder), held_out)

    def without(self, added: Iterable[str]) -> TrainingData:
        """Return the data without images of `val` that were added since the run began."""
        ids, new = self.source.ids("val"), frozenset(added)
        kept = [id_ for id_ in ids if id_ not in new]
        return self if len(kept) == len(ids) else replace(self, source=Subset(self.source, "val", kept))

    def write(self, folder: Path) -> None:
        """Write the lists of images into a folder."""
        self.partition.write(folder)
        write_held_out(folder, self.held_out)

    def for_phases(self, phases: tuple[Phase, ...]) -> TrainingData:
        """Return the data with the tags that the recipe names, if a phase learns any.

        Raises:
            ZooError: a phase needs images of a kind that are not there, or the tags cannot be used.
        """
        whole = replace(self.partition, labeled=(*self.partition.labeled, *self.held_out))
        check_streams(self.recipe, whole, phases)
        tags = self.recipe.data.tags
        learns_tags = any(phase.tags for phase in phases)
        known = self._without_void() if learns_tags else self
        if tags is None:
            return known
        if not learns_tags:
            log.warning("data.tags %s is not used: %s learns no tags", tags, self.recipe.method.name)
            return self
        found = with_tags(whole, Path(tags), self.source).tags
        return replace(known, partition=replace(known.partition, tags=found))

    def _without_void(self) -> TrainingData:
        """Return the data without labeled images whose masks are ignored throughout: no tag of them is known.

        Raises:
            DatasetError: no image is left.
        """
        labeled = self.partition.labeled
        with ThreadPoolExecutor() as pool:
            shows = list(pool.map(partial(_has_labels, self.source), labeled))
        void = [id_ for id_, is_shown in zip(labeled, shows, strict=True) if not is_shown]
        if not void:
            return self
        if len(void) == len(labeled):
            raise DatasetError(f"{self.source.spec}: got masks that are ignored throughout, expected classes")
        log.warning("%d images are left out, whose masks are ignored throughout: %s", len(void), void[0])
        rest = tuple(id_ for id_ in labeled if id_ not in set(void))
        return replace(self, partition=replace(self.partition, labeled=rest))

    @property
    def selection(self) -> Source | None:
        """Return the source whose `val` chooses the step that is kept; None if the last one is kept."""
        return HeldOut(self.source, self.held_out) if self.held_out else None


def _has_labels(source: Source, id_: str) -> bool:
    """Return whether any pixel of a mask has a class."""
    return bool((source.read_mask(id_) != IGNORE).any())


class HeldOut(Subset):
    """Held-out images of a source as its split `val`, the only one."""

    others = False

    def __init__(self, source: Source, held_out: tuple[str, ...]) -> None:
        super().__init__(source, "val", held_out)


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
        write_text(folder / HELD_OUT_NAME, "".join(f"{id_}\n" for id_ in held_out))


def read_held_out(folder: Path) -> tuple[str, ...]:
    """Return the list of held-out images.

    Raises:
        DatasetError: the list is missing or empty.
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


def with_images(recipe: Recipe, source: Source, partition: Partition) -> Recipe:
    """Return the recipe for the images of its data; those that are not 8-bit RGB are measured on the pool.

    A recipe with statistics, from a start that was interrupted or from the models that a run starts from,
    keeps them.

    Raises:
        RecipeError: the models that a run starts from take other images, or statistics are set for RGB.
    """
    data, format_ = recipe.data, source.format
    if recipe.start_from and not format_.fits(data.format):
        raise RecipeError(
            f"start_from: {recipe.start_from[0]} takes images of {data.format}, got data of {format_}: start "
            f"from a model of such images, or leave it out"
        )
    if format_.is_rgb:
        return recipe
    if (data.mean or data.std) and not data.format.fits(format_):
        raise RecipeError(
            f"data.mean and data.std: got {data.mean} and {data.std}, but those of {format_} are measured "
            f"on the images: leave them out"
        )
    if data.mean is not None and data.std is not None:
        measured = Measured(data.format, data.mean, data.std, 0)
    else:
        measured = measure(source, (*partition.labeled, *partition.unlabeled))
        if is_first():
            log.info("images: %s", measured)
    recipe = recipe.for_images(measured)
    if is_first():
        _say_adapted(recipe)
    return recipe


def _say_adapted(recipe: Recipe) -> None:
    """Log how a run differs because its images are not 8-bit RGB."""
    channels, augment = recipe.network.in_channels, recipe.data.augment
    is_loaded = (recipe.pretrained or recipe.encoder_weights) and not recipe.start_from
    if channels != RGB.channels and is_loaded and recipe.network.encoder not in ENCODERS:
        how = "summed" if channels == 1 else f"repeated over the channels and scaled by 3/{channels}"
        log.info("first convolution: RGB weights %s", how)
    if skipped := skipped_augmentations(augment, recipe.data.format):
        log.info("augmentation of %d channels: without %s", channels, ", ".join(skipped))


def checked_source(recipe: Recipe) -> Source:
    """Return the data of a recipe after a check that reads every file once.

    Raises:
        ZooError: the recipe names no data, or they cannot be used.
    """
    if not recipe.data.spec:
        raise RecipeError(f"recipe {recipe.recipe} names no data, expected some: give --data FOLDER")
    source = open_source(recipe.data.spec)
    check_source(source)
    return source


def check_streams(recipe: Recipe, partition: Partition, phases: tuple[Phase, ...]) -> None:
    """Raise unless the data provide the images that the phases need.

    Raises:
        RecipeError: no unlabeled images, or cropped images where whole ones are needed.
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
    if any(phase.tags for phase in phases) and data.rare_classes:
        raise RecipeError(
            f"{recipe.method.name} learns which classes an image shows, got data.rare_classes "
            f"{data.rare_classes:g}, which crops it for one of them: leave it out"
        )
    if any(phase.tags for phase in phases) and data.labeled_view != "weak":
        raise RecipeError(
            f"{recipe.method.name} learns which classes an image shows, got data.labeled_view "
            f"{data.labeled_view}, which mixes images: leave it out"
        )


def warn_of_hidden(partition: Partition, source: Source) -> None:
    """Warn if the default partition hides masks, and of how many."""
    note = partition.hidden_note(source.spec)
    if note is not None and is_first():
        log.warning("warning: %s", note)
