"""What `zoo predict` writes for an image: mask, overlay, confidence, and what there is to tell of them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from zoo.classes import Classes, Mask
    from zoo.predict.inputs import Input
    from zoo.predict.stream import Streamed

log = logging.getLogger(__name__)

MASK, OVERLAY, CONFIDENCE = ".png", ".overlay.png", ".confidence.png"
FILES = {"mask": MASK, "overlay": OVERLAY, "confidence": CONFIDENCE}


class Stamp(NamedTuple):
    """What tells a file from one that was changed."""

    bytes: int
    mtime_ns: int


class Job(NamedTuple):
    """An image and the place of its results.

    Args:
        input: the image.
        name: of its results, without suffix, inside the folder of all results.
        stamp: of its file before it is read; None if it has none.
    """

    input: Input
    name: str
    stamp: Stamp | None


def make_jobs(inputs: Sequence[Input], out: Path, suffixes: Sequence[str]) -> list[Job]:
    """Return a job for each input, so that no result is written over another or over an input.

    Results are named by stem, below the folder that was given; where two would meet, all are named by their
    path from the folder above all inputs, and if that is not enough with their suffix.

    Args:
        inputs: the images.
        out: folder of the results.
        suffixes: of the results.

    Raises:
        ZooError: a result would replace an input.
    """
    for level in range(3):
        names = [input_.outputs[level] for input_ in inputs]
        targets = {f"{name}{suffix}".casefold() for name in names for suffix in suffixes}
        if len(targets) == len(names) * len(suffixes):
            break
    if level:
        log.info("some images share a name: results are named by more of their path, as %s", out / names[0])
    found = [_stat(input_.path) for input_ in inputs]
    originals = {(stat.st_dev, stat.st_ino) for stat in found if stat is not None}
    for target in (f"{out}{os.sep}{name}{suffix}" for name in names for suffix in suffixes):
        stat = _stat(target)
        if stat is not None and (stat.st_dev, stat.st_ino) in originals:
            raise ZooError(
                f"the result {Path(target)} would replace an input: choose another folder with --out"
            )
    stamps = [None if stat is None else Stamp(stat.st_size, stat.st_mtime_ns) for stat in found]
    return [Job(*parts) for parts in zip(inputs, names, stamps, strict=True)]


def _stat(path: str | None) -> os.stat_result | None:
    try:
        return None if path is None else os.stat(path)  # noqa: PTH116 - of 100,000 names
    except OSError:
        return None


def write_result(
    result: Streamed[Job], out: Path, suffixes: Sequence[str], classes: Classes
) -> dict[str, Any]:
    """Write the mask of an image and what else is wanted, and return what there is to tell.

    Args:
        result: of the image; with the image if `OVERLAY` is wanted, with confidence if `CONFIDENCE` is.
        out: folder of all results.
        suffixes: of the results: `MASK`, `OVERLAY`, `CONFIDENCE`.
        classes: of the mask.

    Raises:
        OSError: a file cannot be written; none is left half-written.
    """
    from PIL import Image

    from zoo.pages.overlay import areas, picture

    job = result.item
    mask, confidence = result.prediction()
    paths = {suffix: out / f"{job.name}{suffix}" for suffix in suffixes}
    paths[MASK].parent.mkdir(parents=True, exist_ok=True)
    if confidence is not None:
        write_png(paths[CONFIDENCE], Image.fromarray(confidence))
    if result.image is not None:
        write_png(paths[OVERLAY], Image.fromarray(picture(result.image, mask, classes)))
    write_mask(paths[MASK], mask, classes)
    return {
        **describe(job),
        "size": list(mask.shape),
        "areas": {classes.names[label]: share for label, share in areas(mask).items()},
        "ms": result.seconds * 1000,
        **{kind: f"{job.name}{suffix}" if suffix in paths else None for kind, suffix in FILES.items()},
    }


def describe(job: Job) -> dict[str, Any]:
    """Return which file a result is of, and in which state."""
    stamp = job.stamp._asdict() if job.stamp else {"bytes": None, "mtime_ns": None}
    return {"input": job.input.path or job.input.name, **stamp}


def is_done(job: Job, record: dict[str, Any], out: Path, suffixes: Sequence[str]) -> bool:
    """Return whether the results that a record tells of are there, and of the file as it is now."""
    wanted = [kind for kind, suffix in FILES.items() if suffix in suffixes]
    same = job.stamp is not None and describe(job).items() <= record.items()
    if not same or not all(record[kind] for kind in wanted):
        return False
    found = (_stat(f"{out}{os.sep}{job.name}{suffix}") for suffix in suffixes)
    return all(stat is not None and stat.st_size > 0 for stat in found)


def write_mask(path: Path, mask: Mask, classes: Classes) -> None:
    """Write a mask as PNG at once or not at all; see `zoo.images.mask_png`.

    Args:
        path: in a folder that exists.
        mask: (H, W), labels.
        classes: whose colours become the palette.
    """
    from zoo.bundle.bundle import replacing
    from zoo.images import mask_png

    with replacing(path) as temporary:
        temporary.write_bytes(mask_png(mask, classes))


def write_png(path: Path, image: Image.Image) -> None:
    """Write a PNG at once or not at all.

    Args:
        path: in a folder that exists.
        image: of any mode of PNG.
    """
    from zoo.bundle.bundle import replacing

    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
