"""Models as an ASGI app, which any ASGI server runs and any ASGI app mounts."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import ZooError
from zoo.predictors.limits import OVERLAP
from zoo.resolve import ModelLike, is_name, model_text, resolve_model

if TYPE_CHECKING:
    from fastapi import FastAPI

    from zoo.serve.server.core.loading import ModelSource
    from zoo.serve.server.core.settings import ServerSettings

NAMED = re.compile(r"([A-Za-z0-9._-]+)=(.+)")
GRPC_NEEDED = ("grpc", "tritonclient", "google.protobuf")
NEEDED = ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "httptools", "fastapi_swagger")


def serve(
    models: ModelLike | Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]] = None,
    *,
    backend: str | None = None,
    precision: Literal["fp32", "fp16", "bf16", "int8"] | None = None,
    device: str | None = None,
    threads: int | None = None,
    max_batch: int | None = None,
    max_wait_ms: float | None = None,
    queue: int | None = None,
    timeout: float | None = None,
    max_body_mb: float | None = None,
    max_pixels: int | None = None,
    tile: int | None = None,
    overlap: float = OVERLAP,
    api_key: str | None = None,
    remote: bool = False,
    cors: Sequence[str] = (),
    root_path: str | None = None,
) -> FastAPI:
    """Return the ASGI app of `zoo serve` with loaded models, which its lifespan starts.

    It runs in one process: `zoo serve` on the command line also supervises workers.

    Args:
        models: one or more runs, bundles, `.onnx` or `.engine` files or names in a registry, or a mapping
            from names to them; a request that names none gets the first; None for the newest run.
        backend: backend of all models, or `fastest` to measure those of the CPU; None for the first that
            runs, by rank and record.
        precision: precision of the exported file; None for fp32, or that of the newest engine.
        device: `cpu` or `cuda`; None for the fastest.
        threads: CPU threads of each model; None for all cores.
        max_batch: maximum images per batch; None for 8 on a GPU, 1 on the CPU.
        max_wait_ms: time that an image waits for others, in ms; None for 2.
        queue: maximum waiting images; None for 64.
        timeout: time limit of a request in seconds; None for 30.
        max_body_mb: maximum request body in MB; None for 32.
        max_pixels: maximum image size; None for 40 million.
        tile: side in pixels of tiles in which larger images are predicted, all at their original size; None
            for whole images at the network's size.
        overlap: share of a tile's side that it shares with the next one, in [0, 0.9].
        api_key: key that requests must send; None for no key.
        remote: whether other machines may use the server without a key.
        cors: origins whose web pages may use the server.
        root_path: path prefix of a proxy that leaves it on requests.

    Raises:
        ZooError: a model that no backend can run, a setting out of range, or the extra `serve` is missing.
    """
    check_extra()

    from zoo.predictors.tiles import Tiling
    from zoo.serve.server.core.loading import load_model
    from zoo.serve.server.http.app import create_app

    Tiling.of(tile, overlap)
    settings = server_settings(
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        queue=queue,
        timeout=timeout,
        max_body_mb=max_body_mb,
        max_pixels=max_pixels,
        tile=tile,
        overlap=overlap,
        api_key=api_key,
        remote=remote,
        cors=tuple(cors),
        root_path=root_path,
    )
    sources = model_sources(_texts(models), backend, precision, device, threads)
    return create_app([load_model(source, settings) for source in sources], settings)


def _texts(
    models: ModelLike | Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]],
) -> list[str | None]:
    """Return models as on the command line."""
    if isinstance(models, Mapping):
        return [f"{name}={os.fspath(model)}" for name, model in models.items()]
    if models is None or isinstance(models, str | os.PathLike):
        return [model_text(models)]
    return [model_text(model) for model in models]


def server_settings(**given: Any) -> ServerSettings:
    """Return the settings of a server; None leaves the default.

    Raises:
        ZooError: a value out of range.
    """
    from pydantic import ValidationError

    from zoo.frozen import first_fault
    from zoo.serve.server.core.settings import ServerSettings

    try:
        return ServerSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ZooError(first_fault(error)) from error


def model_sources(
    texts: Sequence[str | None],
    backend: str | None,
    precision: Literal["fp32", "fp16", "bf16", "int8"] | None,
    device: str | None,
    threads: int | None,
) -> tuple[ModelSource, ...]:
    """Return the models to serve.

    Raises:
        ZooError: a model does not exist, or two have the same name.
    """
    from zoo.serve.server.core.loading import ModelSource

    return tuple(
        ModelSource(name, path, backend, precision, device, threads) for name, path in name_models(texts)
    )


def name_models(texts: Sequence[str | None]) -> list[tuple[str, Path]]:
    """Return the name and path of each model.

    Args:
        texts: `NAME=MODEL` or `MODEL`; None for the newest run.

    Raises:
        ZooError: a model does not exist, or two have the same name.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, path = _name_model(text)
        if name in found:
            raise ZooError(
                f"got two models named {name}, {found[name]} and {path}, expected different names: rename "
                f"one with NAME=MODEL"
            )
        found[name] = path
    return list(found.items())


def _name_model(text: str | None) -> tuple[str, Path]:
    named = NAMED.fullmatch(text or "")
    if named and not Path(text or "").exists():
        return named[1], resolve_model(named[2])
    path = resolve_model(text)
    if text is not None and is_name(text):
        return _as_name(text.partition("@")[0].rpartition("/")[2]), path
    from zoo.bundle.bundle import find_bundle

    folder = find_bundle(path)
    if folder is None:
        return _as_name(path.stem), path
    folder = folder.resolve()
    return _as_name(folder.parent.name if folder.name == "bundle" else folder.name), path


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text) or "model"


def check_extra(extra: str = "serve", needed: Sequence[str] = NEEDED) -> None:
    """Raise if packages of an extra are missing.

    Raises:
        ZooError: they are.
    """
    missing = [module for module in needed if not _is_installed(module)]
    if missing:
        raise ZooError(
            f"zoo serve needs {', '.join(missing)}, which is not installed: pip install "
            f"'semiseg-zoo[{extra}]'"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False
