"""The best backend that is present for a model: which, and why not the ones before it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zoo.bundle.bundle import CARD_NAME, find_bundle
from zoo.errors import BundleError, ZooError
from zoo.machine import gpu_count
from zoo.predictors.artifact import ONNX_NAMES
from zoo.predictors.load import BACKENDS_OF_BUNDLE, BACKENDS_OF_SUFFIX, ENGINES, load_predictor
from zoo.serve.server.core.model import About, Model

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.predictors.artifact import Precision
    from zoo.predictors.base import Predictor
    from zoo.serve.server.core.settings import ServerSettings


log = logging.getLogger(__name__)

REASON_LENGTH = 200

FROM_ONNX = ("ort", "openvino")


class Candidate(NamedTuple):
    """A backend on a device."""

    title: str
    backend: str
    device: str


ORDER = (
    Candidate("TensorRT", "trt", "cuda"),
    Candidate("ONNX Runtime CUDA", "ort", "cuda"),
    Candidate("OpenVINO", "openvino", "cpu"),
    Candidate("ONNX Runtime CPU", "ort", "cpu"),
    Candidate("PyTorch on the GPU", "eager", "cuda"),
    Candidate("PyTorch on the CPU", "eager", "cpu"),
)
"""The fastest first; PyTorch runs where nothing was exported."""

ON_REQUEST = tuple(
    Candidate(f"PyTorch ({backend})", backend, device)
    for backend in ("eager-amp", "compile", "compile-amp")
    for device in ("cuda", "cpu")
)
"""Never chosen by themselves."""


class Loaded(NamedTuple):
    """A predictor that has run once, and why it was chosen."""

    predictor: Predictor
    candidate: Candidate
    reason: str


def load_model(source: ModelSource, settings: ServerSettings) -> Model:
    """Return a model on its best backend; `Model.start` makes it ready.

    Raises:
        ZooError: it cannot be loaded, or no backend that was asked for can run it.
    """
    predictor, candidate, reason = load_best(source)
    on_gpu = candidate.device == "cuda"
    bundle = find_bundle(source.path)
    card = bundle and bundle / CARD_NAME
    about = About(
        path=str(source.path),
        reason=reason,
        card=card.read_text(encoding="utf-8") if card and card.is_file() else None,
    )
    own = settings if on_gpu else settings.on_cpu()
    return Model(
        source.name, predictor, own, about, few_shapes=on_gpu or candidate.backend.startswith("compile")
    )


def load_best(source: ModelSource) -> Loaded:
    """Return the first backend that loads and runs a blank image.

    Raises:
        ZooError: none does, with the reason of each.
    """
    gpus = gpu_count()
    skipped: list[str] = []
    for candidate in candidates(source):
        why = why_not(candidate, source, gpus) or _try(candidate, source)
        if not isinstance(why, str):
            return Loaded(why, candidate, _reason(candidate, source, skipped))
        skipped.append(f"{candidate.title}: {why}")
    raise BundleError(
        f"{source.path} cannot be served, no backend runs it: {'; '.join(skipped) or 'none fits'}"
    )


def candidates(source: ModelSource) -> list[Candidate]:
    """Return the backends that may run a model, the best first.

    Raises:
        BundleError: the backend that is asked for cannot run such a file.
    """
    known = BACKENDS_OF_BUNDLE if source.path.is_dir() else BACKENDS_OF_SUFFIX.get(source.path.suffix, ())
    if source.backend not in (None, *known):
        raise BundleError(
            f"backend {source.backend} cannot run {source.name}, expected {' or '.join(known) or 'a model'}"
        )
    if source.backend in {each.backend for each in ON_REQUEST}:
        found = [each for each in ON_REQUEST if each.backend == source.backend]
    else:
        found = [each for each in ORDER if each.backend in known and source.backend in (None, each.backend)]
    return [each for each in found if source.device in (None, each.device)]


def why_not(candidate: Candidate, source: ModelSource, gpus: int) -> str:
    """Return why there is no point in loading a candidate; empty to try."""
    if candidate.device == "cuda" and not gpus:
        return "no NVIDIA GPU"
    if candidate.backend in FROM_ONNX and source.path.is_dir():
        onnx = ONNX_NAMES[source.precision or "fp32"]
        return "" if (source.path / onnx).is_file() else f"no {onnx}, zoo export makes it"
    if (
        candidate.backend == "trt"
        and source.path.is_dir()
        and not any(source.path.glob(f"{ENGINES}/*.engine"))
    ):
        return "no engine, zoo export --trt makes one"
    return ""


def _try(candidate: Candidate, source: ModelSource) -> Predictor | str:
    """Return a predictor that has run once, or why there is none."""
    try:
        predictor = load_predictor(
            source.path,
            backend=candidate.backend,
            device=candidate.device,
            threads=source.threads,
            precision=source.precision,
        )
        limits = predictor.limits
        size = limits.clamp(predictor.preprocessing.imgsz)
        predictor.run(np.zeros((limits.low[0], *size, 3), np.uint8))
    except ZooError as error:
        return _public(str(error), source)
    except Exception as error:  # a runtime raises what it likes; the next one is tried
        log.warning("%s cannot run %s", candidate.title, source.path, exc_info=error)
        return _public(f"{type(error).__name__}: {error}", source)[:REASON_LENGTH]
    return predictor


def _reason(candidate: Candidate, source: ModelSource, skipped: list[str]) -> str:
    """Return why a candidate was chosen, for people."""
    asked = "as asked" if source.backend or source.device else ""
    slow = "" if candidate.backend in (*FROM_ONNX, "trt") else "zoo export makes it faster"
    return "; ".join(filter(None, (candidate.title, asked, slow, *skipped)))


def _public(text: str, source: ModelSource) -> str:
    """Return a text as one line that does not tell where the model lies: clients see it."""
    return " ".join(text.replace(f"{source.path}/", "").replace(str(source.path), source.name).split())


class ModelSource(NamedTuple):
    """A model that is to be served, and what was asked for."""

    name: str
    path: Path
    """A bundle folder or an artifact."""
    backend: str | None = None
    precision: Precision | None = None
    device: str | None = None
    """`cpu` or `cuda`; None for the best."""
    threads: int | None = None
    """Of the CPU; None for one on each core."""
