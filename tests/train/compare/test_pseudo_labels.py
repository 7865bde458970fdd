"""What a comparison shows of its methods' pseudo-labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from zoo.train.compare.plots import pseudo_labels
from zoo.train.compare.pseudo_labels import ABSENT, qualities, tables
from zoo.train.compare.report import html, markdown, plots

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.compare.record import Comparison

    Compared = Callable[..., Comparison]


def figures(kept: float, recall: float | None = None) -> dict[str, float]:
    found = {"accuracy_of_all": 0.75, "kept": kept, "accuracy": 0.9, "by_confidence/accuracy": 0.8}
    return found if recall is None else found | {"recall": recall, "by_confidence/recall": 0.5}


@pytest.fixture
def filtered(compared: Compared) -> Comparison:
    """Return a comparison of labels only and a method that filters; its seeds were evaluated apart."""
    comparison = compared(supervised=[0.5, 0.5], eln=[0.6, 0.7])
    for run, kept, steps in zip(comparison.of("eln"), (0.25, 0.5), ((10, 20), (20,)), strict=True):
        curve = [{"step": step} | figures(kept + step / 100, 0.5) for step in steps]
        by_class = {"class-0": figures(kept) | {"share": 1.0}}
        metrics: dict[str, Any] = {"filter": figures(kept, 0.5 if kept == 0.25 else None)}
        metrics |= {"filter_curve": curve, "filter_by_class": by_class}
        assert run.metrics is not None
        comparison = comparison.with_run(run.model_copy(update={"metrics": run.metrics | metrics}))
    return comparison


def test_the_figures_are_means_over_the_seeds_that_have_them(filtered: Comparison) -> None:
    found = qualities(filtered)
    assert set(found) == {"eln"}  # labels only makes no pseudo-labels
    assert (found["eln"].last["kept"], found["eln"].last["recall"]) == (0.375, 0.5)
    assert [row["step"] for row in found["eln"].over_time] == [20]  # where both seeds were evaluated
    assert found["eln"].over_time[0]["kept"] == pytest.approx(0.575)


def test_the_tables_show_the_filter_and_a_threshold_of_the_same_share(filtered: Comparison) -> None:
    whole, by_class = tables(filtered)
    assert whole.rows == [
        ("eln", "0.750", "0.375", "0.900 (0.800)", "0.500 (0.500)", *[f"{ABSENT} ({ABSENT})"] * 2)
    ]
    assert by_class.rows == [
        (
            *("class-0", "1.000", "0.750", f"0.375 ({ABSENT})"),
            *("0.900 (0.800)", f"{ABSENT} ({ABSENT})"),
        )
    ]
    assert {len(row) for row in by_class.rows} == {len(by_class.head)}


def test_the_report_has_them_and_their_plot(filtered: Comparison) -> None:
    assert "pseudo_labels.png" in plots(filtered)
    titles = [axes.get_title(loc="left") for axes in pseudo_labels(filtered).axes]
    assert titles == ["Share of pixels kept", "Errors caught; dotted: by confidence"]
    page, text = html(filtered, [], None), markdown(filtered)
    for title in ("Pseudo-labels of eln by true class", "0.900 (0.800)"):
        assert title in page
        assert title in text


def test_a_name_with_a_pipe_stays_in_its_cell(filtered: Comparison) -> None:
    for run in filtered.of("eln"):
        assert run.metrics is not None
        by_class = {"road|lane": run.metrics["filter_by_class"]["class-0"]}
        filtered = filtered.with_run(
            run.model_copy(update={"metrics": run.metrics | {"filter_by_class": by_class}})
        )
    assert f"| road&#124;lane | 1.000 | 0.750 | 0.375 ({ABSENT}) |" in markdown(filtered)


def test_without_hidden_masks_nothing_is_said_of_them(compared: Compared) -> None:
    comparison = compared(supervised=[0.5], eln=[0.6])
    assert tables(comparison) == []
    assert "pseudo_labels.png" not in plots(comparison)
    assert "Pseudo-labels of" not in html(comparison, [], None) + markdown(comparison)
