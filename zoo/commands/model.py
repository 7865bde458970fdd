"""What MODEL may be on the command line: a run, a bundle, an artifact, or nothing for the newest run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.errors import BundleError

RUNS = Path("runs")
ARTIFACT_SUFFIXES = (".onnx", ".engine")

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]", help="A run or bundle folder, an .onnx or .engine file; default: the newest run under runs/."
    ),
]


def resolve_model(text: str | None) -> Path:
    """Return the bundle folder or artifact file that MODEL names.

    Raises:
        BundleError: nothing of that name, or a folder that is neither run nor bundle.
    """
    path = newest_run() if text is None else Path(text)
    if not path.exists():
        raise BundleError(f"{path} does not exist, expected a run, a bundle or an artifact: see runs/ for yours")
    if path.is_file():
        if path.suffix not in ARTIFACT_SUFFIXES:
            raise BundleError(f"{path} ends in {path.suffix!r}, expected one of {', '.join(ARTIFACT_SUFFIXES)}")
        return path
    for folder in (path, path / "bundle"):
        if (folder / "config.json").is_file():
            return folder
    if (path / "last.ckpt").is_file():
        raise BundleError(f"{path} was not trained to its end and holds no bundle: zoo train --resume --out {path}")
    raise BundleError(f"{path} holds neither config.json nor bundle/config.json, expected a run or a bundle folder")


def newest_run() -> Path:
    """Return the run under `runs/` that was written to last.

    Raises:
        BundleError: there is none.
    """
    runs = [folder.parent for folder in RUNS.glob("*/recipe.json")]
    if not runs:
        raise BundleError(f"no MODEL given and no run under {RUNS.absolute()}: name one, or make one with zoo train eln")
    return max(runs, key=lambda run: (run / "recipe.json").stat().st_mtime)
