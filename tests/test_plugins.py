from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zoo.errors import PluginError
from zoo.plugins import Table

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an installed package with rows for the group `zoo.tests`."""
    info = tmp_path / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[zoo.tests]\nseven = toy_rows:SEVEN\ntext = toy_rows:TEXT\nlost = toy_rows:LOST\n"
    )
    (tmp_path / "toy_rows.py").write_text("SEVEN = 7\nTEXT = 'seven'\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def table(install: Path) -> Table[int]:  # noqa: ARG001
    """Return a table with one row of its own."""
    return Table("zoo.tests", int, {"one": 1})


def test_rows_of_another_package_follow_the_built_in_ones(table: Table[int]) -> None:
    assert list(table) == ["one", "seven", "text", "lost"]
    assert (table["one"], table["seven"], len(table)) == (1, 7, 4)


def test_an_unknown_name_is_a_key_error_and_near_names_are_suggested(table: Table[int]) -> None:
    with pytest.raises(KeyError):
        table["eight"]
    assert table.near("sevn") == "seven"
    assert table.near("zzz") == "one, seven, text, lost"


def test_a_row_that_cannot_be_loaded_names_its_package_in_one_line(table: Table[int]) -> None:
    with pytest.raises(
        PluginError, match=r"lost \(toy_rows:LOST, entry point of zoo.tests\) cannot be loaded"
    ):
        table["lost"]


def test_a_row_of_another_type_is_refused(table: Table[int]) -> None:
    with pytest.raises(PluginError, match=r"text .* is a str, expected a int"):
        table["text"]


def test_a_row_can_be_added_for_this_process(table: Table[int]) -> None:
    table["two"] = 2
    assert table["two"] == 2
