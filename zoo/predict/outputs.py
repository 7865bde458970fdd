"""Result files of `zoo predict` for an image: mask, overlay and other outputs, with their journal line."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import ZooError
from zoo.predict.journal import NAME, listed, written_of
from zoo.predictors.outputs import (
    MASK,
    MAX_VALUE,
    OUTPUTS,
    RELIABILITY,
    draw_output,
    without_unsure,
    written_outputs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from zoo.classes import Classes
    from zoo.predict.inputs import Input
    from zoo.predict.stream import Streamed

UNKNOWN = "unknown"
"""Name of the pixels without a class, in the journal."""

log = logging.getLogger(__name__)

OVERLAY = "overlay"
"""Kind of the results that are drawn; the other kinds are names of outputs."""


def files() -> dict[str, str]:
    """Return the suffix of each kind of result: the mask, its overlay, then the other outputs."""
    return {MASK: OUTPUTS[MASK].suffix, OVERLAY: ".overlay.png"} | written_outputs()


def of_videos() -> dict[str, str]:
    """Return the suffix of each kind of result of a video."""
    return {kind: f".{kind}.mkv" for kind in files()} | {OVERLAY: ".overlay.mp4"}


def of_scenes() -> dict[str, str]:
    """Return the suffix of each kind of result of a TIFF that is read by rows."""
    return {kind: f".{kind}.tif" for kind in files()}


class FileStamp(NamedTuple):
    """Size and modification time of a file, to detect changes."""

    bytes: int
    mtime_ns: int


class Job(NamedTuple):
    """An image or a video, and the names of its results.

    Args:
        input: image to predict.
        name: path of its results inside the output folder, without suffix.
        stamp: stamp of its file before it is read; None if the image has no file.
        suffixes: suffix of each kind of result.
    """

    input: Input
    name: str
    stamp: FileStamp | None
    suffixes: Mapping[str, str]

    def file(self, kind: str) -> str:
        """Return the name of a result."""
        return f"{self.name}{self.suffixes[kind]}"


def make_jobs(inputs: Sequence[Input], out: Path, kinds: Sequence[str]) -> list[Job]:
    """Return a job for each input, with names such that no result overwrites another or an input.

    Results are named by the stem of their input below its INPUT folder. If two names collide, all results are
    named by their path from the common parent of all inputs, and if necessary with the suffix of the input.

    Args:
        inputs: images to predict.
        out: output folder.
        kinds: kinds of the requested results.

    Raises:
        ZooError: a result would overwrite an input.
    """
    of_images, of_video, of_scene = files(), of_videos(), of_scenes()
    suffixes = [
        of_scene if input_.is_scene else of_images if input_.video is None else of_video for input_ in inputs
    ]
    for level in range(3):
        names = [input_.outputs[level] for input_ in inputs]
        targets = [f"{name}{of[kind]}" for name, of in zip(names, suffixes, strict=True) for kind in kinds]
        if len(set(map(str.casefold, targets))) == len(targets):
            break
    if level:
        log.info("some images share a name: results are named by more of their path, as %s", out / names[0])
    found = [_stat(input_.path) for input_ in inputs]
    originals = {(stat.st_dev, stat.st_ino) for stat in found if stat is not None}
    for target in (f"{out}{os.sep}{name}" for name in targets):
        stat = _stat(target)
        if stat is not None and (stat.st_dev, stat.st_ino) in originals:
            raise ZooError(
                f"the result {Path(target)} would replace an input: choose another folder with --out"
            )
    stamps = [None if stat is None else FileStamp(stat.st_size, stat.st_mtime_ns) for stat in found]
    return [Job(*parts) for parts in zip(inputs, names, stamps, suffixes, strict=True)]


def _stat(path: str | None) -> os.stat_result | None:
    try:
        return None if path is None else os.stat(path)  # noqa: PTH116 - of 100,000 names
    except OSError:
        return None


class Result(NamedTuple):
    """Result of an image.

    Args:
        record: its line in the journal.
        files: path of the temporary file and SHA-256 of each output, by kind.
    """

    record: dict[str, Any]
    files: dict[str, tuple[str, str]]

    def discard(self) -> None:
        """Remove the temporary files."""
        for temporary, _ in self.files.values():
            Path(temporary).unlink(missing_ok=True)


def write_result(
    result: Streamed[Job],
    out: Path,
    kinds: Sequence[str],
    classes: Classes,
    unknown_below: float | None = None,
) -> Result:
    """Return the result of an image, with its outputs written to temporary files in their final folder.

    Args:
        result: prediction with the outputs of all kinds, and the image if `OVERLAY` is one of them.
        out: output folder.
        kinds: kinds of the requested results, including `MASK`.
        classes: classes of the mask.
        unknown_below: reliability below which a pixel of the mask is `IGNORE`; None for no such pixel.

    Raises:
        OSError: a file cannot be written; no temporary file is left.
    """
    from PIL import Image

    from zoo.pages.overlay import areas, picture

    job = result.item
    found = dict(result.prediction().outputs)
    facts = _reliability(found.get(RELIABILITY))
    if unknown_below is not None:
        found[MASK] = without_unsure(found, unknown_below)
    mask = found[MASK]
    names = {kind: job.file(kind) for kind in kinds}
    with new_files(names, out) as (paths, written):
        for name in paths.keys() & found.keys():
            write_output(paths[name], name, found[name], classes)
        if result.image is not None:
            write_png(paths[OVERLAY], Image.fromarray(picture(result.image, mask, classes)))
    record = {
        **describe(job),
        "size": list(mask.shape),
        "areas": named_areas(areas(mask), classes),
        **facts,
        "ms": result.seconds * 1000,
        **{kind: names.get(kind) for kind in files()},
    }
    return Result(record, written)


@contextmanager
def new_files(
    names: Mapping[str, str], out: Path
) -> Iterator[tuple[dict[str, Path], dict[str, tuple[str, str]]]]:
    """Provide temporary paths for the files of a result; after the block, also their SHA-256.

    Args:
        names: names of the files by kind.
        out: output folder.

    Yields:
        paths: temporary path by kind.
        written: path and SHA-256 by kind, once the block has written the files.
    """
    from zoo.bundle.bundle import temporary_name
    from zoo.bundle.manifest import sha256

    paths = {kind: temporary_name(out / name) for kind, name in names.items()}
    paths[MASK].parent.mkdir(parents=True, exist_ok=True)
    written: dict[str, tuple[str, str]] = {}
    try:
        yield paths, written
        written |= {kind: (str(path), sha256(path)) for kind, path in paths.items()}
    except BaseException:
        for path in paths.values():
            path.unlink(missing_ok=True)
        raise


def named_areas(shares: Mapping[int, float], classes: Classes) -> dict[str, float]:
    """Return the shares of labels by the name of their class."""
    return {_label_name(label, classes): share for label, share in shares.items()}


def _reliability(values: NDArray[np.uint8] | None) -> dict[str, float]:
    """Return mean and lowest decile of a reliability, 0..1, for the journal; empty without one."""
    if values is None:
        return {}
    import numpy as np

    mean, low = values.mean(), np.percentile(values, 10)
    return {
        "reliability_mean": round(float(mean) / MAX_VALUE, 4),
        "reliability_lowest_decile": round(float(low) / MAX_VALUE, 4),
    }


def _label_name(label: int, classes: Classes) -> str:
    return classes.names[label] if label < len(classes) else UNKNOWN


def describe(job: Job) -> dict[str, Any]:
    """Return path and stamp of the input of a job; without them for data of a source, or a live stream."""
    stamp = job.stamp._asdict() if job.stamp else {"bytes": None, "mtime_ns": None}
    return {"input": job.input.path or job.input.name, **stamp}


def is_done(job: Job, record: dict[str, Any], out: Path, kinds: Sequence[str]) -> bool:
    """Return whether the results in a journal line exist and the input is unchanged since.

    Results that were edited by hand count as existing. Results of an earlier prediction do not: a run was
    killed after writing the line and before replacing the file.
    """
    same = job.stamp is not None and describe(job).items() <= record.items()
    if not same:
        return False
    written = written_of(record)
    return all(record.get(kind) and _is_there(out, record[kind], written.get(kind)) for kind in kinds)


def _is_there(out: Path, name: str, hashes: list[str] | None) -> bool:
    from zoo.outputs import is_unchanged

    stat = _stat(f"{out}{os.sep}{name}")
    return stat is not None and stat.st_size > 0 and not is_unchanged(out / name, (hashes or [])[1:])


def earlier_outputs(
    job: Job, record: dict[str, Any] | None, out: Path, kinds: Sequence[str]
) -> tuple[list[str], list[Path]]:
    """Return the results in the way of a job.

    Args:
        job: image to predict.
        record: last line of its mask in the journal; None if there is none.
        out: output folder.
        kinds: kinds of the requested results.

    Returns:
        foreign: names of files that the job would overwrite and `zoo predict` did not write.
        outdated: paths of results of an earlier prediction, as it wrote them, that the job does not replace.
    """
    from zoo.outputs import is_unchanged

    written = written_of(record)
    foreign: list[str] = []
    outdated: list[Path] = []
    for kind in job.suffixes:
        name = job.file(kind)
        if not os.path.lexists(f"{out}{os.sep}{name}"):  # of 100,000 names
            continue
        is_ours = is_unchanged(out / name, written.get(kind, ()))
        if kind in kinds and not is_ours:
            foreign.append(name)
        elif kind not in kinds and is_ours:
            outdated.append(out / name)
    return foreign, outdated


def results_in(out: Path) -> frozenset[str]:
    """Return the files that `zoo predict` wrote to a folder: its journal and the results listed in it."""
    results = {NAME}
    of_kinds = (of_videos(), of_scenes(), files())
    for record in listed(out):
        mask = record["mask"]
        suffixes = next((each for each in of_kinds if mask.endswith(each[MASK])), of_kinds[-1])
        name = mask.removesuffix(suffixes[MASK])
        results |= {f"{name}{suffixes[kind]}" for kind in written_of(record) if kind in suffixes}
    return frozenset(results)


def write_output(path: Path, name: str, values: NDArray[Any], classes: Classes) -> None:
    """Write an output as PNG.

    Args:
        path: path in an existing folder.
        name: name of the output.
        values: (H, W) values of the output.
        classes: classes whose colors a mask gets.
    """
    path.write_bytes(draw_output(name, values, classes))


def write_png(path: Path, image: Image.Image) -> None:
    """Write a PNG.

    Args:
        path: path in an existing folder.
        image: image of any mode that PNG supports.
    """
    image.save(path, format="PNG")
