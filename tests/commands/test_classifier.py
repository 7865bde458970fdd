"""MLMT from the command line: a run that ends with a classifier, and what the other commands make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from zoo.bundle.bundle import load_config
from zoo.data.open import open_source
from zoo.data.partition import make_partition
from zoo.errors import BundleError, DatasetError, RecipeError
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.mlmt import Mlmt
from zoo.train.recipe.read import load_recipe
from zoo.train.runs.log import read_log
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    from zoo.train.method import Progress
    from zoo.train.recipe.schema import Recipe

    Zoo = Callable[..., Result]

RECIPE = """
steps = 6
validate_every = 3
pretrained = false
network = { encoder = "test_resnet" }

[data]
spec = "FOLDER"
partition = "4"
imgsz = [32, 48]
resize = "stretch"
batch_l = 4
batch_u = 4
workers = 0
augment = { scale = [1.0, 1.0], grayscale = 0.0, blur = 1.0 }

[method]
name = "mlmt"
burn_in_steps = 1
ramp_steps = 2
optimizer = { lr = 1e-3 }
"""


@pytest.fixture
def train(zoo: Zoo, tiny_folder: Path) -> Zoo:
    """Return a function that runs `zoo train mlmt` on tiny data into the folder `run`."""
    Path("mlmt.toml").write_text(RECIPE.replace("FOLDER", tiny_folder.as_posix()))
    tiny = ("--recipe", "mlmt.toml", "--out", "run", "--device", "cpu")
    return lambda *more: zoo("train", "mlmt", *tiny, *more)


@pytest.fixture
def recipe(train: Zoo) -> Callable[..., Recipe]:  # noqa: ARG001 - which writes the file
    """Return a function from changes by dotted key to the recipe."""
    return lambda changes: load_recipe("mlmt.toml", changes=changes)


def unlabeled(run: str) -> list[str]:
    return Path(run, "partition", "unlabeled.txt").read_text().split()


def test_a_run_ends_with_f1_and_average_precision(train: Zoo) -> None:
    result = train()
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert "F1 and AP after step 6 on 2 val images" in words
    assert "IoU" not in words
    assert [name for name in ("class_0", "class_1", "class_2", "mean") if name not in words] == []
    assert result.stdout.splitlines()[-1] == "Next: zoo export MODEL --gate run"
    assert "step 3 (train): val/f1 0." in result.stderr or "val/f1 1." in result.stderr
    names = {"metrics.json", "log.csv", "curves.png", "preview.png", "bundle", "last.ckpt", "recipe.json"}
    assert names <= {path.name for path in Path("run").iterdir()}
    assert Image.open("run/preview.png").width > 200


def test_the_metrics_the_log_and_the_card_agree(train: Zoo) -> None:
    metrics = json.loads(train("--json").stdout)
    config = load_config(Path("run/bundle"))
    assert config.metrics["val"] == metrics["val"]
    rows = [row for row in read_log(Path("run/log.csv")) if "val/f1" in row]
    assert [row["step"] for row in rows] == [3, 6]
    assert rows[-1]["val/f1"] == pytest.approx(metrics["val"]["f1"], rel=1e-5)
    assert metrics["curve"] == [[row["step"], row["val/f1"]] for row in rows]
    assert f"**F1 {metrics['val']['f1']:.3f}**" in Path("run/bundle/README.md").read_text()
    assert (config.weights, config.deployable.kind) == ("teacher", "classifier")


def test_the_classifier_is_squashed_to_the_size_it_was_trained_at(train: Zoo) -> None:
    assert train("--imgsz", "32,40").exit_code == 0
    config = load_config(Path("run/bundle"))
    assert config.deployable.kind == "classifier"
    assert config.deployable.imgsz == config.preprocessing.imgsz == (32, 40)
    assert config.preprocessing.resize == "stretch"


def test_evaluation_repeats_the_figures_of_the_run(train: Zoo, zoo: Zoo) -> None:
    metrics = json.loads(train("--json").stdout)
    result = zoo("evaluate", "run", "--device", "cpu", "--report", "report", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {key: found[key] for key in metrics["val"]} == metrics["val"]
    assert json.loads(Path("report", "metrics.json").read_text()) == [found]
    assert "F1 and AP of" in " ".join(zoo("evaluate", "run", "--device", "cpu").stdout.split())


def test_a_classifier_has_no_masks_to_predict_export_or_put_together(train: Zoo, zoo: Zoo) -> None:
    assert train().exit_code == 0
    image = Path("image.png")
    Image.new("RGB", (40, 30)).save(image)
    for command in (("predict", "run", image), ("export", "run", "--onnx")):
        result = zoo(*command)
        assert isinstance(result.exception, BundleError), result.output
        assert "use it with zoo export MODEL --gate" in str(result.exception)
    result = zoo("evaluate", "run", "--protocol", "slide")
    assert isinstance(result.exception, BundleError)
    assert "is a classifier of whole images" in str(result.exception)


def test_known_classes_join_the_run_and_its_provenance(train: Zoo) -> None:
    assert train().exit_code == 0
    ids = unlabeled("run")
    Path("tags.txt").write_text("".join(f"{id_} 0 class_{1 + n % 2}\n" for n, id_ in enumerate(ids)))
    result = train("--out", "tagged", "--set", "data.tags=tags.txt")
    assert result.exit_code == 0, result.output
    assert "6 images with classes alone; tags " in result.stderr
    record = load_config(Path("tagged/bundle")).provenance["partition"]
    assert record["tags"]["images"] == 6
    assert f"tags {record['tags']['digest']}" in result.stderr
    assert record["digest"] == load_config(Path("run/bundle")).provenance["partition"]["digest"]


def test_a_run_cut_off_and_resumed_without_its_file_of_tags_equals_an_unbroken_one(
    recipe: Callable[..., Recipe], tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = make_partition(open_source(str(tiny_folder)), "4", 0).unlabeled
    Path("tags.txt").write_text("".join(f"{id_} 0 2\n" for id_ in ids))
    tagged = recipe({"data.tags": "tags.txt", "checkpoint_every": 2})
    start(tagged, Path("unbroken"), Hardware("cpu"))

    after_step = Mlmt.after_step

    def cut(method: Mlmt, progress: Progress) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt
        after_step(method, progress)

    monkeypatch.setattr(Mlmt, "after_step", cut)
    with pytest.raises(KeyboardInterrupt):
        start(tagged, Path("broken"), Hardware("cpu"))
    monkeypatch.setattr(Mlmt, "after_step", after_step)
    Path("tags.txt").unlink()
    resume(Path("broken"), "mlmt", Hardware("cpu"))
    weights = [Path(run, "bundle/model.safetensors").read_bytes() for run in ("broken", "unbroken")]
    assert weights[0] == weights[1]


def test_a_bad_line_of_tags_ends_the_run_before_it_starts(train: Zoo) -> None:
    Path("tags.txt").write_text("train/77 0\n")
    result = train("--set", "data.tags=tags.txt")
    assert isinstance(result.exception, DatasetError)
    assert "tags.txt:1: got 'train/77 0'" in str(result.exception)
    assert not Path("run/recipe.json").exists()


def test_tags_are_of_no_use_to_a_method_that_learns_masks(zoo: Zoo, tiny_recipe: Path) -> None:
    eln = ("train", "eln", "--recipe", tiny_recipe, "--out", "eln", "--steps", "4", "--device", "cpu")
    result = zoo(*eln, "--no-export-check", "--set", "data.tags=nowhere.txt")
    assert result.exit_code == 0, result.output
    assert "data.tags nowhere.txt is not used: eln learns no tags" in " ".join(result.stderr.split())


@pytest.mark.parametrize("setting", ["data.resize=fit", "data.augment.scale=[0.5, 1.0]"])
def test_tags_need_whole_images(setting: str, train: Zoo) -> None:
    result = train("--set", setting)
    assert isinstance(result.exception, RecipeError)
    assert "mlmt learns what whole images show, got data.resize" in str(result.exception)
    assert not Path("run/recipe.json").exists()


def test_tags_need_images_that_are_not_mixed(train: Zoo) -> None:
    result = train("--set", "data.labeled_view=cutmix")
    assert isinstance(result.exception, RecipeError)
    assert "mlmt learns which classes an image shows, got data.labeled_view cutmix" in str(result.exception)


def test_the_student_can_be_stripped_too(train: Zoo, zoo: Zoo) -> None:
    assert train().exit_code == 0
    result = zoo("export", "run", "--weights", "student")
    assert isinstance(result.exception, BundleError)  # it is a classifier as well
    assert load_config(Path("run/bundle-student")).weights == "student"
