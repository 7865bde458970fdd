from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from zoo.data.partition import make_partition
from zoo.data.shapes import ShapesSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    Zoo = Callable[..., Result]


@pytest.mark.slow
def test_a_list_is_taken_by_partition_as_it_is(zoo: Zoo, tmp_path: Path) -> None:
    out = tmp_path / "splits"
    result = zoo("data", "split", "shapes", "1/32", "10", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    for each, count in zip(told["lists"], (15, 10), strict=True):
        partition = make_partition(ShapesSource(), each["file"], 0)
        assert (len(partition.labeled), partition.digest) == (count, each["digest"])
        assert min(each["classes"].values()) > 0
    assert sorted(path.name for path in out.iterdir()) == ["1-32.txt", "10.txt"]
    table = zoo("data", "split", "shapes", "1/32", "--out", out).stdout
    assert "15 (3%)" in table
    assert f"--partition {out / '1-32.txt'}" in table


@pytest.mark.parametrize("size", ["1:8", "half", "-3"])
def test_a_size_that_is_none_is_a_usage_error(zoo: Zoo, size: str) -> None:
    assert zoo("data", "split", "shapes", "--", size).exit_code == 2
