"""What a comparison says of its runs, and how it is shown."""

from __future__ import annotations

import math
import re
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from zoo.train.compare_plots import evenly_spaced
from zoo.train.compare_report import ABSENT, COLUMNS, cells, html, markdown, write_report
from zoo.train.compare_stats import Spread, class_iou, curve, difference, rows, spread, verdicts
from zoo.train.comparison import Candidate, Comparison, ComparisonFolder, Run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Comparison]

CLASSES = ["class-0", "class-1", "class-2"]
SETTINGS = {
    "data.imgsz": [32, 32],
    "data.batch_l": 2,
    "network.architecture": "deeplabv3plus",
    "network.encoder": "<b>resnet</b>",
    "pretrained": False,
    "precision": "fp32",
    "steps": 20,
}
T_95_OF_2 = 4.303
"""Quantile of Student's t for three seeds."""


def metrics(miou: float, step_ms: dict[str, float] | None = None) -> dict[str, Any]:
    return {
        "val": {"miou": miou, "iou": {"class-0": miou, "class-1": None, "class-2": miou / 2}},
        "curve": [[10, miou / 2], [20, miou]],
        "step_ms": step_ms or {"first": 10.0, "second": 40.0},
        "peak_memory": {"mib": 1000 * miou, "kind": "somewhere"},
    }


@pytest.fixture
def make(tiny_folder: Path) -> Make:
    """Return a builder of a comparison from the mIoU of each method's seeds; None is a failed run."""

    def make(**mious: list[float | None]) -> Comparison:
        candidates = tuple(
            Candidate(
                method=method,
                recipe=method,
                phases={"first": 15, "second": 5},
                kept=1234,
                trained=5678,
                overridden={"network.decoder_channels": (256, 48)} if method == "eln" else {},
            )
            for method in mious
        )
        runs = [
            Run(method=method, seed=seed, command=f"zoo train {method}", wall_s=100.0 * (seed + 1))
            for method in mious
            for seed in range(len(mious[method]))
        ]
        done: list[Run] = []
        for run in runs:
            miou = mious[run.method][run.seed]
            state = {"state": "failed", "reason": "no <memory>"} if miou is None else {"state": "finished"}
            done.append(run.model_copy(update={**state, "metrics": None if miou is None else metrics(miou)}))
        return Comparison(
            timestamp="2026-11-21T10:00:00+00:00",
            command="zoo compare",
            machine={"cpu": "a processor", "cores": 2, "gpu": None},
            versions={"zoo": "0", "tensorrt": None},
            device="cpu",
            data={"spec": str(tiny_folder), "partition": "4", "classes": CLASSES, "labeled": 4}
            | {"unlabeled": 6, "val": 2},
            settings=SETTINGS,
            candidates=candidates,
            runs=tuple(done),
        )

    return make


def literal_interval(values: list[float], quantile: float) -> tuple[float, float]:
    """Return mean -+ t s / sqrt(n) from the formula."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    reach = quantile * math.sqrt(variance / n)
    return mean - reach, mean + reach


def test_a_spread_is_mean_and_sample_deviation() -> None:
    assert spread([]) is None
    assert spread([0.5]) == Spread(n=1, mean=0.5, sd=None)
    assert spread([0.25, 0.5, 0.75]) == Spread(n=3, mean=0.5, sd=0.25)


def test_an_interval_is_students() -> None:
    values = [0.1, 0.02, 0.06]
    found = spread(values)
    assert found is not None
    assert found.interval == pytest.approx(literal_interval(values, T_95_OF_2))
    many = spread([0.0, 1.0] * 20)
    assert many is not None
    assert many.interval == pytest.approx(literal_interval([0.0, 1.0] * 20, 2.228))


def test_one_seed_has_no_interval() -> None:
    found = spread([0.9])
    assert found is not None
    assert found.interval is None
    assert not found.excludes_zero


def test_methods_are_compared_seed_by_seed(make: Make) -> None:
    comparison = make(supervised=[0.5, 0.25, None, 0.5], eln=[0.75, 0.5, 0.9, None])
    gap = difference(comparison, "eln", "supervised")
    assert gap == Spread(n=2, mean=0.25, sd=0.0)
    assert difference(comparison, "supervised", "eln") == Spread(n=2, mean=-0.25, sd=0.0)
    assert difference(make(supervised=[None], eln=[0.5]), "eln", "supervised") is None


def test_a_row_is_what_its_runs_give(make: Make) -> None:
    comparison = make(supervised=[0.5, 0.25], eln=[0.75, 0.75])
    supervised, eln = rows(comparison)
    assert supervised.difference is None
    assert eln.difference == spread([0.25, 0.5])
    assert eln.miou == Spread(n=2, mean=0.75, sd=0.0)
    assert (eln.wall_s, eln.peak_mib, eln.parameters) == (150.0, 750.0, 1234)
    assert eln.step_ms == (15 * 10 + 5 * 40) / 20


def test_a_resumed_run_counts_the_phases_it_timed(make: Make) -> None:
    comparison = make(eln=[0.5])
    resumed = comparison.runs[0].model_copy(update={"metrics": metrics(0.5, {"second": 40.0})})
    assert rows(comparison.with_run(resumed))[0].step_ms == 40


def test_seeds_that_overlap_are_said_to(make: Make) -> None:
    told = verdicts(make(supervised=[0.639, 0.656, 0.721], eln=[0.729, 0.680, 0.753]))
    low, high = literal_interval([0.09, 0.024, 0.032], T_95_OF_2)
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
    assert told == [
        (
            "eln is 4.9 points above supervised on the mean of 3 seeds, 95 % interval "
            f"{interval}: these seeds do not tell them apart."
        )
    ]


def test_a_clear_difference_is_said_without_a_but(make: Make) -> None:
    (told,) = verdicts(make(supervised=[0.5, 0.51, 0.52], eln=[0.6, 0.62, 0.63]))
    assert told.startswith("eln is 10.7 points above supervised on the mean of 3 seeds, 95 % interval +")
    assert "apart" not in told


def test_one_seed_is_said_to_tell_nothing(make: Make) -> None:
    (told,) = verdicts(make(supervised=[0.5], eln=[0.6], u2pl=[0.55]))
    assert told == (
        "eln is 5.0 points above u2pl, 10.0 points above supervised with one seed, which cannot tell a "
        "difference from chance: give --seeds 0,1,2."
    )


def test_without_a_finished_run_nothing_is_said(make: Make) -> None:
    comparison = make(supervised=[None])
    assert verdicts(comparison) == []
    assert cells(comparison) == [("supervised", *[ABSENT] * 6, "1,234")]


def test_a_curve_is_mean_and_range_where_all_seeds_were_evaluated(make: Make) -> None:
    comparison = make(eln=[0.5, 0.25])
    assert curve(comparison, "eln") == ([10, 20], [0.1875, 0.375], [0.125, 0.25], [0.25, 0.5])
    shorter = metrics(0.5) | {"curve": [[20, 0.5]]}
    changed = comparison.with_run(comparison.runs[1].model_copy(update={"metrics": shorter}))
    assert curve(changed, "eln").steps == [20]


def test_a_class_that_is_absent_has_no_iou(make: Make) -> None:
    found = class_iou(make(eln=[0.5, 0.25]), "eln")
    assert found == {"class-0": [0.5, 0.25], "class-1": [], "class-2": [0.25, 0.125]}


def test_the_table_is_markdown_with_what_went_wrong(make: Make) -> None:
    text = markdown(make(supervised=[0.5, 0.25], eln=[0.75, None]))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {len(COLUMNS) + 1}
    assert f"| supervised | 0.375 ± 0.177 (n = 2) | {ABSENT} |" in text
    assert "| eln | 0.750 (n = 1) | +25.0 | one seed: none | 18 | 1 min 40 s | 750 | 1,234 |" in text
    assert "- no figures: eln-1 failed: no <memory>" in text
    assert "eln otherwise than in its recipe eln: network.decoder_channels 256 became 48." in text


def test_the_interval_of_a_row_says_whether_it_tells_apart(make: Make) -> None:
    near = cells(make(supervised=[0.5, 0.6], eln=[0.6, 0.55]))[1]
    assert near[2] == f"+2.5 ± {100 * statistics.stdev([0.1, -0.05]):.1f}"
    assert near[3].endswith(": not told apart")
    far = cells(make(supervised=[0.5, 0.6], eln=[0.7, 0.8]))[1]
    assert far[3] == "+20.0 to +20.0"


def test_the_page_stands_alone_and_quotes_what_it_shows(make: Make) -> None:
    page = html(make(supervised=[0.5], eln=[None]), [])
    assert re.findall(r"(?:src|href)=|https?:|url\(|<script", page) == []
    assert "<b>resnet" not in page
    assert "&lt;b&gt;resnet&lt;/b&gt;" in page
    assert "eln-0 failed: no &lt;memory&gt;" in page
    assert 'name="viewport"' in page


def test_all_files_are_written_with_the_pictures_in_the_page(
    make: Make, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    comparison = make(supervised=[0.5, 0.25], eln=[None, 0.75], u2pl=[0.3, 0.4])
    folder = ComparisonFolder(tmp_path)
    for name in ("supervised-0", "eln-1", "u2pl-0"):
        make_bundle(tmp_path / "runs" / name / "bundle", num_classes=3)
    paths = write_report(folder, comparison)
    names = ["report.html", "table.md", "curves.png", "classes.png", "pictures.png"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "runs"])
    page = paths[0].read_text()
    assert page.count('src="data:image/png;base64,') == len(re.findall(r"src=", page)) == 3
    for path in paths[2:]:
        assert np.asarray(Image.open(path).convert("L")).std() > 0
    columns = round(Image.open(paths[4]).width / 300)
    assert columns == 2 + 3  # image, truth, a column for each method


def test_a_comparison_without_a_figure_has_a_report_without_pictures(make: Make, tmp_path: Path) -> None:
    paths = write_report(ComparisonFolder(tmp_path), make(supervised=[None]))
    assert [path.name for path in paths] == ["report.html", "table.md"]


@pytest.mark.parametrize(("count", "expected"), [(2, "cg"), (4, "bdfh"), (9, "abcdefgh"), (1, "e")])
def test_pictures_are_evenly_spaced(count: int, expected: str) -> None:
    assert "".join(evenly_spaced(tuple("abcdefgh"), count)) == expected
