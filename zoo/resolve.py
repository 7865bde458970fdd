"""Resolution of MODEL to a path: a run, a bundle, an artifact, a name in a registry, or the newest run."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import BundleError, RegistryError
from zoo.machine import choose_device
from zoo.registry.names import FOLDER_PREFIX, parse_name

if TYPE_CHECKING:
    from zoo.train.runs.folder import RunFolder

log = logging.getLogger(__name__)

RUNS = Path("runs")
ModelLike = str | os.PathLike[str] | None
"""MODEL in Python: a path, `zoo.Run`, `zoo.Bundle`, a name in a registry; None for the newest run."""

SCHEMES = ("http://", "https://")


def model_text(model: ModelLike) -> str | None:
    """Return MODEL as text, as it is given on the command line."""
    return None if model is None else os.fspath(model)


def resolve_model(text: str | None, weights: str | None = None, *, writable: bool = False) -> Path:
    """Return the bundle folder or artifact file that MODEL names; a name in a registry is pulled.

    Args:
        text: MODEL as given; None for the newest run.
        weights: network of a run to strip from its checkpoint; None for the one in its bundle.
        writable: whether to copy a pulled bundle out of the cache or registry.

    Raises:
        BundleError: the path does not exist, or is neither a run, a bundle nor an artifact; an address.
    """
    if text is not None and weights is None and is_name(text):
        return _pull(text, writable=writable)
    from zoo.train.runs.folder import RunFolder

    path = newest_run() if text is None else _existing(text)
    if RunFolder(path).is_run:
        return _bundle_of_run(path, weights)
    if weights is not None:
        raise BundleError(
            f"--weights {weights} needs the folder of a run, got {path}: only runs keep all networks"
        )
    if path.is_file():
        if path.suffix not in artifact_suffixes():
            raise BundleError(
                f"{path} ends in {path.suffix!r}, expected one of {', '.join(artifact_suffixes())}"
            )
        return path
    if not (path / "config.json").is_file():
        raise BundleError(
            f"{path} has neither recipe.json nor config.json, expected a run or a bundle folder"
        )
    return path


def _existing(text: str) -> Path:
    path = Path(text)
    if "://" in text:
        raise BundleError(
            f"got the address {text}, expected a run, a bundle or an artifact on this machine: copy it here, "
            f"or pull a name from a registry"
        )
    if not path.exists():
        raise BundleError(
            f"{path} does not exist, expected a run, a bundle or an artifact: see {RUNS}/ for yours"
        )
    return path


def resolve_predictor(text: str | None) -> Path | str:
    """Return the argument of `load_predictor`: the URL of a server unchanged, or the path that MODEL names.

    Raises:
        BundleError: the path does not exist, or is neither a run, a bundle nor an artifact.
    """
    return text if text is not None and is_url(text) else resolve_model(text)


def device_of(model: Path | str, device: str | None) -> str:
    """Return the device on which a predictor runs: the given one, by default a GPU if PyTorch finds one.

    Raises:
        BundleError: a device for a server.
    """
    if device is not None and isinstance(model, str):
        raise BundleError(f"got device {device} for {model}, which selects its own: leave it out")
    return choose_device(device)


def artifact_suffixes() -> tuple[str, ...]:
    """Return the suffixes of the files that some backend runs."""
    from zoo.predictors.backends import file_suffixes

    return file_suffixes()


def is_url(text: str) -> bool:
    """Return whether MODEL is the URL of a server."""
    return text.lower().startswith(SCHEMES)


def resolve_bundle(text: str | None, weights: str | None = None, *, writable: bool = True) -> Path:
    """Return the bundle folder that MODEL names.

    Args:
        text: MODEL as given; None for the newest run.
        weights: network of a run to strip from its checkpoint; None for the one in its bundle.
        writable: whether to copy a pulled bundle out of the cache or registry.

    Raises:
        BundleError: the path does not exist, or is an artifact.
    """
    path = resolve_model(text, weights, writable=writable)
    if path.is_file():
        raise BundleError(
            f"{path} is an artifact, expected a run or bundle folder: choose the one that it was exported "
            "from"
        )
    return path


def bundle_with_localizer(text: str | None) -> Path:
    """Return the bundle of a run with its error localizer (ELN), stripped from the checkpoint.

    Args:
        text: folder of the run; None for the newest one.

    Raises:
        BundleError: it is not a run, or its method trains no localizer.
    """
    from zoo.train.runs.folder import RunFolder

    path = newest_run() if text is None else Path(text)
    if not RunFolder(path).is_run:
        raise BundleError(
            f"--keep-localizer needs the folder of a run, got {path}: only runs keep all networks"
        )
    return _stripped(path, keep_localizer=True)


def is_name(text: str) -> bool:
    """Return whether MODEL is the name of a bundle in a registry, not a path or a misspelled one."""
    path = Path(text)
    # runs/elm is a typo of runs/eln, not a model of the owner `runs`
    is_path = (
        path.exists() or path.suffix in artifact_suffixes() or path.parent.exists() or path.parent == RUNS
    )
    if is_path and not text.startswith(FOLDER_PREFIX):
        return False
    from zoo.catalog import resolve_alias

    try:
        parse_name(resolve_alias(text))
    except RegistryError:
        return False
    return True


def _pull(name: str, *, writable: bool = False) -> Path:
    """Return the folder of a pulled bundle, at the revision in `zoo.lock` if the name is locked.

    Args:
        name: name of the bundle.
        writable: whether to copy it out of the cache or registry, once for each revision.
    """
    from zoo.registry.lock import LOCK_NAME, read_lock
    from zoo.registry.pull import copy_to, fetch

    locked = name in read_lock(Path(LOCK_NAME)).models
    pulled = fetch(name, locked=locked, say=log.info)
    folder = copy_to(pulled) if writable else pulled.folder
    log.info("%s at %s: %s", name, pulled.locked.revision[:12], folder)
    return folder


def _bundle_of_run(run: Path, weights: str | None) -> Path:
    """Return the bundle of a run, stripped first if there is none or it is of an earlier step."""
    from zoo.train.runs.folder import RunFolder

    files = RunFolder(run)
    if weights is None and (files.bundle / "config.json").is_file() and not _is_outdated(files):
        return files.bundle
    return _stripped(run, weights)


def _stripped(run: Path, weights: str | None = None, *, keep_localizer: bool = False) -> Path:
    """Return a new bundle of a run's checkpoint."""
    from zoo.train.runs.folder import RunFolder

    checkpoint = RunFolder(run).checkpoint
    if not checkpoint.is_file():
        raise BundleError(f"{run} has no checkpoint yet, expected {checkpoint.name}: train it longer")
    from zoo.train.strip import strip

    bundle = strip(run, weights, keep_localizer=keep_localizer)
    log.info("stripped %s to %s", checkpoint, bundle)
    return bundle


def _is_outdated(files: RunFolder) -> bool:
    """Return whether the checkpoint was written after the bundle, and at another step."""
    if not files.bundle_is_older:  # most are not: nothing more to load
        return False
    from zoo.train.strip import holds_another_step

    return holds_another_step(files)


def newest_run(method: str | None = None) -> Path:
    """Return the run under `runs/` that was started last, optionally of one method.

    Raises:
        BundleError: there is no such run.
    """
    from zoo.train.runs.folder import RunFolder

    runs = [folder.parent for folder in RUNS.glob(f"{method or ''}*/recipe.json")]
    if not runs:
        raise BundleError(
            f"no run of {method or 'any method'} under {RUNS.absolute()}: pass a model, or train one with "
            f"zoo train eln"
        )
    return max(runs, key=lambda run: RunFolder(run).recipe_file.stat().st_mtime)
