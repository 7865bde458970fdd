from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from zoo.bundle.bundle import load_config
from zoo.bundle.weights import load_bundle
from zoo.catalog import recipe_names
from zoo.errors import BundleError, RecipeError
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.engine import TrainingStoppedError
from zoo.train.loop.hardware import Hardware
from zoo.train.recipe.read import load_recipe
from zoo.train.runs.folder import RunFolder
from zoo.train.session import start
from zoo.train.strip import strip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

CPU = Hardware("cpu")


def scored_networks(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Return a list that grows by the network of each predictor."""
    from zoo.train import session
    from zoo.train.loop import validation

    seen: list[str | None] = []

    def watched(method: Any, recipe: Any, source: Any, weights: str | None = None) -> Any:
        seen.append(weights)
        return made(method, recipe, source, weights)

    made = validation.predictor_of
    monkeypatch.setattr(validation, "predictor_of", watched)
    monkeypatch.setattr(session, "predictor_of", watched)
    return seen


def test_the_network_of_the_recipe_is_scored_once_it_is_trained_and_bundled(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scored_networks(monkeypatch)
    metrics = start(load_tiny({"score": "teacher", "validate_every": 2}), tmp_path / "run", CPU)
    assert seen == ["student", "student", "teacher", "teacher", "teacher", "teacher"]
    assert metrics["weights"] == "teacher"
    run = RunFolder(tmp_path / "run")
    config = load_config(run.bundle)
    assert (config.weights, config.metrics["val"]["miou"]) == ("teacher", metrics["val"]["miou"])
    state = load_checkpoint(run.checkpoint)["method"]
    network = load_bundle(run.bundle)[0].state_dict()
    assert all(
        torch.equal(value, state[key.replace("network.", "teacher.", 1)]) for key, value in network.items()
    )
    assert strip(run.path, "student") == run.path / "bundle-student"
    assert load_config(run.path / "bundle-student").metrics == {}
    assert "teacher" in (run.path / "report.html").read_text()


def test_without_it_the_default_of_the_method_is_scored(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scored_networks(monkeypatch)
    metrics = start(load_tiny(), tmp_path / "run", CPU)
    assert set(seen) == {"student"}
    assert metrics["weights"] == load_config(tmp_path / "run" / "bundle").weights == "student"


def test_a_teacher_that_never_taught_is_not_bundled(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("zoo.train.loop.engine.Engine._any", lambda engine, _: engine.step == 4)
        with pytest.raises(TrainingStoppedError):
            start(load_tiny({"score": "teacher"}), tmp_path / "run", CPU)
    assert load_config(strip(tmp_path / "run")).weights == "student"
    with pytest.raises(BundleError, match="--weights teacher: it is not trained at step 4 of 10"):
        strip(tmp_path / "run", "teacher")


@pytest.mark.parametrize(
    ("recipe", "score", "choices"),
    [("supervised", "teacher", "student"), ("rrn", "student", "fused, branch_1, branch_2")],
)
def test_a_network_that_the_method_lacks_is_an_error(recipe: str, score: str, choices: str) -> None:
    with pytest.raises(RecipeError, match=rf"score is '{score}': expected one of {choices}, which {recipe}"):
        load_recipe(recipe, [f"score={score}"])


TEACHERS = {"fixmatch", "unimatch"}
"""Methods of which all recipes score the teacher."""


def test_the_teacher_is_scored_where_the_paper_does_so() -> None:
    for name in recipe_names():
        is_row = name.startswith(("u2pl_voc", "u2pl_cityscapes"))
        is_teacher = name.partition("_")[0] in TEACHERS
        assert load_recipe(name).score == ("teacher" if is_row or is_teacher else None), name


def test_further_networks_are_scored_after_the_last_step_alone(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scored_networks(monkeypatch)
    both = {"also_score": ["teacher", "student"], "validate_every": 5}
    metrics = start(load_tiny(both), tmp_path / "run", CPU)
    assert seen == ["student", "student", "student", "teacher"]  # the scored one is not scored twice
    alone = start(load_tiny({"score": "teacher", "validate_every": 5}), tmp_path / "alone", CPU)
    assert metrics["networks"] == {"teacher": alone["val"]}


def test_a_network_that_the_method_lacks_cannot_be_scored(load_tiny: Load) -> None:
    with pytest.raises(RecipeError, match="expected one of student, teacher, which eln has"):
        load_tiny({"also_score": ["teacher", "branch_1"]})
