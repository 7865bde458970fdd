from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from zoo.classes import IGNORE
from zoo.data.open import open_source
from zoo.data.partition import make_partition
from zoo.train.loop.filter_quality import IMAGES, FilterQuality, class_figures, figures, known_pixels
from zoo.train.loop.hardware import Hardware
from zoo.train.method import PseudoLabels, progress_at
from zoo.train.recipe.read import load_recipe
from zoo.train.report.page import html
from zoo.train.report.story import read_story
from zoo.train.runs.log import FILTER, last_figures, read_log
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.method import Method
    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

SILENT = {"mlmt", "mlmt-categorical", "supervised", "supervised-weighted", "rrn-cps"}
"""Cases that filter no pseudo-labels."""


def made(label: list[int], truth: list[int], keep: list[int], confidence: list[float]) -> Any:
    pseudo_labels = PseudoLabels(
        torch.tensor([[label]]), torch.tensor([[keep]]).bool(), torch.tensor([[confidence]])
    )
    return pseudo_labels, torch.tensor([[truth]])


def test_the_figures_are_those_of_the_pixels_whose_truth_is_known() -> None:
    first = made([0, 1, 1, 2, 0], [0, 1, 2, 1, IGNORE], [1, 0, 1, 0, 1], [0.9, 0.8, 0.2, 0.1, 1.0])
    second = made([1, 1], [1, 0], [1, 0], [0.7, 0.95])
    found = figures(known_pixels([first, second]))  # right, kept: 11 10 01 00, 11 00
    assert found == {
        "accuracy_of_all": 3 / 6,
        "kept": 3 / 6,
        "accuracy": 2 / 3,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": 4 / 6,
        # the three surest are wrong, right, right
        "by_confidence/accuracy": 2 / 3,
        "by_confidence/precision": 2 / 3,
        "by_confidence/recall": 2 / 3,
        "by_confidence/f1": 4 / 6,
    }


def test_a_filter_that_finds_all_errors_is_beside_a_threshold_that_does_not() -> None:
    pixels = known_pixels([made([0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0.1, 0.9, 0.8, 0.2])])
    found = figures(pixels)
    assert [found[name] for name in ("accuracy", "precision", "recall", "f1")] == [1, 1, 1, 1]
    assert found["by_confidence/accuracy"] == found["by_confidence/f1"] == 0.5


def test_figures_by_class_are_those_of_the_pixels_that_show_it() -> None:
    pixels = known_pixels([made([0, 0, 1, 1], [0, 1, 1, IGNORE], [1, 0, 1, 1], [0.9, 0.8, 0.2, 1.0])])
    found = class_figures(pixels, ("a", "b", "c"))
    assert set(found) == {"a", "b"}  # c is nowhere
    assert found["a"] == {
        "share": 1 / 3,
        "accuracy_of_all": 1,
        "kept": 1,
        "accuracy": 1,
        "by_confidence/kept": 1,
        "by_confidence/accuracy": 1,
    }
    assert found["b"] == {
        "share": 2 / 3,
        "accuracy_of_all": 1 / 2,
        "kept": 1 / 2,
        "accuracy": 1,
        "precision": 1,
        "recall": 1,
        "f1": 1,
        # the surest pixel of b is the wrong one
        "by_confidence/kept": 1 / 2,
        "by_confidence/accuracy": 0,
        "by_confidence/precision": 0,
        "by_confidence/recall": 0,
        "by_confidence/f1": 0,
    }


def test_what_there_is_nothing_of_has_no_figure() -> None:
    assert figures(known_pixels([made([0], [IGNORE], [1], [1.0])])) == {}
    assert "accuracy" not in figures(known_pixels([made([0], [0], [0], [1.0])]))
    assert not {"precision", "recall", "f1"} & set(figures(known_pixels([made([0], [0], [1], [1.0])])))


@pytest.fixture
def quality(load_tiny: Load) -> FilterQuality:
    recipe = load_tiny()
    source = open_source(recipe.data.spec)
    return FilterQuality(recipe, source, make_partition(source, recipe.data.partition, recipe.seed))


def test_every_method_that_filters_shows_what_it_keeps_and_is_left_as_it_was(
    case: str, build_method: Callable[[], Method], quality: FilterQuality
) -> None:
    method = build_method()
    with torch.no_grad():
        for value in method.state_dict().values():
            if value.is_floating_point():
                value.add_(0.01 * torch.randn_like(value))
    progress = progress_at(19, method.phases(20))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    random = torch.get_rng_state()
    found = quality(method, progress)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert bool(found) == (case not in SILENT)
    assert quality(method, progress) == found
    if found:
        assert all(0 <= value <= 1 for value in found.values())
        assert {"filter/kept", "filter/accuracy_of_all"} <= set(found)


@pytest.mark.parametrize("name", ["eln", "fixmatch", "rrn", "s4gan", "u2pl", "unimatch"])
def test_padding_is_never_kept(name: str, build: Callable[..., Any], make_batch: Callable[..., Any]) -> None:
    method, batch = build(name), make_batch(strong=0)
    batch.valid_u[:, :, 16:] = False
    with torch.no_grad():
        pseudo_labels = method.pseudo_labels(batch, progress_at(10, method.phases(20)))
    assert pseudo_labels.label.shape == pseudo_labels.keep.shape == pseudo_labels.confidence.shape
    assert pseudo_labels.label.shape == (2, 32, 32)
    assert not pseudo_labels.keep[:, :, 16:].any()


def test_u2pl_keeps_all_but_its_share_of_unreliable_pixels(
    build: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    method = build("u2pl", cutmix_probability=1.0)
    progress = progress_at(2, method.phases(20))
    pseudo_labels = method.pseudo_labels(make_batch(strong=0)._replace(draws_u=None), progress)
    assert pseudo_labels.keep.float().mean() == pytest.approx(1 - method.alpha(progress), abs=0.01)


def test_only_unlabeled_images_with_masks_are_looked_at(load_tiny: Load) -> None:
    recipe = load_tiny({"data.spec": "shapes", "data.partition": "1/2", "data.batch_u": 5})
    source = open_source("shapes")
    partition = make_partition(source, "1/2", 0)
    quality = FilterQuality(recipe, source, partition)
    assert len(set(quality.ids)) == IMAGES
    assert set(quality.ids) <= set(partition.unlabeled)
    assert sum(len(batch.weak[0]) for batch, _ in quality._batches()) == 30  # whole batches
    for batch, truth in quality._batches():
        assert torch.equal(truth == IGNORE, ~batch.weak[1])
    assert FilterQuality(recipe, source, make_partition(source, None, 0)).ids == ()


def test_a_run_logs_reports_and_keeps_the_quality_of_its_pseudo_labels(
    load_tiny: Load, tmp_path: Path
) -> None:
    metrics = start(load_tiny({"validate_every": 2}), tmp_path / "run", Hardware("cpu"))
    rows = read_log(tmp_path / "run" / "log.csv")
    measured = [row["step"] for row in rows if f"{FILTER}kept" in row]
    assert measured == [4, 6, 8, 10]  # after 3 steps of labels alone
    assert metrics["filter"] == last_figures(rows, FILTER)
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert kept["filter"]["step"] == 10
    assert [row["step"] for row in kept["filter_curve"]] == measured
    assert kept["filter_curve"][-1] == kept["filter"]
    by_class = kept["filter_by_class"]
    assert sum(each["share"] for each in by_class.values()) == pytest.approx(1)
    whole = sum(each["share"] * each["kept"] for each in by_class.values())
    assert whole == pytest.approx(kept["filter"]["kept"], abs=1e-5)
    page = html(read_story(tmp_path / "run"))
    assert "Pseudo-labels, on hidden masks" in page
    assert "confidence, as many" in page
    assert "errors caught by it" in page


def test_figures_by_class_are_measured_again_by_a_run_that_was_over(load_tiny: Load, tmp_path: Path) -> None:
    first = start(load_tiny({"validate_every": 5}), tmp_path / "run", Hardware("cpu"))
    (tmp_path / "run" / "metrics.json").unlink()  # killed before its figures were written
    again = resume(tmp_path / "run", "eln", Hardware("cpu"))
    assert again["filter_by_class"] == first["filter_by_class"]


def test_a_run_without_pseudo_labels_says_nothing_of_them(tiny_recipe: Path, tmp_path: Path) -> None:
    text = tiny_recipe.read_text()
    path = tmp_path / "plain.toml"
    path.write_text(text[: text.index("[method]")] + '[method]\nname = "supervised"\n')
    metrics = start(load_recipe(str(path)), tmp_path / "run", Hardware("cpu"))
    assert metrics["filter"] is metrics["filter_by_class"] is None
    assert metrics["filter_curve"] == []
    assert "Pseudo-labels" not in html(read_story(tmp_path / "run"))
