"""How fast each backend runs a model, measured so that the figures can be compared.

All backends of a model get the same real images, at the size the network sees, and all the same number of
CPU threads. Backends and models take turns, so that other work on the machine slows all of them.
A run takes uint8 images in host memory to uint8 masks in host memory and is timed by the host's clock
(`zoo.serve.timing`). The speed-up over eager PyTorch is a ratio of medians, with the range of the rounds' own
ratios. The agreement is the share of pixels that have the class they have in eager PyTorch's fp32 masks.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from logging import getLogger
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoo.bundle import find_bundle, load_config
from zoo.data.open import open_source
from zoo.errors import BundleError, DatasetError, ZooError
from zoo.predictors.load import BACKENDS_OF_BUNDLE, BACKENDS_OF_SUFFIX, load_predictor
from zoo.preprocess import resize_image
from zoo.serve.machine import compiler_for, cpu_threads, describe_machine, load_average, versions
from zoo.serve.measurement import Latency, Report, Row, Settings
from zoo.serve.timing import ROUNDS, RUNS_FOR_P99, Budget, Staged, time_in_turns, time_stages, warm_up

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.data.source import Source
    from zoo.predictors.base import Predictor
    from zoo.serve.timing import Rounds

    Images = NDArray[np.uint8]
    Masks = NDArray[np.uint8]

log = getLogger(__name__)

REFERENCE = "eager"
IMAGES = 16
"""Images that the agreement is taken on."""

FALLBACK = "shapes"
"""Where the images come from if the data that a model was trained on are not at hand."""

REASON_LENGTH = 240

Say = Callable[[str], None]


class Samples(NamedTuple):
    """The images that all backends get, and eager PyTorch's masks of them."""

    images: Images  # (N, H, W, 3) uint8
    truth: Masks | None  # (N, H, W) uint8

    def batch(self, size: int) -> Images:
        """Return the first `size` images; a small set is repeated."""
        return self.images[np.arange(size) % len(self.images)]

    def agreement(self, predictor: Predictor, size: int) -> float | None:
        """Return the share of pixels that get eager's class, in batches of `size`; None without `truth`."""
        if self.truth is None:
            return None
        count = math.ceil(len(self.images) / size) * size
        order = np.arange(count) % len(self.images)
        masks = np.concatenate([predictor.run(self.images[chunk]) for chunk in order.reshape(-1, size)])
        return float((masks == self.truth[order]).mean())


class Contender(NamedTuple):
    """A loaded backend, what it is measured on and what is known of it so far."""

    predictor: Predictor
    samples: Samples
    row: Row


def benchmark(models: Sequence[Path], settings: Settings, say: Say) -> Report:
    """Return the figures of all models on all backends; a backend that cannot run has a row with the reason.

    Args:
        models: bundle folders and artifacts.
        settings: see `Settings`.
        say: told what goes on.

    Raises:
        ZooError: no backend of any model can run here.
    """
    timestamp = datetime.now(UTC).isoformat(timespec="seconds")
    machine = describe_machine()
    with cpu_threads(settings.threads), compiler_for(len(models) * len(settings.batches)):
        loaded = [load_model(model, settings, say) for model in models]
        contenders = [contender for found, _ in loaded for contender in found]
        rows = [row for batch in settings.batches for row in measure(contenders, batch, settings, say)]
    rows += [row for _, failed in loaded for row in failed]
    order = [str(model) for model in models]
    rows.sort(key=lambda row: order.index(row.model))
    if all(row.latency_ms is None for row in rows):
        reasons = "; ".join(dict.fromkeys(f"{row.backend}: {row.reason}" for row in rows))
        raise ZooError(f"no backend can run here ({reasons}): choose one that can with --backends")
    return Report(
        timestamp=timestamp,
        command=shlex.join(["zoo", *sys.argv[1:]]),
        machine=machine | {"load_after": load_average()},
        versions=versions(),
        settings=settings,
        rows=tuple(rows),
    )


def load_model(model: Path, settings: Settings, say: Say) -> tuple[list[Contender], list[Row]]:
    """Return the backends of a model that can be loaded, and the rows of the others."""
    loaded: list[tuple[Predictor, Row]] = []
    failed: list[Row] = []
    for backend, path in candidates(model, settings.backends):
        say(f"{path}: loading {backend}")
        row = Row(model=str(model), backend=backend)
        try:
            loaded.append(load_backend(row, path, settings))
        except Exception as error:  # a runtime raises what it likes; the row tells
            failed.append(row.updated(reason=reason(error)))
    if not loaded:
        return [], failed
    source = image_source(model, settings.data)
    images = read_images(source, settings.imgsz or loaded[0][0].preprocessing.imgsz)
    eager = next((predictor for predictor, row in loaded if row.backend == REFERENCE), None)
    samples = Samples(images, reference_masks(model, eager, images, settings.device))
    found = [Contender(predictor, samples, row.updated(data=source.spec)) for predictor, row in loaded]
    return found, failed


def measure(contenders: Sequence[Contender], batch: int, settings: Settings, say: Say) -> list[Row]:
    """Return a row for each contender at one batch size."""
    ready: list[Contender] = []
    failed: list[Row] = []
    for predictor, samples, loaded in contenders:
        images = samples.batch(batch)
        row = loaded.updated(batch=batch, imgsz=images.shape[1:3])
        say(f"{row.model}, batch {batch}: warming up {row.backend}")
        try:
            first_run_s = warm_up(predictor, images)
            row = row.updated(first_run_s=first_run_s, agreement=samples.agreement(predictor, batch))
        except Exception as error:  # a runtime raises what it likes; the row tells
            failed.append(row.updated(reason=reason(error)))
        else:
            ready.append(Contender(predictor, samples, row))

    def on_round(number: int) -> None:
        names = ", ".join(dict.fromkeys(row.backend for _, _, row in ready))
        say(f"batch {batch}: round {number} of {ROUNDS} of {names}")

    turns = [(predictor, samples.batch(batch)) for predictor, samples, _ in ready]
    timings = time_in_turns(turns, Budget(settings.seconds, settings.min_runs), on_round)
    baselines = {
        row.model: rounds
        for rounds, (_, _, row) in zip(timings, ready, strict=True)
        if row.backend == REFERENCE
    }
    rows = [
        row.updated(
            **figures(rounds, batch, baselines.get(row.model)),
            stages_ms=stages(predictor, images, settings.min_runs),
        )
        for rounds, (predictor, images), (_, _, row) in zip(timings, turns, ready, strict=True)
    ]
    return rows + failed


def figures(rounds: Rounds, batch: int, baseline: Rounds | None) -> dict[str, Any]:
    """Return the fields of a row that follow from its runs.

    Args:
        rounds: seconds of each run.
        batch: images in a run.
        baseline: of eager, in the same rounds; None if it was not measured.
    """
    seconds = np.concatenate(rounds)
    milliseconds = seconds * 1000
    p50, p90, p99 = np.percentile(milliseconds, (50, 90, 99)).tolist()
    medians = np.array([np.median(latencies) for latencies in rounds])
    latency = Latency(
        runs=len(seconds),
        min=milliseconds.min(),
        p50=p50,
        p90=p90,
        p99=p99 if len(seconds) >= RUNS_FOR_P99 else None,
        rounds=tuple((medians * 1000).tolist()),
    )
    found: dict[str, Any] = {
        "latency_ms": latency,
        "images_per_s": batch * len(seconds) / float(seconds.sum()),
    }
    if baseline is None:
        return found
    ratios = np.array([np.median(latencies) for latencies in baseline]) / medians
    speedup = float(np.median(np.concatenate(baseline)) * 1000 / p50)
    return found | {"speedup": speedup, "speedup_range": (float(ratios.min()), float(ratios.max()))}


def stages(predictor: Predictor, images: Images, runs: int) -> dict[str, float] | None:
    """Return the medians of `time_stages`, None for a predictor on a CPU or without stages."""
    if not isinstance(predictor, Staged) or predictor.device.type != "cuda":
        return None
    return time_stages(predictor, images, runs)


def candidates(model: Path, backends: Sequence[str] | None) -> list[tuple[str, Path]]:
    """Return the backends to load and from where: an artifact runs on its own, the others on its bundle."""
    if model.is_dir():
        return [(backend, model) for backend in backends or BACKENDS_OF_BUNDLE]
    own = BACKENDS_OF_SUFFIX[model.suffix]
    bundle = find_bundle(model) or model
    return [(backend, model if backend in own else bundle) for backend in backends or own]


def load_backend(row: Row, path: Path, settings: Settings) -> tuple[Predictor, Row]:
    """Return a loaded backend and its row with the time that took."""
    start = time.perf_counter()
    predictor = load_predictor(path, backend=row.backend, device=settings.device, threads=settings.threads)
    load_s = time.perf_counter() - start
    return predictor, row.updated(runtime=predictor.description, load_s=load_s)


def reference_masks(model: Path, predictor: Predictor | None, images: Images, device: str) -> Masks | None:
    """Return eager PyTorch's (N, H, W) masks of the images, None for an artifact without its bundle."""
    bundle = find_bundle(model)
    if predictor is None and bundle is not None:
        try:
            predictor = load_predictor(bundle, backend=REFERENCE, device=device)
        except BundleError as error:
            log.warning("measuring without agreement: %s", error)
    return None if predictor is None else np.concatenate([predictor.run(image[None]) for image in images])


def image_source(model: Path, spec: str | None) -> Source:
    """Return the source of the images: `spec`, or the data that the model was trained on.

    Raises:
        DatasetError: `spec` cannot be used.
    """
    if spec is not None:
        return open_source(spec)
    bundle = find_bundle(model)
    spec = (bundle and load_config(bundle).data_spec) or FALLBACK
    try:
        return open_source(spec)
    except DatasetError as error:
        log.warning("measuring on images of %s: the data of the model cannot be used (%s)", FALLBACK, error)
        return open_source(FALLBACK)


def read_images(source: Source, size: tuple[int, int]) -> Images:
    """Return some (N, H, W, 3) images of a source, stretched to (height, width) `size`.

    Raises:
        DatasetError: it has none.
    """
    ids = source.ids("val") or source.ids("train") or source.ids("unlabeled")
    if not ids:
        raise DatasetError(f"{source.spec} holds no images, expected some to measure on: use --data shapes")
    return np.stack([resize_image(source.read_image(id_), size) for id_ in ids[:IMAGES]])


def reason(error: Exception) -> str:
    """Return one line that says what went wrong."""
    if isinstance(error, ZooError):
        return str(error)
    paragraph = str(error).strip().split("\n\n")[0]
    return " ".join(f"{type(error).__name__}: {paragraph}".split())[:REASON_LENGTH]
