"""Held-out labeled images choose the step that is kept; without them it is the last one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from zoo.bundle.bundle import load_config
from zoo.bundle.weights import load_bundle
from zoo.classes import IGNORE
from zoo.data.partition import Partition
from zoo.errors import DatasetError, RecipeError
from zoo.train.data.streams import HELD_OUT_NAME, TrainingData, hold_out, read_held_out
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.engine import TrainingStoppedError
from zoo.train.loop.hardware import Hardware
from zoo.train.loop.validation import Validation
from zoo.train.method import Phase
from zoo.train.methods.eln.eln import Eln
from zoo.train.recipe.read import load_recipe
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.listing import read_run
from zoo.train.runs.log import read_log
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zoo.classes import Mask
    from zoo.data.source import Source
    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

CPU = Hardware("cpu")
SELECTING = {"select_on": "1/3", "validate_every": 2, "data.partition": "6"}
LABELED = tuple("abcdef")
SCORES = [0.1, 0.4, 0.9, 0.9, 0.2]
"""On held-out images after steps 2, 4, ...: step 6 is the first of the best."""


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let held-out images give `SCORES`, whatever the weights; `val` is evaluated as always."""

    def validation(recipe: Recipe, source: Any, *rest: Any) -> Any:
        if type(source).__name__ != "HeldOut":
            return Validation(recipe, source, *rest)
        return lambda *_: {"val/miou": SCORES[scripted.pop(0)]}

    scripted = list(range(len(SCORES)))
    monkeypatch.setattr("zoo.train.session.Validation", validation)
    monkeypatch.setattr("zoo.train.session.write_curves", lambda *_: None)
    return


def test_the_kept_step_is_the_first_that_is_best_on_held_out_images(load_tiny: Load, tmp_path: Path) -> None:
    metrics = start(load_tiny(SELECTING), tmp_path / "run", CPU)
    run = RunFolder(tmp_path / "run")
    assert metrics["selected"] == {"step": 6, "figure": "miou", "value": 0.9, "on": "1/3"}
    assert [row["held_out/miou"] for row in read_log(run.path / "log.csv")] == SCORES
    assert (load_checkpoint(run.best)["step"], load_checkpoint(run.checkpoint)["step"]) == (6, 10)
    config = load_config(run.bundle)
    assert config.provenance["step"] == 6
    assert config.metrics["val"]["miou"] == metrics["val"]["miou"]
    kept = load_checkpoint(run.best)["method"]
    network = load_bundle(run.bundle)[0].state_dict()
    name = next(name for name, value in network.items() if value.is_floating_point())
    assert torch.equal(network[name], kept[name.replace("network.", "student.", 1)])
    assert (read_run(run.path).evaluated, read_run(run.path).value) == (6, metrics["val"]["miou"])
    assert "best on 1/3 of the labeled images" in (run.path / "report.html").read_text()


def test_held_out_images_are_labeled_ones_that_nothing_trains_on(load_tiny: Load, tmp_path: Path) -> None:
    start(load_tiny(SELECTING), tmp_path / "run", CPU)
    folder = tmp_path / "run" / "partition"
    partition, held_out = Partition.read(folder), read_held_out(folder)
    assert (len(partition.labeled), len(held_out), len(partition.unlabeled)) == (4, 2, 4)
    assert set(held_out).isdisjoint(partition.labeled + partition.unlabeled)
    assert all(id_.startswith("train/") for id_ in held_out)


def test_a_resumed_run_remembers_the_best_step(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("zoo.train.loop.engine.Engine._any", lambda engine, _: engine.step == 7)
        with pytest.raises(TrainingStoppedError):
            start(load_tiny(SELECTING), tmp_path / "run", CPU)
    metrics = resume(tmp_path / "run", "eln", CPU)
    assert metrics["selected"]["step"] == 6


def test_without_it_the_last_step_is_kept(load_tiny: Load, tmp_path: Path) -> None:
    metrics = start(load_tiny({"validate_every": 2}), tmp_path / "run", CPU)
    assert metrics["selected"] is None
    assert not (tmp_path / "run" / "best.ckpt").exists()
    assert not (tmp_path / "run" / "partition" / HELD_OUT_NAME).exists()
    assert load_config(tmp_path / "run" / "bundle").provenance["step"] == 10


def test_images_whose_tags_are_known_are_neither_labeled_nor_held_out(
    load_tiny: Load, tmp_path: Path
) -> None:
    whole = {"data.tags": str(tmp_path / "tags.txt"), "data.resize": "stretch", "data.augment.scale": [1, 1]}
    data = TrainingData.draw(load_tiny(SELECTING | whole))
    phases = (Phase("tags", 1, tags=True),)
    (tmp_path / "tags.txt").write_text(f"{data.partition.unlabeled[0]} 0 1\n")
    tagged = data.for_phases(phases)
    assert tagged.partition.tags == {data.partition.unlabeled[0]: (0, 1)}
    assert (tagged.partition.labeled, tagged.held_out) == (data.partition.labeled, data.held_out)
    (tmp_path / "tags.txt").write_text(f"{data.held_out[0]} 0\n")
    with pytest.raises(DatasetError, match=rf"got '{data.held_out[0]} 0', expected an unlabeled image"):
        data.for_phases(phases)


def test_the_data_of_a_run_is_read_as_it_was_written(load_tiny: Load, tmp_path: Path) -> None:
    data = TrainingData.draw(load_tiny(SELECTING))
    data.write(tmp_path)
    read = TrainingData.read(data.recipe, tmp_path)
    assert (read.partition, read.held_out) == (data.partition, data.held_out)
    assert read.selection is not None
    assert read.selection.ids("val") == data.held_out


def test_samples_of_a_seed_are_nested_and_another_seed_draws_others(load_tiny: Load) -> None:
    partition = Partition("full", 0, LABELED, ())
    draws = {
        (seed, count): set(hold_out(load_tiny(SELECTING | {"select_on": count, "seed": seed}), partition)[1])
        for seed in range(4)
        for count in ("1", "2", "3")
    }
    assert all(draws[seed, "1"] < draws[seed, "2"] < draws[seed, "3"] for seed in range(4))
    assert len({frozenset(draws[seed, "3"]) for seed in range(4)}) > 1


@pytest.mark.parametrize("spec", ["6", "7", "3/2"])
def test_something_must_be_left_to_train_on(spec: str, load_tiny: Load) -> None:
    with pytest.raises(RecipeError, match=f"select_on {spec}: expected a share up to 1, or a number below 6"):
        hold_out(load_tiny(SELECTING | {"select_on": spec}), Partition("full", 0, LABELED, ()))


@pytest.mark.parametrize("spec", ["5", "1", "1/5"])
@pytest.mark.parametrize(("labeled", "told"), [(("a",), "1 labeled image,"), ((), "0 labeled images,")])
def test_one_labeled_image_is_not_enough(
    spec: str, labeled: tuple[str, ...], told: str, load_tiny: Load
) -> None:
    with pytest.raises(RecipeError, match=f"select_on {spec}: got {told} expected at least two"):
        hold_out(load_tiny(SELECTING | {"select_on": spec}), Partition("full", 0, labeled, ()))


@pytest.mark.parametrize("every", [0, 10, 20])
def test_there_must_be_evaluations_to_choose_between(every: int, load_tiny: Load) -> None:
    with pytest.raises(RecipeError, match=f"chooses between evaluations, got validate_every {every} in 10"):
        hold_out(load_tiny(SELECTING | {"validate_every": every}), Partition("full", 0, LABELED, ()))


def test_images_without_a_labeled_pixel_select_nothing(
    load_tiny: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_tiny(SELECTING)
    data = TrainingData.draw(recipe)
    held_out, kind = data.held_out, type(data.source)
    read, void = kind.read_mask, set(held_out)

    def read_mask(source: Source, id_: str) -> Mask:
        mask = read(source, id_)
        return np.full_like(mask, IGNORE) if id_ in void else mask

    monkeypatch.setattr(kind, "read_mask", read_mask)
    with pytest.raises(
        DatasetError, match=rf"select_on 1/3: got masks that are ignored .* \({held_out[0]}\)"
    ):
        TrainingData.draw(recipe)
    void.discard(held_out[-1])
    assert TrainingData.draw(recipe).held_out == held_out


def test_a_number_of_images_to_select_on_may_be_a_number(tiny_recipe: Path) -> None:
    assert load_recipe(str(tiny_recipe), changes={"select_on": 2}).select_on == "2"


@pytest.mark.parametrize("spec", ["val", "0", "1/0", "0.2", ""])
def test_val_and_nonsense_never_select(spec: str, tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"select_on is .* val never selects"):
        load_recipe(str(tiny_recipe), changes={"select_on": spec})


def test_a_list_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"held_out\.txt: got no list that can be read"):
        read_held_out(tmp_path)


def test_old_metrics_without_a_selection_are_read(load_tiny: Load, tmp_path: Path) -> None:
    start(load_tiny(steps=4), tmp_path, CPU)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    del metrics["selected"]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert read_run(tmp_path).evaluated == 4
    assert Eln.weights[0] == load_config(tmp_path / "bundle").weights
