"""Cores that a process may use: by affinity and by the quotas of its cgroups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zoo import machine
from zoo.machine import cores, cpu_quota, fewer_cores

if TYPE_CHECKING:
    from collections.abc import Callable

    Group = Callable[..., None]

POD = "/kubepods/pod1/c1"


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    """Return a function that puts this process into cgroups of some files, on a machine of 8 cores."""

    def make(membership: str, files: dict[str, str]) -> None:
        (tmp_path / "self").write_text(membership)
        for name, text in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "self")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return make


def v1(folder: str, quota: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),  # version 2, in a container
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),  # the root has no such file
        (f"0::{POD}\n", {f"{POD[1:]}/cpu.max": "50000 100000"}, 0.5),
        (f"0::{POD}\n", {f"{POD[1:]}/cpu.max": "max 100000", "kubepods/cpu.max": "300000 100000"}, 3),
        (f"0::{POD}\n", {f"{POD[1:]}/cpu.max": "400000 100000", "kubepods/cpu.max": "150000 50000"}, 3),
        ("4:cpu,cpuacct:/\n3:cpuset:/\n", v1("cpu,cpuacct", 200000), 2),  # version 1
        ("4:cpu,cpuacct:/\n", v1("cpu", 200000), 2),
        ("4:cpu:/\n", v1("cpu", -1), None),
        (f"2:cpuacct,cpu:{POD}\n", v1(f"cpu{POD}", 100000) | v1("cpu", -1), 1),
        (f"2:cpu:{POD}\n", v1("cpu", 250000), 2.5),  # the path is that of the host
        ("5:memory:/\n3:cpuset:/\n", v1("memory", 100000) | v1("cpuset", 100000), None),
        ("4:cpu:/a\n0::/a\n", v1("cpu/a", 200000) | {"a/cgroup.procs": ""}, 2),  # both versions
        ("0::/a:b\n", {"a:b/cpu.max": "100000 100000"}, 1),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "0"}, None),
    ],
)
def test_the_quota_is_that_of_the_cgroup_or_of_an_ancestor(
    group: Group, membership: str, files: dict[str, str], expected: float | None
) -> None:
    group(membership, files)
    assert cpu_quota() == expected


@pytest.mark.parametrize(
    ("quota", "affinity", "expected"),
    [("200000", 8, 2), ("150000", 8, 2), ("50000", 8, 1), ("200000", 1, 1), ("max", 3, 3), ("6400000", 8, 8)],
)
def test_the_cores_are_the_least_of_affinity_and_quota(
    group: Group, monkeypatch: pytest.MonkeyPatch, quota: str, affinity: int, expected: int
) -> None:
    group("0::/\n", {"cpu.max": f"{quota} 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    assert cores() == expected
    assert fewer_cores() == (None if expected == 8 else expected)


def test_a_system_without_cgroups_and_affinity_gives_all_its_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores() == 6


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_a_pinned_process_uses_its_cores_alone() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from zoo.machine import cores; print(cores())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_cores_are_counted_in_one_place() -> None:
    """`os.cpu_count()` ignores affinity and quota: 49 images/s on one allowed core of several, not 266."""
    root = Path(__file__).parents[1]
    files = [file for top in ("zoo", "serve", "train", "export") for file in (root / top).rglob("*.py")]
    counting = {str(file.relative_to(root)) for file in files if "cpu_count" in file.read_text()}
    assert len(files) > 200
    assert counting == {"zoo/machine.py", "serve/bench/machine.py"}  # the latter next to the system's load
