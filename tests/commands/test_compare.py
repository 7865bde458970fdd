from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zoo.commands.compare import parse_seeds
from zoo.errors import RecipeError, ZooError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Zoo = Callable[..., Result]

PATIENCE_S = 120
TINY = [
    "--methods=supervised,eln",
    "--partition=4",
    "--encoder=test_resnet",
    "--no-pretrained",
    "--imgsz=32",
    "--batch=2",
    "--device=cpu",
    "--set=data.workers=0",
    "--set=network.decoder_channels=16",
    "--set=network.low_level_channels=8",
    "--set=network.rates=[1]",
    "--set=eln.filter.encoder=test_resnet",
    "--no-controls",
]
FILES = [
    ".lock",
    "classes.png",
    "compare.json",
    "curves.png",
    "gains.png",
    "pictures.png",
    "pseudo_labels.png",
    "recipes",
    "report.html",
    "runs",
    "table.md",
]


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", (0,)), ("3", (0, 1, 2)), ("5,", (5,)), ("2,0,2", (2, 0)), (" 4 , 7", (4, 7))]
)
def test_seeds_are_a_number_or_a_list(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", "a"), "'a' is neither a number of seeds nor a list, expected e.g. 3 or 0,1,2"),
        (("--seeds", "0"), "is neither a number of seeds nor a list"),
        (("--seeds", "1,x"), "is neither a number of seeds nor a list"),
        (("--methods", ","), "',' names no method, expected e.g. supervised,eln"),
        (("--imgsz", "big"), "is not H,W"),
        (("--steps", "0"), "Invalid value for '--steps'"),
        (("--until-clear", "1"), "Invalid value for '--until-clear'"),
        (("--until-clear", "4", "--seeds", "1"), "expected two seeds or more, and N no less"),
        (("--until-clear", "2", "--seeds", "3"), "expected two seeds or more, and N no less"),
    ],
)
def test_a_bad_option_is_a_usage_error(zoo: Zoo, options: tuple[str, ...], message: str) -> None:
    result = zoo("compare", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        *(("--seeds", "1"), ("--methods", "eln"), ("--set", "data.workers=1"), ("--data", "x")),
        *(("--steps", "3"), ("--warm-steps", "0"), ("--no-controls",), ("--own-recipes",)),
        ("--until-clear", "4"),
    ],
)
def test_a_comparison_is_resumed_as_it_was_started(zoo: Zoo, option: tuple[str, ...]) -> None:
    result = zoo("compare", "--resume", "--out", "c", *option)
    assert isinstance(result.exception, RecipeError)
    assert str(result.exception) == (
        "--resume continues a comparison as it was started: leave the other options out"
    )


def test_there_must_be_a_comparison_to_resume(zoo: Zoo) -> None:
    for options, message in (((), "no comparison under"), (("--out", "c"), "c holds no compare.json")):
        result = zoo("compare", "--resume", *options)
        assert isinstance(result.exception, RecipeError)
        assert message in str(result.exception)


def test_a_method_that_is_unknown_leaves_nothing(zoo: Zoo) -> None:
    result = zoo("compare", "--methods", "supervised,yolo", "--out", "c")
    assert isinstance(result.exception, RecipeError)
    assert str(result.exception).startswith("method yolo is unknown, expected one of ")
    assert not Path("c").exists()


@pytest.mark.slow
def test_a_failed_run_is_told_and_the_others_are_kept(zoo: Zoo, tiny_folder: Path) -> None:
    # a rate as high as this gives losses that are not finite; the run stops at the first
    broken = ("--set=eln.optimizer.lr=1e30", "--set=max_bad_steps=1", "--steps=8", "--out=c", "--json")
    result = zoo("compare", "--data", tiny_folder, *TINY, *broken)
    assert result.exit_code == 1
    assert type(result.exception) is ZooError
    assert str(result.exception).startswith(
        "1 of 3 runs gave no figures (eln-0 failed: the loss was not finite"
    )
    found = json.loads(result.stdout)
    assert [run["state"] for run in found["runs"]] == ["finished", "finished", "failed"]
    assert [row["miou"] is None for row in found["summary"]["rows"]] == [False, True]
    assert sorted(path.name for path in Path("c").iterdir()) == [
        name
        for name in FILES
        if name not in ("gains.png", "pseudo_labels.png")  # of labels only alone
    ]
    assert "eln-0 failed: the loss was not finite" in Path("c/report.html").read_text()


@pytest.mark.slow
def test_rows_continue_the_warm_starts_of_their_seed_side_by_side(zoo: Zoo, tiny_folder: Path) -> None:
    options = [option for option in TINY if "eln" not in option and option != "--no-controls"]
    small = ("--set=rrn.discriminator={width=2,cell=1}", "--steps=8", "--warm-steps=3", "--jobs=2", "--out=c")
    result = zoo("compare", "--data", tiny_folder, "--methods=supervised,rrn", *options, *small, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [row["name"] for row in found["summary"]["rows"]] == [
        *("supervised", "supervised-strong", "supervised-ensemble"),
        *("rrn", "rrn branch_1", "rrn branch_2"),
    ]
    assert all(row["miou"]["n"] == 1 for row in found["summary"]["rows"])
    assert len({run["metrics"]["partition"] for run in found["runs"]}) == 1
    start = Path("c/runs/start-0/log.csv").read_text()
    assert start.splitlines()[-1].startswith("3,")  # the steps of the warm start
    for name in ("rrn", "supervised-ensemble"):
        told = Path(f"c/runs/{name}-0/train.log").read_text()
        assert re.search(r"branch_1 starts from .*c/runs/start-0/bundle", told)
        assert re.search(r"branch_2 starts from .*c/runs/start_2-0/bundle", told)
        assert Path(f"c/runs/{name}-0/log.csv").read_text().splitlines()[-1].startswith("5,")


@pytest.mark.slow
def test_a_comparison_broken_off_goes_on_and_equals_an_unbroken_one(zoo: Zoo, tiny_folder: Path) -> None:
    options = ["compare", "--data", str(tiny_folder), *TINY, "--steps=20", "--set=checkpoint_every=1"]
    command = [sys.executable, "-m", "zoo", *options, "--out", "broken"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not Path("broken/runs/eln-0/last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        _, remarks = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    *_, so_far, last = remarks.splitlines()
    assert last == (
        "error: stopped in eln-0; 2 of 3 runs are finished: continue with zoo compare --resume --out broken"
    )
    assert so_far.startswith("So far: broken/report.html, ")
    assert "eln-0 stopped" in Path("broken/report.html").read_text()
    resumed = json.loads(zoo("compare", "--resume", "--out", "broken", "--json").stdout)
    assert [run["attempts"] for run in resumed["runs"]] == [1, 1, 2]
    unbroken = json.loads(zoo(*options, "--out", "unbroken", "--json").stdout)
    for one, other in zip(resumed["runs"], unbroken["runs"], strict=True):
        assert one["metrics"]["val"] == other["metrics"]["val"]
        assert one["metrics"]["curve"] == other["metrics"]["curve"]
    assert len({run["metrics"]["partition"] for run in resumed["runs"]}) == 1  # of the warm start too
    assert sorted(path.name for path in Path("broken").iterdir()) == FILES
