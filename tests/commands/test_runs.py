from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zoo.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Zoo = Callable[..., Result]


@pytest.fixture
def trained(zoo: Zoo, tiny_recipe: Path) -> Zoo:
    """Return the command line in a folder with a run of four steps."""
    options = (
        "--recipe",
        tiny_recipe,
        "--device",
        "cpu",
        "--steps",
        "4",
        "--out",
        "runs/one",
        "--no-export-check",
    )
    result = zoo("train", "eln", *options)
    assert result.exit_code == 0, result.output
    return zoo


def test_the_runs_are_a_table_and_json_and_have_a_report(trained: Zoo) -> None:
    shown = trained("runs").stdout
    for text in ("1 runs under runs", "whole on val", "one", "eln", "4/4", "finished", "mIoU 0.", " at 4"):
        assert text in shown
    (run,) = json.loads(trained("runs", "--json").stdout)
    assert (run["path"], run["step"], run["state"]) == ("runs/one", 4, "finished")
    assert json.loads(trained("runs", "runs/one", "--json").stdout) == [run]
    report = Path("runs/one/report.html")
    report.unlink()
    assert trained("report").stdout == f"Wrote {report}\n"
    assert report.is_file()


def test_an_unreadable_run_is_named_beside_the_others(zoo: Zoo) -> None:
    Path("runs/bad").mkdir(parents=True)
    Path("runs/bad/recipe.json").write_text("{")
    result = zoo("runs")
    assert result.exit_code == 0
    assert result.stdout == "No runs in runs\n"
    assert "skipped: runs/bad/recipe.json is not the recipe of a run" in result.stderr


def test_a_folder_that_is_not_there_is_refused(zoo: Zoo) -> None:
    result = zoo("runs", "nowhere")
    assert type(result.exception) is BundleError
    assert str(result.exception).startswith("nowhere is not a folder, expected one with runs")
