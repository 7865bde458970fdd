"""Triton model repository of exported files, with one model for each way to run them."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.bundle.bundle import WEIGHTS_NAME, load_config
from zoo.bundle.manifest import sha256
from zoo.errors import ExportError
from zoo.export.triton.config import (
    CONFIG_NAME,
    FLAVORS,
    LABELS_NAME,
    MARK,
    Served,
    check_protobuf,
    config_text,
    parse_config,
)
from zoo.predictors.artifact import ONNX_NAMES, ArtifactMetadata, EngineInfo, Precision, read_engine_info
from zoo.predictors.backends import ENGINES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoo.export.manifest import ExportReport

    Batch = tuple[int, int, int]
    Say = Callable[[str], None]

VERSION = "1"
"""Version folder of the artifact; models are replaced, not versioned."""

PYTHON_MODEL = Path(__file__).with_name("model.py")

PREFERENCES: dict[str, tuple[Precision, ...]] = {
    "onnx": ("fp16", "fp32"),
    "python": ("int8", "fp32", "fp16"),
}
"""Precisions by flavor, the fastest on its device first."""


def model_name(bundle: Path) -> str:
    """Return the name of a bundle's models: `eln-1` for `runs/eln-1/bundle`."""
    folder = bundle.resolve()
    name = folder.name
    if re.fullmatch(r"bundle(-.*)?", name):
        name = folder.parent.name + name.removeprefix("bundle")
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "model"


def check_repository(repository: Path, bundle: Path) -> None:
    """Check that a bundle's models can be written to a folder.

    Raises:
        ExportError: the folder has other contents, Triton's protobuf is not installed, or the model does not
            take 8-bit RGB.
    """
    check_protobuf()
    format_ = load_config(bundle).preprocessing.format
    if not format_.is_rgb:
        raise ExportError(
            f"--triton is supported for 8-bit RGB, {bundle} takes {format_}: serve it with zoo serve"
        )
    if repository.exists() and not repository.is_dir():
        raise ExportError(f"--triton {repository} is a file, expected a folder of models: choose another")
    for flavor in FLAVORS:
        folder = repository / f"{model_name(bundle)}_{flavor}"
        if folder.exists() and not is_ours(folder):
            raise ExportError(
                f"{folder} exists but was not written by zoo export: choose another folder with --triton, or "
                f"move it away"
            )


def is_ours(folder: Path) -> bool:
    """Return whether `zoo export` wrote the model in a folder."""
    try:
        return MARK in parse_config((folder / CONFIG_NAME).read_text(encoding="utf-8")).parameters
    except (OSError, UnicodeDecodeError, ExportError):
        return False


def write_repository(report: ExportReport, batch: Batch, repository: Path, say: Say) -> tuple[Path, ...]:
    """Write a model for each possible flavor and return their folders.

    Existing models with the same names are replaced; others in the repository are kept.

    Args:
        report: report of the export, whose ONNX files are used; engines are those in its bundle.
        batch: minimum, optimal and maximum batch of models whose artifact takes any.
        repository: repository folder; created if missing.
        say: called with a line for each flavor.

    Raises:
        ExportError: no flavor can be written, or a folder is in the way.
    """
    bundle = Path(report.bundle)
    check_repository(repository, bundle)
    models = [*_onnx_models(report, batch, say), *_plan_models(bundle, say)]
    if not models:
        raise ExportError(
            f"no file of this export runs in Triton, expected an ONNX file in fp32, fp16 or int8, or a "
            f"tensorrt engine: add --precision fp32 to --triton {repository}"
        )
    repository.mkdir(parents=True, exist_ok=True)
    with _workspace(repository) as workspace:
        for model in models:
            _write(model, workspace / model.name)
        for model in models:
            _install(workspace / model.name, repository / model.name)
    for folder in _stale(repository, bundle, {model.name for model in models}):
        say(f"warning: {folder} is from an earlier export: delete it if you do not need it")
    return tuple(repository / model.name for model in models)


def _onnx_models(report: ExportReport, batch: Batch, say: Say) -> Iterator[Served]:
    bundle = Path(report.bundle)
    made = {artifact.name: artifact for artifact in report.artifacts}
    for flavor, preferred in PREFERENCES.items():
        name = f"{model_name(bundle)}_{flavor}"
        file = next((ONNX_NAMES[p] for p in preferred if ONNX_NAMES[p] in made), None)
        if file is None:
            say(f"no {name}: this export has no ONNX file in {' or '.join(preferred)}")
            continue
        metadata = ArtifactMetadata.model_validate(made[file].facts["metadata"])
        say(f"{name}: {file}")
        yield Served(name, FLAVORS[flavor], bundle / file, metadata, batch, {})


def _plan_models(bundle: Path, say: Say) -> Iterator[Served]:
    name = f"{model_name(bundle)}_plan"
    engines = sorted(bundle.glob(f"{ENGINES}/*.engine"), key=lambda path: path.stat().st_mtime, reverse=True)
    weights = sha256(bundle / WEIGHTS_NAME)
    for engine in engines:
        info = read_engine_info(engine)
        if info.flavor == "trt" and info.metadata.weights_sha256 == weights:
            say(f"{name}: {engine.name}, only for {info.gpu} and a Triton with TensorRT {info.version}")
            profile = info.profile
            batch = profile.min[0], profile.opt[0], profile.max[0]
            yield Served(name, FLAVORS["plan"], engine, info.metadata, batch, _facts(info))
            return
    say(
        f"no {name}: {bundle / ENGINES} has no tensorrt engine of these weights (Triton cannot run "
        "tensorrt_rtx "
        f"engines): zoo export --trt builds one on the GPU that serves"
    )


def _facts(info: EngineInfo) -> dict[str, str]:
    """Return the requirements of an engine."""
    return {"gpu": info.gpu, "tensorrt": info.version, "profile": info.profile.model_dump_json()}


def _write(model: Served, folder: Path) -> None:
    version = folder / VERSION
    version.mkdir(parents=True)
    shutil.copyfile(model.artifact, version / model.flavor.file)
    if model.flavor.backend == "python":
        shutil.copyfile(PYTHON_MODEL, version / "model.py")
    (folder / LABELS_NAME).write_text("\n".join(model.metadata.names) + "\n", encoding="utf-8")
    (folder / CONFIG_NAME).write_text(config_text(model), encoding="utf-8")


@contextmanager
def _workspace(repository: Path) -> Iterator[Path]:
    """Yield a temporary folder on the repository's disk, which is removed at the end.

    Triton treats every folder in a repository as a model, even hidden ones: the temporary folder is next to
    the repository, unless that is a mount point or its parent is not writable.
    """
    parent = repository.resolve().parent
    same_disk = parent.stat().st_dev == repository.stat().st_dev
    place = parent if same_disk and os.access(parent, os.W_OK) else repository
    folder = place / f".{repository.resolve().name}.{os.getpid()}.tmp"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _install(made: Path, folder: Path) -> None:
    """Move a new model to its place; restore the earlier one if that fails."""
    earlier = made.with_name(f"{made.name}.earlier")
    if folder.exists():
        folder.rename(earlier)
    try:
        made.rename(folder)
    finally:
        if earlier.exists() and not folder.exists():
            earlier.rename(folder)


def _stale(repository: Path, bundle: Path, written: set[str]) -> list[Path]:
    """Return existing models of the bundle in flavors that were not written."""
    folders = [repository / f"{model_name(bundle)}_{flavor}" for flavor in FLAVORS]
    return [folder for folder in folders if folder.exists() and folder.name not in written]
