"""How a comparison is shown."""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.data.source import evenly_spaced
from zoo.train.compare.record import ComparisonFolder
from zoo.train.compare.report import ABSENT, COLUMNS, cells, facts, html, markdown, write_report
from zoo.train.compare.stats import headline, verdicts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.compare.record import Comparison

    Compared = Callable[..., Comparison]


def test_without_a_finished_run_nothing_is_said(compared: Compared) -> None:
    comparison = compared(supervised=[None])
    assert verdicts(comparison) == []
    assert headline(comparison) == ""
    assert cells(comparison) == [("supervised", ABSENT, "0", *[ABSENT] * 7, "1,234")]


def test_the_table_is_markdown_with_what_went_wrong(compared: Compared) -> None:
    text = markdown(compared(supervised=[0.5, 0.25], eln=[0.75, None]))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {len(COLUMNS) + 1}
    assert f"| supervised | 0.375 ± 0.177 | 2 | {ABSENT} |" in text
    assert (
        f"| eln | 0.750 | 1 | +25.0 | {ABSENT} | {ABSENT} | {ABSENT} | 18 | 1 min 40 s | 750 | 1,234 |"
        in text
    )
    assert "\n\neln is highest, but one seed cannot" in text
    assert "- no figures: eln-1 failed: no <memory>" in text
    assert "eln otherwise than in its recipe eln: network.decoder_channels 256 became 48." in text


def test_the_interval_of_a_row_says_whether_it_tells_apart(compared: Compared) -> None:
    near = cells(compared(supervised=[0.5, 0.6], eln=[0.6, 0.55]))[1]
    assert near[3] == f"+2.5 ± {100 * statistics.stdev([0.1, -0.05]):.1f}"
    assert near[5] == "no"
    far = cells(compared(supervised=[0.5, 0.6], eln=[0.7, 0.8]))[1]
    assert far[4:7] == ("+20.0 to +20.0", "yes", "0")


def test_the_batch_is_told_as_it_was(compared: Compared) -> None:
    comparison = compared(eln=[0.5])
    assert dict(facts(comparison))["batch"] == "2 labeled and 3 unlabeled images"
    twice = comparison.model_copy(update={"settings": comparison.settings | {"accumulate": 2}})
    assert dict(facts(twice))["batch"] == "2 times 2 labeled and 3 unlabeled images"


def test_the_page_stands_alone_and_quotes_what_it_shows(compared: Compared) -> None:
    page = html(compared(supervised=[0.5], eln=[None]), [], None)
    assert re.findall(r"(?:src|href)=|https?:|url\(|<script", page) == []
    assert "<b>resnet" not in page
    assert "&lt;b&gt;resnet&lt;/b&gt;" in page
    assert "eln-0 failed: no &lt;memory&gt;" in page
    assert 'name="viewport"' in page


def test_the_page_begins_with_what_the_figures_say(compared: Compared) -> None:
    page = html(compared(supervised=[0.5, 0.25], eln=[0.75, 0.5]), [], None)
    assert page.index("told apart from all others") < page.index("<table>")


def test_masks_that_are_hidden_by_default_are_told_before_the_figures(compared: Compared) -> None:
    comparison = compared(supervised=[0.5])
    assert 'class="warning"' not in html(comparison, [], None)
    noted = comparison.model_copy(update={"data": comparison.data | {"hidden_note": "7 of 8 <masks>"}})
    page, text = html(noted, [], None), markdown(noted)
    assert page.index('<p class="warning">7 of 8 &lt;masks&gt;</p>') < page.index("<table>")
    assert text.index("**7 of 8 <masks>**") < text.index("| row |")


def test_all_files_are_written_with_the_pictures_in_the_page(
    compared: Compared, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    comparison = compared(supervised=[0.5, 0.25], eln=[None, 0.75], u2pl=[0.3, 0.4])
    folder = ComparisonFolder(tmp_path)
    for name in ("supervised-0", "eln-1", "u2pl-0"):
        make_bundle(tmp_path / "runs" / name / "bundle", num_classes=3)
    paths = write_report(folder, comparison)
    names = ["report.html", "table.md", "gains.png", "curves.png", "classes.png", "pictures.png"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "runs"])
    page = paths[0].read_text()
    assert page.count('src="data:image/png;base64,') == len(re.findall(r"src=", page)) == 1
    titles = [
        "Gain over labels only; filled: clear",
        "mIoU on val: mean and range of seeds 0, 1",
        "IoU by class on val, mean of seeds 0, 1; colors: gain over labels only",
    ]
    assert [re.sub(r"\s", " ", title) for title in re.findall(r'aria-label="([^"]*)"', page)] == titles
    for path in paths[2:]:
        assert np.asarray(Image.open(path).convert("L")).std() > 0
    columns = round(Image.open(paths[5]).width / 300)
    assert columns == 2 + 3  # image, truth, a column for each method


def test_a_comparison_without_a_figure_has_a_report_without_pictures(
    compared: Compared, tmp_path: Path
) -> None:
    paths = write_report(ComparisonFolder(tmp_path), compared(supervised=[None]))
    assert [path.name for path in paths] == ["report.html", "table.md"]


@pytest.mark.parametrize(("count", "expected"), [(2, "cg"), (4, "bdfh"), (9, "abcdefgh"), (1, "e")])
def test_pictures_are_evenly_spaced(count: int, expected: str) -> None:
    assert "".join(evenly_spaced(tuple("abcdefgh"), count)) == expected
