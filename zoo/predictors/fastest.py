"""Choice of the fastest backend of a bundle on this CPU, by measurement, which its folder keeps."""

from __future__ import annotations

import logging
import time
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from zoo.bundle.bundle import load_config, write_json
from zoo.bundle.manifest import sha256
from zoo.errors import BundleError, ZooError
from zoo.frozen import Frozen
from zoo.machine import cores, cpu_model, int8_overflows
from zoo.predictors.backends import BACKENDS, ONNX, files_of, versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from zoo.predictors.artifact import Precision
    from zoo.predictors.base import Predictor

log = logging.getLogger(__name__)

RECORD_NAME = ".fastest.json"
"""File of the record in a bundle; hidden, because it holds for one machine and is no part of the model."""

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
ROUNDS = 20
MIN_ROUNDS = 5
SECONDS = 1.0
"""Time after which no round begins beyond `MIN_ROUNDS`."""


class Contestant(NamedTuple):
    """A backend and the precision of its file."""

    backend: str
    precision: Precision

    @property
    def name(self) -> str:
        """Return the name as in `zoo bench --backends`."""
        return f"{self.backend}:{self.precision}"


class Record(Frozen):
    """Measured latencies, and what they depend on.

    Args:
        cpu: model of the processor.
        threads: number of CPU threads.
        versions: versions of the runtimes.
        files: SHA-256 of each file that a contestant runs, by name.
        ms: median milliseconds of an image, by name of the contestant.
    """

    cpu: str
    threads: int
    versions: dict[str, str | None]
    files: dict[str, str]
    ms: dict[str, float]


def fastest(bundle: Path, threads: int | None = None, precision: Precision | None = None) -> Contestant:
    """Return the fastest contestant of a bundle; it is measured unless the bundle has a valid record.

    The record is written if the folder allows it.

    Args:
        bundle: bundle folder.
        threads: number of CPU threads; None for one on each core.
        precision: precision of the file; None for any of `PRECISIONS`.

    Raises:
        BundleError: not a bundle, or none of its files runs here.
    """
    if (found := recorded(bundle, threads, precision)) is not None:
        return found
    ms = measure(bundle, threads)
    try:
        record(bundle, threads, ms)
    except BundleError as error:
        log.info("measured again at the next load: %s", error)
    if (best := _best(contestants(bundle), ms, precision)) is None:
        raise BundleError(f"{bundle} has no file in {precision} that runs on this CPU: zoo export {bundle}")
    return best


def recorded(
    bundle: Path, threads: int | None = None, precision: Precision | None = None
) -> Contestant | None:
    """Return the fastest contestant by the bundle's record; None without one that holds here."""
    path = bundle / RECORD_NAME
    if not path.is_file():
        return None
    try:
        found = Record.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        log.warning("%s is ignored, it is no record of zoo bench --choose: %s", path, type(error).__name__)
        return None
    if found != _record(bundle, threads, found.ms):
        log.info("%s is ignored: it is of another processor, number of threads, version or file", path)
        return None
    return _best(contestants(bundle), found.ms, precision)


def record(bundle: Path, threads: int | None, ms: Mapping[str, float]) -> Contestant:
    """Write measured latencies into a bundle, and return the fastest contestant.

    Args:
        bundle: bundle folder.
        threads: number of CPU threads; None for one on each core.
        ms: median milliseconds by name; names of other backends and precisions are left out.

    Raises:
        BundleError: no file was measured, or the folder cannot be written.
    """
    known = [each for each in contestants(bundle) if each.name in ms]
    if (best := _best(known, ms)) is None:
        raise BundleError(f"{bundle} has no exported file that runs on this CPU: zoo export {bundle} first")
    path = bundle / RECORD_NAME
    try:
        write_json(path, _record(bundle, threads, {each.name: ms[each.name] for each in known}).model_dump())
    except OSError as error:
        raise BundleError(
            f"{path} cannot be written ({error.strerror}): use a bundle in a folder of yours"
        ) from error
    return best


def contestants(bundle: Path) -> list[Contestant]:
    """Return the installed backends of the CPU that run a bundle's ONNX files, one for each file.

    OpenVINO's sums of int8 products overflow on x86 processors without VNNI, which changes the masks.
    """
    overflows = int8_overflows()
    return [
        Contestant(name, precision)
        for name, row in BACKENDS.items()
        if row.suffix == ONNX and "cpu" in row.rank and row.is_installed
        for precision, _ in files_of(name, bundle)
        if precision in PRECISIONS and not (overflows and (name, precision) == ("openvino", "int8"))
    ]


def measure(bundle: Path, threads: int | None = None) -> dict[str, float]:
    """Return the median milliseconds of one image of the network's size, by name of the contestant.

    They take turns, so that other work on the machine slows all of them. What fails is left out.

    Raises:
        BundleError: not a bundle, or nothing runs; the message has the reasons.
    """
    load_config(bundle)
    predictors: dict[str, Predictor] = {}
    failed: list[str] = []
    for each in contestants(bundle):
        try:
            predictors[each.name] = _ready(bundle, each, threads)
        except ZooError as error:
            failed.append(f"{each.name}: {error}")
            log.warning("left out of the comparison: %s", failed[-1])
    if not predictors:
        reasons = "; ".join(failed) or "no exported file"
        raise BundleError(f"{bundle} has nothing to compare on this CPU ({reasons}): zoo export {bundle}")
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    end = time.perf_counter() + SECONDS
    for number in range(ROUNDS if len(predictors) > 1 else 1):
        if number >= MIN_ROUNDS and time.perf_counter() > end:
            break
        for name, predictor in predictors.items():
            begin = time.perf_counter()
            predictor.run(predictor.blank())
            seconds[name].append(time.perf_counter() - begin)
    return {name: 1000 * median(values) for name, values in seconds.items()}


def _ready(bundle: Path, each: Contestant, threads: int | None) -> Predictor:
    """Return a loaded predictor that has run once."""
    from zoo.predictors.load import load_predictor

    predictor = load_predictor(bundle, backend=each.backend, threads=threads, precision=each.precision)
    predictor.run(predictor.blank())
    return predictor


def _best(
    found: Sequence[Contestant], ms: Mapping[str, float], precision: Precision | None = None
) -> Contestant | None:
    known = [each for each in found if each.name in ms and precision in (None, each.precision)]
    return min(known, key=lambda each: ms[each.name], default=None)


def _record(bundle: Path, threads: int | None, ms: Mapping[str, float]) -> Record:
    """Return a record of this machine and of the files that the bundle has now."""
    backends = {each.backend for each in contestants(bundle)}
    packages = {package for name in backends for package in BACKENDS[name].packages}
    paths = {path for name in backends for _, path in files_of(name, bundle)}
    return Record(
        cpu=cpu_model(),
        threads=threads or cores(),
        versions={name: version for name, version in versions().items() if name in packages},
        files={path.name: sha256(path) for path in sorted(paths)},
        ms=dict(ms),
    )
