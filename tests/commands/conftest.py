"""A command line to call and a bundle whose classes are those of `shapes`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from zoo.bundle.bundle import CONFIG_NAME
from zoo.cli import app
from zoo.data.shapes import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Zoo = Callable[..., Result]


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """Return a function that runs `zoo` in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def shapes_bundle(bundle_copy: Path) -> Path:
    """Return a bundle with the class names of `shapes`, which it says it was trained on."""
    path = bundle_copy / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"names": NAMES}))
    return bundle_copy
