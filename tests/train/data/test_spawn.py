"""Data workers under the start method spawn, which macOS and Windows use."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_spawned_workers_of_one_measurement_do_not_abort_the_next(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import multiprocessing as m; m.set_start_method('spawn')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    bench = ("data", "bench", tiny_folder, "--workers", "0,1", "--seconds", "0.5", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "zoo", *map(str, bench)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    assert "terminate called" not in done.stderr
