"""Check of every file of a source before training, so that a bad file does not end the run hours later."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from zoo.data.data_file import DataFile
from zoo.data.files import FileSource
from zoo.data.folder import FolderSource
from zoo.data.inspect.findings import faults, message
from zoo.data.inspect.interpretation import find_meaning
from zoo.data.inspect.judge import judge_mask, judge_published, judge_together, with_example
from zoo.data.inspect.meaning import meaning_of
from zoo.data.masks import DRAWN, read_mask
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoo.data.masks import NamedMask
    from zoo.data.source import Source, Split

log = logging.getLogger(__name__)

SPLITS: tuple[Split, ...] = ("train", "unlabeled", "val")
MASKED: tuple[Split, ...] = ("train", "val")


def check_source(source: Source, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Decode every image and mask, and raise the first error in the order of the ids.

    Masks are interpreted as `zoo data check` does: its faults are raised as errors, its warnings are logged.

    Args:
        source: source to check; one that draws its images has nothing to decode.
        on_progress: called with the number of ids read and their total.

    Raises:
        DatasetError: an empty train or val split, a file that cannot be read, a mask of another size than its
            image, values or colors without a class, masks that contradict each other or hide a class.
    """
    _say_skipped(source)
    _check_not_empty(source, "train")
    _check_not_empty(source, "val")
    if not isinstance(source, FileSource):
        return
    jobs = [(split, id_) for split in SPLITS for id_ in source.ids(split)]
    meaning, data = meaning_of(source), _description(source)
    masks: list[NamedMask] = []
    with ThreadPoolExecutor() as pool:
        # map, not as_completed: raises the first error in order, independent of thread timing
        for done, mask in enumerate(pool.map(lambda job: _check_id(source, *job), jobs), start=1):
            if mask is not None:
                for finding in faults(judge_mask(mask.name, mask.facts, meaning, data)):
                    others = (read_mask(split, source.files[id_]) for split, id_ in jobs if split in MASKED)
                    raise DatasetError(message(with_example(finding, others, meaning), source.spec))
                masks.append(mask)
            if on_progress:
                on_progress(done, len(jobs))
    if masks:
        _check_together(source, masks)


def _say_skipped(source: Source) -> None:
    """Log what the listing of a folder skipped, a line for each folder."""
    for folder, words in source.skipped.items() if isinstance(source, FolderSource) else ():
        log.warning("%s: skipped %s", folder, words)


def _check_not_empty(source: Source, split: Split) -> None:
    if not source.ids(split):
        raise DatasetError(
            f"{source.spec}: got no images in split {split}, expected at least one image with a mask: "
            f"add some to {split}/images and {split}/masks"
        )


def _check_id(source: FileSource, split: Split, id_: str) -> NamedMask | None:
    """Return the mask of an id; None if the id is unlabeled."""
    height, width, _ = source.read_image(id_).shape
    if split not in MASKED:
        return None
    mask = read_mask(split, source.files[id_])
    if mask.facts.size != (width, height):
        got = "{}x{}".format(*mask.facts.size)
        raise DatasetError(
            f"{mask.name}: got a mask of {got} pixels, expected {width}x{height} as its image: export it "
            f"again at the image's size"
        )
    return mask


def _check_together(source: FileSource, masks: Sequence[NamedMask]) -> None:
    """Raise the first fault that shows only across masks, or else log the warnings."""
    meaning, data = meaning_of(source), _description(source)
    if not isinstance(source, FolderSource):
        meaning = meaning._replace(findings=tuple(judge_published(masks, meaning, data)))
    elif masks[0].facts.mode != DRAWN:
        meaning = find_meaning(data, source.toml, masks)
    findings = [*meaning.findings, *judge_together(masks, meaning_of(source))]
    for finding in faults(findings):
        raise DatasetError(message(finding, source.spec, has_proposal=meaning.proposal is not None))
    for finding in findings:
        log.warning(message(finding, source.spec))


def _description(source: FileSource) -> DataFile:
    """Return the `data.toml` of a folder, or an equivalent one of a published data set."""
    return source.data if isinstance(source, FolderSource) else DataFile(names=list(source.classes.names))
