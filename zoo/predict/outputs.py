"""What `zoo predict` writes for an image: mask, overlay, other outputs, and what there is to tell of them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import ZooError
from zoo.predict.journal import NAME, listed, written_of
from zoo.predictors import outputs
from zoo.predictors.outputs import OUTPUTS, draw_output, written_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from zoo.classes import Classes
    from zoo.predict.inputs import Input
    from zoo.predict.stream import Streamed

log = logging.getLogger(__name__)

MASK, OVERLAY = OUTPUTS[outputs.MASK].suffix, ".overlay.png"
"""Suffixes; the other outputs have theirs in the table."""


def files() -> dict[str, str]:
    """Return the suffix of each kind of result: the mask, its overlay, then the other outputs."""
    return {outputs.MASK: MASK, "overlay": OVERLAY} | written_outputs()


def outputs_of(suffixes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the outputs that results of these suffixes are drawn from."""
    return tuple(name for name, suffix in written_outputs().items() if suffix in suffixes)


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


class Result(NamedTuple):
    """What an image gave.

    Args:
        record: its line in the journal.
        files: path of the temporary file and SHA-256 of each output, by kind; see `files`.
    """

    record: dict[str, Any]
    files: dict[str, tuple[str, str]]

    def discard(self) -> None:
        """Remove the temporary files."""
        for temporary, _ in self.files.values():
            Path(temporary).unlink(missing_ok=True)


def write_result(result: Streamed[Job], out: Path, suffixes: Sequence[str], classes: Classes) -> Result:
    """Write the mask of an image and what else is wanted to temporary files beside their places.

    Args:
        result: of the image; with the image if `OVERLAY` is wanted, with the outputs of all other suffixes.
        out: folder of all results.
        suffixes: of the results, `MASK` among them.
        classes: of the mask.

    Raises:
        OSError: a file cannot be written; none is left.
    """
    from PIL import Image

    from zoo.bundle.bundle import temporary_name
    from zoo.bundle.manifest import sha256
    from zoo.pages.overlay import areas, picture

    job = result.item
    found = dict(result.prediction().outputs)
    mask = found[outputs.MASK]
    names = {kind: f"{job.name}{suffix}" for kind, suffix in files().items() if suffix in suffixes}
    paths = {kind: temporary_name(out / name) for kind, name in names.items()}
    paths[outputs.MASK].parent.mkdir(parents=True, exist_ok=True)
    try:
        for name, values in found.items():
            write_output(paths[name], name, values, classes)
        if result.image is not None:
            write_png(paths["overlay"], Image.fromarray(picture(result.image, mask, classes)))
        written = {kind: (str(path), sha256(path)) for kind, path in paths.items()}
    except BaseException:
        for path in paths.values():
            path.unlink(missing_ok=True)
        raise
    record = {
        **describe(job),
        "size": list(mask.shape),
        "areas": {classes.names[label]: share for label, share in areas(mask).items()},
        "ms": result.seconds * 1000,
        **{kind: names.get(kind) for kind in files()},
    }
    return Result(record, written)


def describe(job: Job) -> dict[str, Any]:
    """Return which file a result is of, and in which state."""
    stamp = job.stamp._asdict() if job.stamp else {"bytes": None, "mtime_ns": None}
    return {"input": job.input.path or job.input.name, **stamp}


def is_done(job: Job, record: dict[str, Any], out: Path, suffixes: Sequence[str]) -> bool:
    """Return whether the results that a line tells of are there, and of the file as it is now.

    One that was edited by hand is there. One of an earlier prediction is not: a run was killed after it wrote
    the line and before it replaced the file.
    """
    same = job.stamp is not None and describe(job).items() <= record.items()
    if not same:
        return False
    written = written_of(record)
    for kind, suffix in files().items():
        if suffix in suffixes and not (record.get(kind) and _is_there(out, record[kind], written.get(kind))):
            return False
    return True


def _is_there(out: Path, name: str, hashes: list[str] | None) -> bool:
    from zoo.outputs import is_unchanged

    stat = _stat(f"{out}{os.sep}{name}")
    return stat is not None and stat.st_size > 0 and not is_unchanged(out / name, (hashes or [])[1:])


def foreign_outputs(job: Job, record: dict[str, Any] | None, out: Path, suffixes: Sequence[str]) -> list[str]:
    """Return the results that a job would overwrite though `zoo predict` did not write what is there.

    Args:
        job: the image.
        record: the last line of its mask in the journal, None if there is none.
        out: folder of all results.
        suffixes: of the results.
    """
    from zoo.outputs import exists, is_unchanged

    written = written_of(record)
    names = {kind: f"{job.name}{suffix}" for kind, suffix in files().items() if suffix in suffixes}
    return [
        name
        for kind, name in names.items()
        if exists(out / name) and not is_unchanged(out / name, written.get(kind, ()))
    ]


def results_in(out: Path) -> frozenset[str]:
    """Return what `zoo predict` wrote to a folder: its journal, and the results that are listed there."""
    suffix_of = files()
    results = {
        f"{record['mask'].removesuffix(MASK)}{suffix_of[kind]}"
        for record in listed(out)
        for kind in written_of(record)
        if kind in suffix_of
    }
    return frozenset({NAME, *results})


def write_output(path: Path, name: str, values: NDArray[Any], classes: Classes) -> None:
    """Write the drawing of an output as PNG.

    Args:
        path: in a folder that exists.
        name: of the output.
        values: (H, W).
        classes: whose colors a mask has.
    """
    path.write_bytes(draw_output(name, values, classes))


def write_png(path: Path, image: Image.Image) -> None:
    """Write a PNG.

    Args:
        path: in a folder that exists.
        image: of any mode of PNG.
    """
    image.save(path, format="PNG")
