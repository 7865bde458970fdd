"""Selection of the fastest available backend of a model, with the reasons."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, NamedTuple

from zoo.bundle.bundle import CARD_NAME, find_bundle
from zoo.bundle.manifest import sha256
from zoo.errors import BundleError, ZooError
from zoo.machine import gpu_count, int8_overflows
from zoo.predictors.artifact import ONNX_NAMES
from zoo.predictors.backends import BACKENDS, backends_of, missing_file
from zoo.predictors.fastest import fastest, recorded
from zoo.predictors.load import FASTEST, load_predictor
from zoo.predictors.tiles import check_tiling
from zoo.serve.server.core.model import About, Model

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.predictors.artifact import Precision
    from zoo.predictors.base import Predictor
    from zoo.predictors.fastest import Contestant
    from zoo.serve.server.core.settings import ServerSettings


log = logging.getLogger(__name__)

REASON_LENGTH = 200


class Candidate(NamedTuple):
    """A backend on a device."""

    title: str
    backend: str
    device: str
    precision: Precision | None = None
    """Precision of its file; None for the default."""
    measured: bool = False
    """Whether it was measured to be the fastest on this CPU."""


class Loaded(NamedTuple):
    """A predictor that has run once, and the reason for its selection."""

    predictor: Predictor
    candidate: Candidate
    reason: str


def load_model(source: ModelSource, settings: ServerSettings) -> Model:
    """Return a model on its fastest backend; `Model.start` makes it ready.

    Raises:
        ZooError: it cannot be loaded, or no requested backend can run it.
    """
    predictor, candidate, reason = load_best(source, in_tiles=settings.tiling is not None)
    on_gpu = candidate.device == "cuda"
    bundle = find_bundle(source.path)
    card = bundle and bundle / CARD_NAME
    about = About(
        path=str(source.path),
        fingerprint=fingerprint(source.path),
        reason=reason,
        card=card.read_text(encoding="utf-8") if card and card.is_file() else None,
    )
    own = settings if on_gpu else settings.on_cpu()
    return Model(
        source.name, predictor, own, about, few_shapes=on_gpu or BACKENDS[candidate.backend].compiles
    )


def fingerprint(path: Path) -> str:
    """Return eight hexadecimal digits of the hash of a model's files."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    told = [f"{file.relative_to(path.parent)} {sha256(file)}" for file in files]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]


def load_best(source: ModelSource, *, in_tiles: bool = False) -> Loaded:
    """Return the first backend that loads and runs a blank image.

    Args:
        source: model to load.
        in_tiles: whether images are predicted in tiles, which takes a file with logits.

    Raises:
        ZooError: none does; the message has the reason of each.
    """
    gpus = gpu_count()
    skipped: list[str] = []
    for candidate in candidates(source):
        why = why_not(candidate, source, gpus) or _try(candidate, source, in_tiles=in_tiles)
        if not isinstance(why, str):
            return Loaded(why, candidate, _reason(candidate, source, skipped))
        skipped.append(f"{candidate.title}: {why}")
    raise BundleError(
        f"{source.path} cannot be served, no backend can run it: {'; '.join(skipped) or 'none fits'}"
    )


def candidates(source: ModelSource) -> list[Candidate]:
    """Return the backends that may run a model, fastest first; those without a rank only on request.

    Raises:
        BundleError: the requested backend cannot run such a file.
    """
    if source.backend == FASTEST and source.path.is_dir() and source.device != "cuda":
        return [_measured(fastest(source.path, source.threads, source.precision))]
    known = backends_of(source.path)
    if source.backend not in (None, *known):
        raise BundleError(
            f"backend {source.backend} cannot run {source.name}, expected {' or '.join(known) or 'a model'}"
        )
    ranked = [
        (row.rank.get(device, 0), Candidate(title, name, device, source.precision))
        for name, row in BACKENDS.items()
        if name == source.backend or (source.backend is None and name in known)
        for device, title in row.devices.items()
        if source.backend or device in row.rank
    ]
    found = [candidate for _, candidate in sorted(ranked, key=lambda each: each[0])]
    return _measured_first([each for each in found if source.device in (None, each.device)], source)


def _measured_first(found: list[Candidate], source: ModelSource) -> list[Candidate]:
    """Return the candidates with the one that `zoo bench --choose` recorded first among those of the CPU."""
    if source.backend is not None or not source.path.is_dir():
        return found
    first = next((index for index, each in enumerate(found) if each.device == "cpu"), None)
    best = None if first is None else recorded(source.path, source.threads, source.precision)
    return found if best is None else [*found[:first], _measured(best), *found[first:]]


def _measured(best: Contestant) -> Candidate:
    title = f"{BACKENDS[best.backend].devices['cpu']} in {best.precision}"
    return Candidate(title, best.backend, "cpu", best.precision, measured=True)


def why_not(candidate: Candidate, source: ModelSource, gpus: int) -> str:
    """Return the reason not to try a candidate; empty to try it."""
    if candidate.device == "cuda" and not gpus:
        return "no NVIDIA GPU"
    int8 = candidate.precision == "int8" or source.path.name == ONNX_NAMES["int8"]
    if candidate.backend == "openvino" and int8 and source.backend is None and int8_overflows():
        return "its int8 sums overflow on this processor, which has no VNNI"
    return missing_file(candidate.backend, source.path, candidate.precision) if source.path.is_dir() else ""


def _try(candidate: Candidate, source: ModelSource, *, in_tiles: bool) -> Predictor | str:
    """Return a predictor that has run once, or the reason for its failure."""
    try:
        predictor = load_predictor(
            source.path,
            backend=candidate.backend,
            device=candidate.device,
            threads=source.threads,
            precision=candidate.precision,
        )
        if in_tiles:
            check_tiling(predictor)
        predictor.run(predictor.blank())
    except ZooError as error:
        return _public(str(error), source)
    except Exception as error:  # a runtime may raise anything; the next one is tried
        log.warning("%s cannot run %s", candidate.title, source.path, exc_info=error)
        return _public(f"{type(error).__name__}: {error}", source)[:REASON_LENGTH]
    return predictor


def _reason(candidate: Candidate, source: ModelSource, skipped: list[str]) -> str:
    """Return a description of a candidate and the reason for its selection."""
    asked = "as requested" if source.backend or source.device else ""
    if candidate.measured:
        asked = "measured as the fastest on this CPU"
    slow = "" if BACKENDS[candidate.backend].suffix else "zoo export makes it faster"
    return "; ".join(filter(None, (candidate.title, asked, slow, *skipped)))


def _public(text: str, source: ModelSource) -> str:
    """Return a text as one line without the model's location, because clients see it."""
    return " ".join(text.replace(f"{source.path}/", "").replace(str(source.path), source.name).split())


class ModelSource(NamedTuple):
    """A model to serve, and the requested backend."""

    name: str
    path: Path
    """Bundle folder or artifact."""
    backend: str | None = None
    precision: Precision | None = None
    device: str | None = None
    """`cpu` or `cuda`; None for the fastest."""
    threads: int | None = None
    """CPU threads; None for one per core."""
