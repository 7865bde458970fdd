"""Images that may be labeled next, and images that are labeled."""

from __future__ import annotations

import filecmp
import logging
import sys
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from zoo.data.annotations import Images
from zoo.data.data_file import DATA_FILE
from zoo.data.files import FileSource
from zoo.data.folder import FolderSource, inner
from zoo.data.open import open_source
from zoo.data.outside import check_outside
from zoo.data.partition import FULL, Partition, make_partition
from zoo.errors import DatasetError, ZooError
from zoo.predict.inputs import find_inputs, is_source
from zoo.train.runs.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zoo.data.source import Source

log = logging.getLogger(__name__)

SPLITS = ("train", "unlabeled")


class Item(NamedTuple):
    """An image.

    Args:
        name: id in a data set, or path.
        relative: path of its file in the folder of images to label.
        path: path of its file; None if it is drawn.
        read: function that returns the image, (H, W, 3) uint8 RGB.
        train_id: id once it has a mask.
    """

    name: str
    relative: str
    path: Path | None
    read: Callable[[], NDArray[np.uint8]]
    train_id: str


class Pool(NamedTuple):
    """Candidates, and images whose copies are not to be chosen.

    Args:
        candidates: images without a mask that is used.
        labeled: images with one.
        held_out: images of `val`.
    """

    candidates: list[Item]
    labeled: list[Item]
    held_out: Sequence[Item] = ()


class Known(NamedTuple):
    """What is labeled.

    Args:
        run: folder of the run that trained the model; None if it is not known.
        spec: data set whose masks are the labels; None for a pool that is a data set, or that of the run.
        partition: training images that count as labeled; None for those of the run, or else all.
    """

    run: Path | None = None
    spec: str | None = None
    partition: str | None = None


def open_pool(text: str, known: Known, out: Path) -> Pool:
    """Return the images of a pool.

    Args:
        text: data set whose images without masks are the candidates, or a folder or pattern of images.
        known: what is labeled.
        out: output folder, which is not searched.

    Raises:
        ZooError: a pool without candidates.
    """
    if _is_data(text):
        if known.spec is not None:
            raise ZooError(
                f"--labeled {known.spec}: got it beside the data set {text}, expected it for a folder of "
                f"images alone: leave it out, the masks of the data set are its labels"
            )
        source = open_source(text)
        check_outside(out, source)
        used, others = _divided(source, known)
        if not others:
            raise DatasetError(
                f"{text}: got masks for all {len(used)} images, expected some without: add them in "
                f"unlabeled/, or say with --partition which masks count as labels"
            )
        return Pool(_items(source, others), _items(source, used), _items(source, source.ids("val")))
    known_source = _known_source(known)
    unlabeled = _unlabeled(known_source)
    candidates = []
    for one in find_inputs([text], sys.maxsize, out):
        relative = PurePosixPath(one.outputs[2])
        path = Path(one.path or one.name)
        train_id = f"train/{_place(relative, path, unlabeled)}"
        candidates.append(Item(one.name, str(relative), path, one.read, train_id))
    if known_source is None:
        return Pool(candidates, [])
    used, _ = _divided(known_source, known)
    return Pool(candidates, _items(known_source, used), _items(known_source, known_source.ids("val")))


def _unlabeled(source: Source | None) -> Images | None:
    """Return the images in the folder `unlabeled` of a data set; None if it has no such folder."""
    if not isinstance(source, FolderSource):
        return None
    return Images(inner(source.root / source.data.unlabeled))


def _place(relative: PurePosixPath, path: Path, unlabeled: Images | None) -> str:
    """Return the id of an image in `train` after its import, which moves its copy in `unlabeled`, if any."""
    if unlabeled is not None:
        try:
            match = unlabeled.find(str(relative), path)
        except DatasetError:  # several of this name: the import names them
            match = None
        if match is not None and filecmp.cmp(match.image, path, shallow=False):
            return match.image.relative_to(unlabeled.folder).with_suffix("").as_posix()
    return str(relative.with_suffix(""))


def _known_source(known: Known) -> Source | None:
    """Return the data set with the labeled images beside a pool that is a folder of images."""
    spec = known.spec
    if spec is None and known.run is not None:
        recipe, _ = RunFolder(known.run).read_recipe()
        spec = recipe.data.spec
    if spec is None:
        log.warning(
            "no labeled images are known: the choice may contain some of them; name them with --labeled DATA"
        )
        return None
    return open_source(spec)


def _divided(source: Source, known: Known) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids of the labeled and of the unlabeled images of a data set."""
    if known.partition is None and known.run is not None:
        recipe, _ = RunFolder(known.run).read_recipe()
        recorded = Partition.read(RunFolder(known.run).partition)
        is_same = Path(recipe.data.spec).resolve() == Path(source.spec).resolve()
        if is_same and recorded.spec != FULL:  # masks that were added since are hidden too
            used = set(recorded.labeled)
            ids = [id_ for split in SPLITS for id_ in source.ids(split)]  # type: ignore[arg-type]
            return tuple(id_ for id_ in ids if id_ in used), tuple(id_ for id_ in ids if id_ not in used)
    partition = make_partition(source, known.partition or FULL, seed=0)
    return partition.labeled, partition.unlabeled


def _is_data(text: str) -> bool:
    """Return whether a pool is a data set rather than images."""
    return is_source(text) or (Path(text) / DATA_FILE).is_file() or (Path(text) / "train").is_dir()


def _items(source: Source, ids: Sequence[str]) -> list[Item]:
    """Return images of a data set, named without the folder of their split where that is unique."""
    paths = {id_: source.files[id_].image if isinstance(source, FileSource) else None for id_ in ids}
    suffixes = {id_: ".png" if path is None else path.suffix for id_, path in paths.items()}
    short = {id_: _without_split(id_) + suffixes[id_] for id_ in ids}
    seen: set[str] = set()
    again = {name for name in short.values() if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
    return [
        Item(
            id_,
            f"{id_}{suffixes[id_]}" if short[id_] in again else short[id_],
            paths[id_],
            partial(source.read_image, id_),
            f"train/{short_id}" if id_ != (short_id := _without_split(id_)) else id_,
        )
        for id_ in ids
    ]


def _without_split(id_: str) -> str:
    split, slash, rest = id_.partition("/")
    return rest if slash and split in SPLITS else id_
