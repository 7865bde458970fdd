"""The loss on labeled pixels that a recipe chooses: in the supervised term of every method, nowhere else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from zoo.data.folder import FolderSource
from zoo.errors import RecipeError
from zoo.train.data.class_pixels import count_pixels, inverse
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.hardware import Hardware
from zoo.train.method import Batch, Method, Progress, progress_at
from zoo.train.recipe.read import load_recipe
from zoo.train.session import resume, start
from zoo.train.strip import strip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.recipe.schema import Recipe

SUPERVISED = {
    "eln": {"sup"},
    "fixmatch": {"x"},
    "rrn": {"sup_1", "sup_2"},
    "s4gan": {"ce"},
    "supervised": {"sup"},
    "u2pl": {"s"},
    "unimatch": {"x"},
}
"""Supervised terms by method."""
CPU = Hardware("cpu")


def last_step(method: Method) -> Progress:
    return progress_at(19, method.phases(20))


@pytest.mark.parametrize("weighted", [False, True], ids=["dice", "weighted"])
@pytest.mark.parametrize("name", SUPERVISED)
def test_the_loss_changes_the_supervised_term_and_no_other(
    name: str, weighted: bool, build: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    found = []
    label_loss = "cross_entropy" if weighted else "dice"
    for changes in ({}, {"label_loss": label_loss, "weighted": weighted}):
        torch.manual_seed(0)
        method = build(name, **changes)
        phase = method.phases(20)[-1]
        torch.manual_seed(1)
        batch = make_batch(phase.labeled, phase.unlabeled, strong=phase.strong)
        torch.manual_seed(2)
        found.append(method(batch, last_step(method)))
    plain, changed = found
    assert plain.keys() == changed.keys()
    assert {key for key in plain if plain[key] != changed[key]} == SUPERVISED[name]


def test_the_auxiliary_decoders_of_eln_are_gated_by_cross_entropies_whatever_the_loss(
    build: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    batch, found = make_batch(), []
    for label_loss in ("cross_entropy", "dice"):
        torch.manual_seed(0)
        method = build("eln", label_loss=label_loss, alphas=(0.5, 0.9))
        found.append(method(batch, last_step(method))["aux"])
    assert found[0] == found[1] > 0


def test_a_method_without_this_loss_is_refused_with_one_line(build: Callable[..., Any]) -> None:
    for changes in ({"label_loss": "dice"}, {"weighted": True}):
        with pytest.raises(RecipeError, match=r"mlmt does not learn by `LabelLoss`, expected loss") as caught:
            build("mlmt", **changes)
        assert "\n" not in str(caught.value)


def test_the_papers_recipes_have_the_loss_of_their_method() -> None:
    for name in ("eln_voc_1-8", "rrn_voc_1-8", "s4gan_voc_1-8", "u2pl_cityscapes_1-8", "unimatch"):
        recipe = load_recipe(name)
        assert recipe.label_loss.is_plain
        assert recipe.data.rare_classes == 0


class StopError(Exception):
    """What ends a process without a word, in these tests."""


@pytest.fixture
def imbalanced(load_tiny: Callable[..., Recipe]) -> Recipe:
    changes = {
        "loss": "cross_entropy + 0.5 * dice",
        "class_weights": "inverse",
        "data.rare_classes": 0.5,
        "checkpoint_every": 1,
    }
    return load_tiny({**changes, "method.filter": {"kind": "confidence", "threshold_by_class": True}})


def test_a_run_keeps_its_weights_and_a_resumed_one_ends_as_if_it_had_never_stopped(
    imbalanced: Recipe,
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("zoo.train.session.write_curves", lambda *_: None)
    caplog.set_level("INFO")
    start(imbalanced, tmp_path / "whole", CPU)
    record = json.loads((tmp_path / "whole/class_weights.json").read_text())
    labeled = (tmp_path / "whole/partition/labeled.txt").read_text().split()
    assert record["source"] == f"inverse, {len(labeled)} labeled images"
    assert f"class weights, {record['source']}: " in caplog.text
    pixels = count_pixels(FolderSource(tiny_folder), labeled)
    expected = [float(value) for value in torch.tensor(inverse(pixels), dtype=torch.float32)]
    assert [row["weight"] for row in record["classes"].values()] == expected

    from zoo.train.methods.eln.eln import Eln

    after_step = Eln.after_step

    def dying(method: Eln, progress: Progress) -> None:
        if progress.step == 7:
            raise StopError
        after_step(method, progress)

    monkeypatch.setattr(Eln, "after_step", dying)
    with pytest.raises(StopError):
        start(imbalanced, tmp_path / "cut", CPU)
    monkeypatch.setattr(Eln, "after_step", after_step)
    monkeypatch.setattr("zoo.train.session.class_weights_of", None)  # nothing is measured again
    caplog.clear()
    resume(tmp_path / "cut", "eln", CPU)
    assert "class weights of the checkpoint: " in caplog.text
    whole, cut = (load_checkpoint(tmp_path / name / "last.ckpt")["method"] for name in ("whole", "cut"))
    assert whole["label_loss.class_weights"].tolist() == expected
    assert whole["filter.class_confidence.mean"].max() > 0
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    assert strip(tmp_path / "cut").is_dir()


def test_a_wrong_list_of_weights_trains_nothing(load_tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"class_weights has 2 numbers, expected \d+, one for each class"):
        start(load_tiny({"class_weights": [1, 2]}), tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()
