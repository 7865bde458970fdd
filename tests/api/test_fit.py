"""`zoo.fit` and the run that it returns."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

import zoo
from tests.api.conftest import SMALL
from zoo.cli import app
from zoo.errors import BundleError, RecipeError, ZooError
from zoo.train.recipe.options import TrainingOptions, setting_texts

if TYPE_CHECKING:
    from pathlib import Path


class Seen(list[zoo.Event]):
    """Callback that keeps the events, and a mask that the networks predict at each."""

    def __init__(self) -> None:
        self.masks: list[Any] = []

    def __call__(self, event: zoo.Event) -> None:
        """Note an event."""
        self.append(event)
        image = event.source.read_image(event.source.ids("val")[0])
        self.masks.append(event.predictor().predict(image))


class Trained:
    """A run and what its callback saw."""

    def __init__(self, run: zoo.Run, seen: Seen) -> None:
        self.run, self.seen = run, seen


@pytest.fixture(scope="module")
def trained(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a run of ten steps of ELN."""
    seen = Seen()
    out = tmp_path_factory.mktemp("fit") / "run"
    run = zoo.fit("eln", recipe=tiny_recipe, out=out, device="cpu", callbacks=[seen])
    return Trained(run, seen)


def test_the_run_is_that_of_the_command(trained: Trained, tiny_recipe: Path, tmp_path: Path) -> None:
    arguments = [
        "train",
        "eln",
        "--recipe",
        str(tiny_recipe),
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    other = zoo.Run(tmp_path / "run")
    assert other.metrics["val"] == trained.run.metrics["val"]
    assert [row["step"] for row in other.log] == [row["step"] for row in trained.run.log]
    ours = (trained.run.path / "bundle" / "model.safetensors").read_bytes()
    assert (other.path / "bundle" / "model.safetensors").read_bytes() == ours


def test_callbacks_see_the_figures_of_the_log_and_the_networks(trained: Trained) -> None:
    rows = trained.run.log
    assert [event.step for event in trained.seen] == [row["step"] for row in rows]
    last = trained.seen[-1]
    assert (last.step, last.steps, last.run) == (10, 10, trained.run.path)
    assert sum(last.phases.values()) == 10
    assert last.figures["val/miou"] == pytest.approx(rows[-1]["val/miou"], abs=1e-5)
    image = last.source.read_image(last.source.ids("val")[0])
    assert np.array_equal(trained.seen.masks[-1], trained.run.load(device="cpu")(image))


def test_an_error_of_a_callback_ends_the_run(tiny_recipe: Path, tmp_path: Path) -> None:
    def stop(event: zoo.Event) -> None:
        raise RuntimeError(f"enough at {event.step}")

    with pytest.raises(RuntimeError, match="enough at"):
        zoo.fit("eln", recipe=tiny_recipe, out=tmp_path / "run", device="cpu", callbacks=[stop])
    run = zoo.Run(tmp_path / "run")
    with pytest.raises(BundleError, match=r"is not finished, expected metrics.json: resume it"):
        _ = run.metrics


def test_an_unfinished_run_resumes_to_the_same_weights(
    trained: Trained, tiny_recipe: Path, tmp_path: Path
) -> None:
    def stop(event: zoo.Event) -> None:
        if event.step >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.fit("eln", recipe=tiny_recipe, out=tmp_path / "run", device="cpu", callbacks=[stop])
    seen = Seen()
    run = zoo.Run(tmp_path / "run").resume(device="cpu", callbacks=[seen])
    assert seen[-1].step == 10
    assert run.metrics["val"] == trained.run.metrics["val"]


def test_a_run_trains_in_any_thread(tiny_recipe: Path, tmp_path: Path) -> None:
    runs: list[zoo.Run] = []

    def train() -> None:
        runs.append(zoo.fit("supervised", data=tiny_recipe.parent / "tiny", steps=1, out=tmp_path / "run",
                            settings=SMALL, device="cpu"))  # fmt: skip

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert runs[0].metrics["steps"] == 1


@pytest.mark.slow
def test_what_follows_a_run_of_two_processes_happens_once(tiny_recipe: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import zoo\n"
        f"run = zoo.fit('eln', recipe={str(tiny_recipe)!r}, out='run', device='cpu', devices=2)\n"
        "print('after', run.metrics['steps'])\n"
        "try:\n    run.resume(device='cpu')\nexcept zoo.errors.ZooError as error:\n    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines().count("after 10") == 1
    assert "got a second run in a process that has trained on several devices" in result.stdout


def test_a_run_evaluates_exports_and_predicts(trained: Trained, tiny_folder: Path, tmp_path: Path) -> None:
    run = trained.run
    assert run.evaluate(device="cpu")["miou"] == pytest.approx(run.metrics["val"]["miou"])
    events: list[str] = []
    bundle = run.export(onnx=True, precision="fp32", out=tmp_path / "bundle", on_event=events.append)
    assert bundle.path == tmp_path / "bundle"
    assert list(bundle.artifacts) == ["model.onnx"]
    assert bundle.exported is not None
    assert bundle.exported.artifacts[0].parity is not None
    assert events
    images = sorted((tiny_folder / "val" / "images").iterdir())
    masks = zoo.predict(bundle, images, device="cpu")
    onnx = zoo.load(bundle, backend="ort", device="cpu")
    assert [np.mean(mask == onnx(image)) > 0.999 for mask, image in zip(masks, images, strict=True)] == [
        True
    ] * 2
    assert bundle.classes == onnx.classes


def test_the_tables_of_a_benchmark_name_the_backends(trained: Trained, tmp_path: Path) -> None:
    result = trained.run.benchmark(
        quick=True, images=0, backends="eager", device="cpu", report=tmp_path / "report"
    )
    assert {row.backend for row in result.report.rows} == {"eager", "eager-amp"}
    assert tmp_path / "report" / "benchmark.json" in result.files
    assert "| eager | 1 |" in str(result)
    assert "<td>eager</td>" in result._repr_html_()


def test_a_run_shows_its_pictures(trained: Trained) -> None:
    page = trained.run._repr_html_()
    assert page.count("data:image/png;base64,") == 2
    assert repr(trained.run) == f"Run({str(trained.run.path)!r})"


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no recipe.json, expected the folder of a run"):
        zoo.Run(tmp_path)


def test_options_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="method lne is unknown"):
        zoo.fit("lne", out=tmp_path / "run")
    with pytest.raises(RecipeError, match="is for eln, got method rrn"):
        zoo.fit("rrn", recipe="eln_shapes", out=tmp_path / "run")
    with pytest.raises(ZooError, match="got live=True outside of a notebook"):
        zoo.fit("eln", live=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_of_a_mapping_are_those_of_the_command() -> None:
    texts = setting_texts(
        {"steps": 7, "network.encoder": "resnet18", "pretrained": False, "data.imgsz": (32, 64)}
    )
    recipe = TrainingOptions("supervised", settings=texts).read()
    assert (recipe.steps, recipe.network.encoder, recipe.pretrained, recipe.data.imgsz) == (
        7,
        "resnet18",
        False,
        (32, 64),
    )
    assert setting_texts(["steps=7"]) == ("steps=7",)
