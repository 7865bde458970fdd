from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants
import pytest
from torch import Tensor, nn

from zoo.bundle.bundle import load_config
from zoo.errors import BundleError, DatasetError, ExportError, RecipeError, ZooError
from zoo.models.encoder import ENCODERS, Encoder
from zoo.train.methods.table import METHODS
from zoo.train.runs.folder import CONTENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Zoo = Callable[..., Result]


@pytest.fixture
def train(zoo: Zoo, tiny_recipe: Path) -> Zoo:
    """Return a function that runs `zoo train eln` on tiny data."""
    quick = ("--device", "cpu", "--no-export-check")
    return lambda *more: zoo("train", "eln", "--recipe", tiny_recipe, *quick, *more)


def error_of(result: Result, kind: type[ZooError]) -> str:
    """Return the message of a refused command, which is one line, and nothing on standard output."""
    assert result.exit_code == 1
    assert type(result.exception) is kind, result.exception
    assert result.stdout == ""
    message = str(result.exception)
    assert "\n" not in message
    return message


def test_a_run_ends_with_its_figures_its_files_and_what_to_do_next(zoo: Zoo, tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, "cracks")
    Path("cracks/data.toml").write_text('names = ["ground", "crack[1]", "hole"]')
    tiny = ("--encoder", "test_resnet", "--imgsz", "32", "--batch", "2", "--no-pretrained")
    less = ("decoder_channels=16", "low_level_channels=8", "rates=[1]")
    settings = [f"--set=network.{setting}" for setting in less]
    settings += ["--set=data.workers=0", "--set=method.filter.encoder=test_resnet"]
    result = zoo("train", "eln", "--data", "cracks", "--steps", "6", "--device", "cpu", *tiny, *settings)
    assert result.exit_code == 0, result.output
    (run,) = Path("runs").iterdir()
    assert run.name.startswith("eln-cracks-")
    files = [run / name for name in ("metrics.json", "log.csv", "curves.png", "preview.png", "bundle")]
    assert all(path.exists() for path in files)
    assert {path.name for path in run.glob("[!.]*")} <= {"recipe.json", *CONTENTS}
    out = result.stdout.splitlines()
    assert "IoU after step 6 on 2 val images" in " ".join(result.stdout.split())
    assert [name for name in ("ground", "crack[1]", "hole", "mean") if name not in result.stdout] == []
    assert out[-2:] == [f"Wrote {', '.join(map(str, files))}", f"Next: zoo export {run} --onnx --trt"]
    assert "1 labeled, 9 unlabeled images, 3 classes" in result.stderr
    [note] = [line for line in result.stderr.splitlines()[:2] if line.startswith("warning: ")]
    assert "9 of 10 training masks are not used" in note
    assert note.removeprefix("warning: ") in html.unescape((run / "report.html").read_text())
    assert json.loads((run / "recipe.json").read_bytes())["recipe"]["data"]["partition"] == "1/8"


def test_the_json_is_all_that_stands_on_standard_output(train: Zoo) -> None:
    result = train("--out", "run", "--json", "--set", "validate_every=5")
    metrics = json.loads(result.stdout)
    assert metrics["steps"] == 10
    assert metrics["bad_steps"] == 0
    assert metrics["val"]["images"] == 2
    assert [step for step, _ in metrics["curve"]] == [5, 10]
    assert metrics["curve"][-1][1] == pytest.approx(metrics["val"]["miou"], rel=1e-5)
    assert set(metrics["step_ms"]) == {"pretrain", "localize", "semi"}
    assert (metrics["run"], metrics["bundle"]) == ("run", str(Path("run/bundle")))
    stored = json.loads(Path("run/metrics.json").read_text())
    assert stored == {key: value for key, value in metrics.items() if key not in ("run", "bundle")}


def test_a_profile_shows_the_parts_of_each_phase_and_trains_nothing(train: Zoo) -> None:
    result = train("--profile", "--out", "run")
    assert result.exit_code == 0, result.output
    words = result.stdout.split()
    for phase in ("pretrain:", "localize:", "semi:"):
        assert phase in words
    for part in ("data", "student", "teacher", "losses", "backward", "optimizer", "update", "step"):
        assert part in words
    assert result.stdout.splitlines()[-1] == f"Wrote {Path('run/profile.json')}"
    assert [path.name for path in Path("run").iterdir()] == ["profile.json"]


def test_a_plan_tells_memory_time_and_the_largest_batch_and_leaves_nothing(
    zoo: Zoo, tiny_recipe: Path
) -> None:
    text = tiny_recipe.read_text()
    Path("base.toml").write_text(text[: text.index("[method]")] + '[method]\nname = "supervised"\n')
    options = ("--recipe", "base.toml", "--device", "cpu", "--batch", "4", "--steps", "100", "--plan")
    result = zoo("train", "supervised", *options)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    for text in (
        "Batch 4 on cpu, by phase",
        "student",
        "gradients",
        "optimizers",
        "a line through batches 2 and 3",
    ):
        assert text in shown
    assert "Largest batch" in shown
    found = json.loads(zoo("train", "supervised", *options, "--json").stdout)
    phase = found["phases"]["train"]
    assert found["seconds"] == pytest.approx(100 * phase["step_s"] + found["evaluation_s"])
    assert [path.name for path in Path().iterdir()] == ["base.toml"]


def test_a_plan_or_a_profile_not_both(train: Zoo) -> None:
    message = error_of(train("--plan", "--profile"), RecipeError)
    assert message == "got --plan and --profile, expected one of them: --plan also times steps"


def test_a_profile_cannot_be_resumed(zoo: Zoo) -> None:
    message = error_of(zoo("train", "eln", "--profile", "--resume", "--out", "run"), RecipeError)
    assert message.startswith("--resume continues a run as it was started: leave the other options out, but")


def test_the_options_change_the_recipe(train: Zoo) -> None:
    options = ("--partition", "3", "--imgsz", "32,48", "--batch", "1", "--seed", "7", "--steps", "4")
    result = train(*options, "--out", "run", "--precision", "bf16")
    assert result.exit_code == 0, result.output
    recipe = json.loads(Path("run/recipe.json").read_text())["recipe"]
    data = recipe["data"]
    assert (data["partition"], data["imgsz"], data["batch_l"], data["batch_u"]) == ("3", [32, 48], 1, 1)
    assert (recipe["seed"], recipe["steps"], recipe["precision"]) == (7, 4, "bf16")
    assert recipe["network"]["num_classes"] == 3


def test_the_baseline_trains_on_labels_alone(zoo: Zoo, tiny_recipe: Path) -> None:
    text = tiny_recipe.read_text()
    Path("base.toml").write_text(text[: text.index("[method]")] + '[method]\nname = "supervised"\n')
    result = zoo(
        "train",
        "supervised",
        "--recipe",
        "base.toml",
        "--partition",
        "full",
        "--out",
        "run",
        "--no-export-check",
    )
    assert result.exit_code == 0, result.output
    assert "10 labeled, 0 unlabeled images" in result.stderr


def test_an_unknown_method_is_refused(zoo: Zoo) -> None:
    message = error_of(zoo("train", "yolo", "--data", "shapes"), RecipeError)
    assert message == f"method yolo is unknown, expected one of {', '.join(METHODS)}"


def test_a_recipe_of_another_method_is_refused(zoo: Zoo, tiny_recipe: Path) -> None:
    result = zoo("train", "supervised", "--recipe", tiny_recipe)
    assert error_of(result, RecipeError).endswith("is for eln, got method supervised")


def test_a_recipe_that_is_not_there_is_refused(zoo: Zoo) -> None:
    result = zoo("train", "eln", "--recipe", "mine.toml")
    assert "recipe mine.toml not found" in error_of(result, RecipeError)


@pytest.mark.parametrize(
    "option", [("--seed", "1"), ("--set", "seed=1"), ("--steps", "5"), ("--lr-encoder", "0")]
)
def test_a_run_is_resumed_as_it_was_started(option: tuple[str, str], zoo: Zoo) -> None:
    message = error_of(zoo("train", "eln", "--resume", "--out", "run", *option), RecipeError)
    assert message.startswith("--resume continues a run as it was started: leave the other options out, but")


def test_there_must_be_a_run_to_resume(zoo: Zoo) -> None:
    assert "no run of eln under" in error_of(zoo("train", "eln", "--resume"), BundleError)
    message = error_of(zoo("train", "eln", "--resume", "--out", "nowhere"), BundleError)
    assert message.startswith("nowhere holds no recipe.json, expected the folder of a run")


def test_a_run_of_another_method_is_not_resumed(train: Zoo, zoo: Zoo) -> None:
    assert train("--out", "run", "--steps", "4").exit_code == 0
    message = error_of(zoo("train", "supervised", "--resume", "--out", "run"), RecipeError)
    assert "run is a run of eln, got supervised" in message


def test_the_newest_run_of_the_method_is_resumed(train: Zoo, zoo: Zoo) -> None:
    for name in ("eln-old", "eln-new"):
        assert train("--out", f"runs/{name}", "--steps", "4").exit_code == 0
    result = zoo("train", "eln", "--resume", "--device", "cpu", "--json")
    assert json.loads(result.stdout)["run"] == str(Path("runs/eln-new"))


def test_an_existing_run_is_not_overwritten(train: Zoo) -> None:
    assert train("--out", "run", "--steps", "4").exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    message = error_of(train("--out", "run", "--steps", "4"), RecipeError)
    assert message == "run holds a run already: continue it with --resume, or give another --out"
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_folder_that_cannot_be_written_is_refused(out: str, train: Zoo) -> None:
    Path("file").touch()
    message = error_of(train("--out", out), ZooError)
    assert message == f"{out} cannot be written (Not a directory), expected a folder: choose another"


def test_data_that_are_not_there_are_refused_and_leave_no_folder(train: Zoo) -> None:
    message = error_of(train("--data", "nowhere", "--out", "run"), DatasetError)
    assert "nowhere: got neither a known data set nor an existing path" in message
    assert not Path("run").exists()


def test_a_recipe_for_any_data_needs_some(zoo: Zoo) -> None:
    message = error_of(zoo("train", "eln", "--recipe", "eln", "--out", "run"), RecipeError)
    assert message == "recipe eln names no data, expected some: give --data FOLDER"


def test_a_broken_image_is_named_before_anything_is_trained(train: Zoo, tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, "data")
    Path("data/train/images/3.png").write_bytes(b"no image")
    message = error_of(train("--data", "data", "--out", "run"), DatasetError)
    assert str(Path("data/train/images/3.png")) in message
    assert not Path("run").exists()


@pytest.mark.parametrize("partition", ["full", "10"])
def test_a_partition_that_leaves_no_unlabeled_images_is_refused(partition: str, train: Zoo) -> None:
    message = error_of(train("--partition", partition, "--out", "run"), RecipeError)
    assert message.startswith(f"data.partition {partition}: all 10 images are labeled and eln needs")
    assert not Path("run/recipe.json").exists()


@pytest.mark.parametrize("partition", ["0", "11", "3/2", "nowhere.txt"])
def test_a_partition_that_cannot_be_is_refused(partition: str, train: Zoo) -> None:
    message = error_of(train("--partition", partition, "--out", "run"), DatasetError)
    assert message.startswith(f"--partition {partition}: got")


@pytest.mark.parametrize(
    "options",
    [
        ("--imgsz", "big"),
        ("--imgsz", "32,"),
        ("--imgsz", "32,32,32"),
        ("--imgsz", "0"),
        ("--imgsz", "-32"),
        ("--steps", "0"),
        ("--batch", "0"),
        ("--seed", "-1"),
        ("--devices", "0"),
        ("--precision", "int8"),
        ("--device", "tpu"),
        ("--no-such-option",),
    ],
)
def test_nonsense_is_a_mistake_of_usage(options: tuple[str, ...], train: Zoo) -> None:
    result = train(*options, "--out", "run")
    assert result.exit_code == 2
    assert options[0] in result.stderr
    assert result.stdout == ""
    assert not Path("run").exists()


def test_a_setting_that_does_not_exist_is_refused(train: Zoo) -> None:
    message = error_of(train("--set", "method.ema_dekay=0.9", "--out", "run"), RecipeError)
    assert message.startswith("recipe tiny: method.ema_dekay: no such setting; nearest: method.ema_decay")


def test_phases_that_leave_nothing_for_the_last_are_refused(train: Zoo) -> None:
    message = error_of(train("--set", "method.pretrain_steps=10", "--out", "run"), RecipeError)
    assert "expected less than the 10 steps of the run" in message
    assert not Path("run/recipe.json").exists()


def test_training_starts_from_a_bundle(train: Zoo, tiny_bundle: Path) -> None:
    encoder = load_config(tiny_bundle).deployable.network.encoder
    options = ("--encoder", encoder, "--lr-encoder", "5e-4", "--steps", "5", "--out", "run")
    result = train("--from", tiny_bundle, *options)
    assert result.exit_code == 0, result.output
    assert "student starts from model supervised on shapes (sha256 " in result.stderr
    recipe = load_config(Path("run/bundle")).recipe
    assert recipe["start_from"] == [str(tiny_bundle)]
    assert recipe["method"]["optimizer"]["encoder_lr_mult"] == pytest.approx(0.5)


def test_a_start_that_does_not_exist_is_refused(train: Zoo) -> None:
    assert "gone does not exist" in error_of(train("--from", "runs/gone", "--out", "run"), BundleError)
    assert not Path("run/recipe.json").exists()


def test_an_unknown_encoder_is_refused(train: Zoo) -> None:
    assert "resnot50" in error_of(train("--encoder", "resnot50", "--out", "run"), RecipeError)
    assert not Path("run/recipe.json").exists()


def test_weights_that_cannot_be_downloaded_are_refused(
    train: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read from the variable at import
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = error_of(train("--pretrained", "--out", "run"), RecipeError)
    assert "--no-pretrained" in message or "pretrained=false" in message
    assert not Path("run/recipe.json").exists()


def test_the_untrained_network_is_exported_first_which_changes_no_weights(
    zoo: Zoo, tiny_recipe: Path
) -> None:
    options = ("--recipe", tiny_recipe, "--device", "cpu", "--steps", "4")
    checked = zoo("train", "eln", *options, "--out", "checked")
    assert checked.exit_code == 0, checked.output
    log = " ".join(checked.stderr.split())
    assert "the untrained network passed a trial export to ONNX" in log
    assert log.index("trial export") < log.index("4 labeled, 6 unlabeled images")
    other = zoo("train", "eln", *options, "--out", "other", "--no-export-check")
    assert "trial export" not in other.stderr
    first, second = (Path(run, "bundle", "model.safetensors").read_bytes() for run in ("checked", "other"))
    assert first == second


class Branching(Encoder):
    """Features that depend on a value of the image, which no graph can express."""

    channels = (4, 8)
    strides = (4, 8)
    size_multiple = 8
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, name: str, *, in_channels: int = 3, **_: Any) -> None:
        super().__init__(name)
        self.fine = nn.Sequential(nn.Conv2d(in_channels, 4, 4, stride=4), nn.BatchNorm2d(4))
        self.coarse = nn.Conv2d(4, 8, 2, stride=2)

    def encode(self, images: Tensor) -> list[Tensor]:
        fine = self.fine(images)
        return [fine, self.coarse(fine if images.mean().item() > 0 else -fine)]


def test_a_network_that_cannot_be_exported_is_refused_before_its_run_is_written(
    zoo: Zoo, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENCODERS, "branching", Branching)
    encoder = ("--encoder", "branching", "--no-pretrained")
    small = ("--imgsz", "32", "--batch", "2", "--steps", "1", "--set=data.workers=0", "--device", "cpu")
    result = zoo("train", "supervised", "--data", tiny_folder, *encoder, *small, "--out", "run")
    message = error_of(result, ExportError)
    assert message.startswith("the network cannot be exported to ONNX")
    assert message.endswith("; --no-export-check trains the network all the same")
    assert not Path("run").exists()
