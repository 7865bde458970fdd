"""The folder that an export writes to, where that is not the bundle itself."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from zoo.bundle import CONFIG_NAME, MODEL_FILES, replacing
from zoo.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path


def check_out(out: Path) -> None:
    """Raise unless a bundle can be written to a folder.

    Raises:
        ExportError: other contents are there.
    """
    if out.exists() and not (out / CONFIG_NAME).is_file() and (out.is_file() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is no bundle: name a new folder with --out, or delete it")


def copy_bundle(bundle: Path, out: Path) -> Path:
    """Copy the model, not its artifacts, and return the new folder.

    Raises:
        ExportError: a folder with other contents is there.
    """
    check_out(out)
    if out.exists() and out.samefile(bundle):
        return bundle
    out.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        if (bundle / name).is_file():
            with replacing(out / name) as path:
                shutil.copyfile(bundle / name, path)
    return out
