"""`zoo.compare`: the comparison of the command, as an object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import zoo
from tests.api.conftest import SMALL
from zoo.api.compare import compare
from zoo.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path


def test_seeds_are_a_number_or_a_list_and_enough_for_until_clear(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="got seeds 0, expected one or more"):
        compare(seeds=0, out=tmp_path / "c")
    with pytest.raises(RecipeError, match="got until_clear 4 with 1 seeds, expected two or more"):
        compare(seeds=[7], until_clear=4, out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_resume_takes_no_other_options(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--resume continues a comparison as it was started"):
        compare(steps=4, resume=True, out=tmp_path / "c")


@pytest.mark.slow
def test_a_comparison_shows_its_table_after_each_run(tiny_folder: Path, tmp_path: Path) -> None:
    seen: list[zoo.CompareResult] = []
    result = zoo.compare(
        tiny_folder,
        methods=["supervised", "eln"],
        steps=6,
        warm_steps=0,
        controls=False,
        device="cpu",
        settings=SMALL,
        out=tmp_path / "c",
        on_run=seen.append,
    )
    assert result.failures == []
    assert [len(each.comparison.finished) for each in seen] == [1, 2]
    assert {row[0] for row in result.tables[0].rows} >= {"supervised"}
    assert (tmp_path / "c" / "report.html") in result.files
    assert "<table>" in result._repr_html_()
    assert len(zoo.Run(tmp_path / "c" / "runs" / "eln-0").log) > 0
    again = zoo.compare(resume=True, out=tmp_path / "c")
    assert again.comparison.runs == result.comparison.runs
