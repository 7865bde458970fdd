from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zoo.classes import Classes
from zoo.errors import BundleError, RecipeError, ZooError
from zoo.train.runs.folder import RunFolder, claimed_run, new_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

CLASSES = Classes.of(("background", "crack", "hole"))


def test_a_recipe_and_its_classes_are_read_as_they_were_written(load_tiny: Load, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "new" / "run")
    recipe = load_tiny({"method.alphas": [1.5], "network.multi_grid": [1, 2]})
    run.write_recipe(recipe, CLASSES)
    assert run.read_recipe() == (recipe, CLASSES)


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(load_tiny: Load, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", load_tiny())
    run.write_recipe(load_tiny(), CLASSES)
    before = run.recipe_file.read_bytes()
    with pytest.raises(RecipeError, match=r"run holds a run already: continue it with --resume, or give"):
        new_run(tmp_path / "run", load_tiny())
    assert run.recipe_file.read_bytes() == before


def test_of_two_that_begin_a_run_at_one_time_one_gets_the_folder(load_tiny: Load, tmp_path: Path) -> None:
    first, second = (new_run(tmp_path / "run", load_tiny()) for _ in range(2))
    assert claimed_run(first, load_tiny(), CLASSES, other_name=False) == first
    with pytest.raises(RecipeError, match=r"run holds a run already"):
        claimed_run(second, load_tiny({"seed": 1}), CLASSES, other_name=False)
    assert first.read_recipe()[0].seed == 0


def test_runs_without_names_that_begin_at_one_time_get_numbers(load_tiny: Load, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "eln-1")
    seeds = {}
    for seed in (5, 6, 7):
        claimed = claimed_run(run, load_tiny({"seed": seed}), CLASSES, other_name=True)
        seeds[claimed.path.name] = claimed.read_recipe()[0].seed
    assert seeds == {"eln-1": 5, "eln-1-2": 6, "eln-1-3": 7}


def test_a_folder_with_other_files_is_no_obstacle(load_tiny: Load, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert new_run(tmp_path, load_tiny()).path == tmp_path


def test_files_that_a_run_would_overwrite_are_refused(load_tiny: Load, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("mine")
    (tmp_path / "partition").mkdir()
    with pytest.raises(ZooError, match=r"2 files .*\(partition, metrics\.json\): choose another --out"):
        new_run(tmp_path, load_tiny())


def test_a_run_without_a_name_is_called_after_method_data_and_time(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = new_run(None, load_tiny({"data.spec": "my/cracks"})).path
    assert path.parent == Path("runs")
    assert re.fullmatch(r"eln-cracks-\d{8}-\d{6}", path.name)


def test_a_folder_without_a_run_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no recipe\.json, expected the folder of a run"):
        RunFolder(tmp_path).read_recipe()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"recipe": {}}', "\x00"])
def test_a_broken_recipe_of_a_run_is_an_error_of_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(BundleError, match=r"recipe\.json") as caught:
        RunFolder(tmp_path).read_recipe()
    assert "\n" not in str(caught.value)


def test_a_recipe_of_another_version_is_an_error(load_tiny: Load, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_recipe(load_tiny(), CLASSES)
    value = json.loads(run.recipe_file.read_text())
    value["recipe"]["method"]["lambda_old"] = 1
    run.recipe_file.write_text(json.dumps(value))
    with pytest.raises(RecipeError, match=r"method\.lambda_old: no such setting"):
        run.read_recipe()
