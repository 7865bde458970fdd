"""Simulation of labeling: learning curves of the strategies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from zoo.cli import app
from zoo.data.partition import Partition
from zoo.label.simulate import Plan, Point, curves_page, labels_to, summary

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result


def zoo(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_labels_to_a_target_lie_between_the_rounds_around_it() -> None:
    points = [Point(10, 0.2), Point(20, 0.4), Point(30, 0.3), Point(40, 0.7)]
    assert labels_to(0.3, points) == pytest.approx(15)
    assert labels_to(0.5, points) == pytest.approx(35)
    assert labels_to(0.1, points) == 10
    assert labels_to(0.8, points) is None


def test_a_strategy_is_compared_with_random_seed_by_seed() -> None:
    curves = {
        "random": [[Point(4, 0.1), Point(6, 0.3)], [Point(4, 0.2), Point(6, 0.5)]],
        "entropy": [[Point(4, 0.1), Point(6, 0.4)], [Point(4, 0.2), Point(6, 0.7)]],
    }
    plan = Plan("data", 2, 1, ("random", "entropy"), (0, 1))
    found = summary(plan, curves, [Point(8, 0.4), Point(8, 0.5)])  # type: ignore[arg-type]
    assert found["target_miou"]["mean"] == pytest.approx(0.45)
    entropy = found["curves"]["entropy"]
    assert [point["mean"] for point in entropy["points"]] == pytest.approx([0.15, 0.55])
    assert entropy["gain_over_random"]["mean"] == pytest.approx(0.15)
    assert entropy["gain_over_random"]["sd"] == pytest.approx(0.5**0.5 / 10)
    assert entropy["labels_to_target"] == pytest.approx(5.5)
    assert found["curves"]["random"]["labels_to_target"] is None
    page = curves_page(found)
    assert "not reached" in page
    assert "<svg" in page


@pytest.mark.slow
def test_a_simulation_trains_on_growing_labels_and_is_not_repeated(
    tiny_folder: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--simulate", tiny_folder, "--out", out, "--method", "eln", "--recipe", tiny_recipe]
    options += ["--count", 2, "--rounds", 2, "--seeds", "5,", "--first", 3, "--target", 6]
    options += ["--strategies", "reliability", "--device", "cpu", "--json"]
    result = zoo("label", *options)
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert [point["labeled"] for point in value["curves"]["reliability"]["points"]] == [3, 5, 7]
    assert value["target_labels"] == 6
    folder = out / "seed-5"
    runs = (folder / "first", *(folder / "reliability" / f"round-{number}" for number in (1, 2)))
    first, second, third = (set(Partition.read(run / "partition").labeled) for run in runs)
    assert first < second < third
    before = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}
    assert json.loads(zoo("label", *options).stdout) == value
    assert {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")} == before
    other = zoo("label", *options, "--count", 1)
    assert "got another simulation, expected the same options" in str(other.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategies", "best"], "got best, expected some of reliability,random,entropy,core-set"),
        (["--seeds", "x"], "'x' is neither a number of seeds nor a list"),
    ],
)
def test_unknown_strategies_and_seeds_are_usage_errors(arguments: list[str], message: str) -> None:
    result = zoo("label", "--simulate", "shapes", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
