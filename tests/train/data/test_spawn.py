"""Data workers under the start method spawn, which macOS and Windows use."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import multiprocessing, sys, time

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    from contextlib import closing
    from zoo.data.open import open_source
    from zoo.train.data.loaders import batches
    from zoo.train.data.streams import TrainingData
    from zoo.train.profile.loader_bench import _stream, widest_phase
    from zoo.train.recipe.read import load_recipe
    recipe = load_recipe(sys.argv[1])
    phase = widest_phase(recipe)
    source = open_source(recipe.data.spec)
    data = TrainingData.draw(recipe, source).for_phases((phase,))
    for cache in ("none", "memory"):
        stream = _stream(data.recipe, cache, None, source, data.partition, phase)
        with closing(batches(stream, 0, 100, workers=1, pin_memory=False)) as loader:
            print(next(loader).image_l.shape[0])
    time.sleep(0.5)  # a worker that aborted would be reported now
"""


@pytest.mark.slow
def test_spawned_workers_end_without_an_error_and_the_next_ones_start(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, program, tiny_recipe], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["2", "2"]
