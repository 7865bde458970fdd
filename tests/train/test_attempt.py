"""A machine that breaks a run off: one line, the last checkpoint whole, and the way on."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch

from zoo.train.attempt import BrokenOffError
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.eln.eln import Eln
from zoo.train.runs.listing import read_run
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

CPU = Hardware("cpu")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.train.session.write_curves", lambda *_: None)


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Return a function that plans something for after a step (0-based)."""
    after_step = Eln.after_step

    def plan(step: int, happen: Callable[[], None]) -> None:
        def wrapped(method: Eln, progress: Any) -> None:
            after_step(method, progress)
            if progress.step == step:
                happen()

        monkeypatch.setattr(Eln, "after_step", wrapped)

    return plan


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """Return a function that lets no file of this process grow beyond 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, previous)


def test_a_full_disk_ends_the_run_in_one_line_and_leaves_the_former_checkpoint_whole(
    load_tiny: Load, at_step: Any, full_disk: Callable[[], None], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    at_step(6, full_disk)
    with pytest.raises(BrokenOffError, match=r"broke off after step 8 of 10: .* disk .* full") as caught:
        start(load_tiny({"checkpoint_every": 4}), run, CPU)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"continue with zoo train eln --resume --out {run}")
    assert load_checkpoint(run / "last.ckpt")["step"] == 4
    assert not list(run.glob(".*.tmp"))
    assert read_run(run).state == "failed"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize(
    ("every", "how"), [(2, "where another program took it, continue"), (20, "nothing was")]
)
def test_a_full_memory_ends_the_run_in_one_line_that_says_what_needs_less(
    error: RuntimeError, every: int, how: str, load_tiny: Load, at_step: Any, tmp_path: Path
) -> None:
    def run_out() -> None:
        raise error

    at_step(3, run_out)
    told = f"the memory is full: begin again with a smaller --batch.*--plan tells the largest batch.; {how}"
    with pytest.raises(BrokenOffError, match=told) as caught:
        start(load_tiny({"checkpoint_every": every}), tmp_path / "run", CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_dead_data_worker_ends_the_run_in_one_line(load_tiny: Load, at_step: Any, tmp_path: Path) -> None:
    def kill() -> None:
        for child in multiprocessing.active_children():
            child.kill()

    at_step(3, kill)
    with pytest.raises(BrokenOffError, match="a process that prepares batches died") as caught:
        start(load_tiny({"checkpoint_every": 2, "data.workers": 1}, steps=60), tmp_path / "run", CPU)
    assert "\n" not in str(caught.value)
    assert load_checkpoint(tmp_path / "run" / "last.ckpt")["step"] >= 2
    del caught
    gc.collect()  # the loader waits ten seconds for its dead worker: here, and not in another test


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_image_that_vanishes_is_named_and_the_run_goes_on_when_it_is_back(
    workers: int, load_tiny: Load, at_step: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_folder, tmp_path / "data")
    images, away = data / "train" / "images", data / "train" / "away"
    at_step(5, lambda: images.rename(away))
    recipe = load_tiny({"data.spec": str(data), "checkpoint_every": 2, "data.workers": workers}, steps=30)
    with pytest.raises(BrokenOffError, match=r"images/\d+\.png: got a file that cannot be read") as caught:
        start(recipe, tmp_path / "run", CPU)
    assert "\n" not in str(caught.value)
    away.rename(images)
    assert resume(tmp_path / "run", "eln", CPU)["steps"] == 30
