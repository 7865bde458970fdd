"""Processes that are killed, that work at once, and that may not write."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from zoo.errors import RegistryError
from zoo.registry.files import our_files
from zoo.registry.folder import listed
from zoo.registry.local import cached
from zoo.registry.pull import pull
from zoo.registry.push import PushOptions, push

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Files = dict[str, bytes]
    Environment = dict[str, str]

NOBODY = 65534
WEIGHTS_BYTES_PER_SECOND = 2e6


def contents(folder: Path) -> Files:
    return {name: path.read_bytes() for name, path in our_files(folder).items()}


def start(environment: Environment, *arguments: object, program: str | None = None) -> subprocess.Popen[str]:
    """Start `zoo`, or a program, as a process of its own."""
    command = [sys.executable, *(["-m", "zoo"] if program is None else ["-c", program]), *map(str, arguments)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()


@pytest.mark.slow
@pytest.mark.usefixtures("work")
def test_the_client_is_told_by_its_own_variables_alone(
    hub: Any, environment: Environment, bundle: Path, staged_files: Files
) -> None:
    for arguments in (
        ["push", bundle, "team/tiny"],
        ["pull", "team/tiny"],
        ["pull", "team/tiny", "--offline"],
    ):
        process = start(environment, *arguments)
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    ((_, commit),) = hub.repositories["team/tiny"].branches.items()
    assert f"team/tiny at {commit[:12]}" in out
    assert contents(pull("team/tiny", offline=True)) == staged_files


@pytest.mark.slow
@pytest.mark.usefixtures("work")
def test_a_pull_that_is_killed_leaves_no_bundle_and_the_next_one_completes_it(
    hub: Any, environment: Environment, published: str, staged_files: Files
) -> None:
    hub.bytes_per_second = WEIGHTS_BYTES_PER_SECOND
    process = start(environment, "pull", published)
    wait_for(lambda: any(path.startswith("/lfs/") for path in hub.fetched()))
    time.sleep(0.2)
    kill(process)
    assert cached() == ()
    assert not Path("zoo.lock").exists()
    with pytest.raises(RegistryError, match=f"{published} is not in the cache"):
        pull(published, offline=True)
    hub.bytes_per_second = None
    assert contents(pull(published)) == staged_files
    assert [bundle.name for bundle in cached()] == [published]


@pytest.mark.slow
@pytest.mark.usefixtures("work")
def test_two_processes_pull_one_model_at_once(
    hub: Any, environment: Environment, published: str, staged_files: Files
) -> None:
    hub.bytes_per_second = WEIGHTS_BYTES_PER_SECOND
    processes = [start(environment, "pull", published) for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    assert contents(pull(published, offline=True)) == staged_files
    assert pull(published, locked=True).name == hub.repositories[published].resolve("main")


STOPPING_PUSH = """
import sys, time
from pathlib import Path
from zoo.registry import folder
from zoo.registry.push import PushOptions, push
def stop(*arguments):
    print("here", flush=True)
    time.sleep(100)
setattr(folder, sys.argv[1], stop)
push(Path(sys.argv[2]), sys.argv[3], PushOptions())
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["_flush", "_write_pointer"])
def test_a_push_that_is_killed_loses_nothing_and_the_next_one_completes_it(
    environment: Environment, bundle: Path, work: Path, step: str
) -> None:
    name = f"file:{work}/share/tiny"
    first = push(bundle, name, PushOptions()).revision
    (bundle / "README.md").write_text("---\nlicense: mit\n---\n\n# Newer\n")
    process = start(environment, step, bundle, name, program=STOPPING_PUSH)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    kill(process)
    assert listed(work / "share") == ("tiny",)
    assert pull(name).name == first
    second = push(bundle, name, PushOptions()).revision
    assert pull(name).name == second != first
    assert pull(f"{name}@{first}").name == first


@contextmanager
def unprivileged() -> Iterator[None]:
    """Give up the right to write everywhere, if this is root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def read_only_cache(
    hub: Any, published: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, str, Path]]:
    """Return a Hub and a model in a cache that nobody may write to."""
    top = Path(tempfile.mkdtemp())  # others may not even look into the folders of pytest
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(top / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(top / "token"))
    pull(published)
    folders = [top, *(path for path in top.rglob("*") if path.is_dir() and not path.is_symlink())]
    for folder in folders:
        folder.chmod(0o555)
    yield hub, published, top
    for folder in folders:
        folder.chmod(0o755)
    shutil.rmtree(top)


def test_a_cache_that_may_not_be_written_to_still_gives_what_it_holds(
    read_only_cache: tuple[Any, str, Path], staged_files: Files
) -> None:
    hub, published, top = read_only_cache
    with unprivileged():
        assert contents(pull(published)) == contents(pull(published, offline=True)) == staged_files
        hub.add("team/other", staged_files)
        with pytest.raises(
            RegistryError, match=rf"{top}.* cannot be read or written for team/other: .*HF_HOME"
        ):
            pull("team/other")
