from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants as hub_constants
import pytest
from rich.console import Console

from zoo.catalog import entries
from zoo.commands import catalog
from zoo.errors import BundleError, RegistryError, ZooError
from zoo.listing import Item
from zoo.registry.push import PushOptions, push

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Zoo = Callable[..., Result]

VAL = {
    "miou": 0.7,
    "pixel_accuracy": 0.9,
    "iou": {},
    "images": 2,
    "data": "shapes",
    "split": "val",
    "protocol": "whole",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a cache that is empty."""
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def run(zoo: Zoo, tiny_bundle: Path) -> Path:  # noqa: ARG001 - `zoo` makes the folder the current one
    """Return a run of eln that was measured."""
    bundle = shutil.copytree(tiny_bundle, "runs/eln/bundle")
    change(Path(bundle), method="eln", metrics={"val": VAL})
    Path("runs/eln/recipe.json").write_text("{}")
    return Path("runs/eln")


def change(bundle: Path, **changes: Any) -> None:
    path = bundle / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def listed(zoo: Zoo, *options: object) -> dict[str, Any]:
    result = zoo("list", "--json", *options)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_without_any_model_the_rows_of_the_papers_are_listed(zoo: Zoo) -> None:
    found = listed(zoo)
    assert found["models"] == []
    assert [row["alias"] for row in found["published"]] == [entry.alias for entry in entries()]
    text = zoo("list").stdout
    assert "Reported by the papers, not measured here" in text
    assert "have no weights yet: zoo info NAME prints the commands that train one" in text


def test_a_run_is_listed_with_its_figure_license_and_size(zoo: Zoo, run: Path) -> None:
    (run / "bundle" / "README.md").write_text("---\nlicense: mit\n---\n")
    (item,) = listed(zoo)["models"]
    size = sum(path.stat().st_size for path in (run / "bundle").iterdir())
    expected = {"name": "runs/eln", "where": "run", "method": "eln", "data": "shapes", "figure": "mIoU"}
    assert {key: item[key] for key in expected} == expected
    assert (item["value"], item["license"], item["bytes"]) == (0.7, "mit", size)
    assert "mIoU 70.0 %" in zoo("list").stdout


def test_a_model_that_was_not_measured_and_one_of_tags_are_told_apart(
    zoo: Zoo, run: Path, tiny_bundle: Path
) -> None:
    shutil.copytree(tiny_bundle, run / "bundle-teacher")
    tags = Path(shutil.copytree(tiny_bundle, "runs/mlmt/bundle"))
    change(tags, deployable={"kind": "classifier"}, metrics={"val": {"f1": 0.5, "map": 0.4}})
    items = {item["name"]: item for item in listed(zoo)["models"]}
    assert sorted(items) == ["runs/eln", "runs/eln/bundle-teacher", "runs/mlmt"]
    assert items["runs/eln/bundle-teacher"]["value"] is None
    assert (items["runs/mlmt"]["figure"], items["runs/mlmt"]["value"]) == ("F1", 0.5)
    text = zoo("list").stdout
    assert "not yet" in text
    assert "F1 50.0 %" in text


@pytest.mark.parametrize(
    ("options", "models", "rows"),
    [
        (("--method", "eln"), ["runs/eln"], 6),
        (("--method", "mlmt"), [], 8),
        (("--method", "S4GAN", "--data", "voc"), [], 9),
        (("--data", "context"), [], 4),
        (("--data", "shapes"), ["runs/eln"], 0),
        (("--method", "supervised"), [], 0),
    ],
)
def test_filters_leave_what_is_asked_for(
    options: tuple[str, ...], models: list[str], rows: int, zoo: Zoo, run: Path
) -> None:
    assert run.is_dir()
    found = listed(zoo, *options)
    assert [item["name"] for item in found["models"]] == models
    assert len(found["published"]) == rows


def test_filters_that_leave_nothing_say_so(zoo: Zoo) -> None:
    assert "no model matches" in zoo("list", "--method", "supervised").stdout


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("--method", "eln, fixmatch, mlmt, rrn, s4gan, supervised, u2pl, unimatch"),
        ("--data", "pascal-context, shapes, voc"),
    ],
)
def test_a_filter_that_nothing_is_known_of_is_a_usage_error(option: str, known: str, zoo: Zoo) -> None:
    result = zoo("list", option, "cutmix")
    assert result.exit_code == 2
    assert "'cutmix' is unknown, expected one of" in result.stderr
    assert known in result.stderr


def test_a_method_of_a_model_here_is_known(zoo: Zoo, run: Path) -> None:
    change(run / "bundle", method="mine + mlmt", recipe={"data": {"spec": "my/cracks"}})
    found = listed(zoo, "--method", "mine", "--data", "cracks")
    assert [item["name"] for item in found["models"]] == ["runs/eln"]


def test_a_shared_folder_is_listed_with_its_revisions(zoo: Zoo, run: Path, tmp_path: Path) -> None:
    root = f"file:{tmp_path.as_posix()}/share"
    pushed = push(run / "bundle", f"{root}/eln-roads", PushOptions(license="mit"))
    items = listed(zoo, "--registry", root)["models"]
    assert [(item["name"], item["where"]) for item in items[1:]] == [(f"{root}/eln-roads", "registry")]
    assert (items[1]["revision"], items[1]["license"]) == (pushed.revision, "mit")
    assert zoo("info", items[1]["name"]).exit_code == 0


def test_a_registry_that_is_no_folder_is_an_error(zoo: Zoo) -> None:
    result = zoo("list", "--registry", "file:nowhere")
    assert isinstance(result.exception, ZooError)
    assert "nowhere is not a folder" in str(result.exception)


@pytest.mark.parametrize("text", ["{", "[]", '{"method": 3}'])
def test_a_broken_bundle_is_left_out_with_a_remark(text: str, zoo: Zoo, run: Path) -> None:
    (run / "bundle" / "config.json").write_text(text)
    result = zoo("list", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["models"] == []
    assert "skipped: " in result.stderr


def test_a_pulled_model_is_listed_by_its_name(zoo: Zoo, cache: Path, run: Path) -> None:
    name = f"file:{cache.parent.as_posix()}/share/x"
    pushed = push(run / "bundle", name, PushOptions(license="mit"))
    repository = cache / "models--team--roads"
    shutil.copytree(pushed.where, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "blobs").mkdir()
    items = {item["name"]: item for item in listed(zoo)["models"]}
    assert (items["team/roads"]["where"], items["team/roads"]["revision"]) == ("cache", "a" * 40)


def test_lists_fit_into_80_columns() -> None:
    console = Console(width=80, record=True, file=StringIO())
    item = Item(
        "runs/supervised-shapes-20261121-122955", "run", "x", None, "s4gan + mlmt", "cityscapes", "mIoU",
        0.71, "apache-2.0", 619_600_000,
    )  # fmt: skip
    for table in catalog._shown([item], entries(), None):
        console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    text = "".join(line.split()[0] for line in lines if line.strip())
    assert "runs/supervised-shapes-20261121-122955" in text  # wrapped, not cut
    for cell in (
        "s4gan + mlmt",
        "cityscapes",
        "mIoU 71.0 %",
        "apache-2.0",
        "619.6",
        *(e.alias for e in entries()),
    ):
        assert any(cell in line for line in lines), cell


def test_info_of_a_run_is_its_card_and_its_files(zoo: Zoo, run: Path) -> None:
    (run / "bundle" / "README.md").write_text("---\nlicense: mit\n---\n\n# Roads\n\nWhat it is.\n")
    result = zoo("info", run)
    assert result.exit_code == 0, result.output
    assert "# Roads\n\nWhat it is." in result.stdout
    assert "license: mit" not in result.stdout
    assert "model.safetensors" in result.stdout
    found = json.loads(zoo("info", run, "--json").stdout)
    assert found["card"].startswith("---\nlicense: mit")
    assert set(found["files"]) == {path.name for path in (run / "bundle").iterdir()}
    assert (found["license"], found["value"]) == ("mit", 0.7)


def test_info_of_an_artifact_is_that_of_its_bundle(zoo: Zoo, run: Path) -> None:
    (run / "bundle" / "model.onnx").write_bytes(b"onnx")
    found = json.loads(zoo("info", run / "bundle" / "model.onnx", "--json").stdout)
    assert found["path"] == str(run / "bundle")


def test_info_of_an_artifact_alone_is_an_error(zoo: Zoo) -> None:
    Path("model.onnx").write_bytes(b"onnx")
    result = zoo("info", "model.onnx")
    assert isinstance(result.exception, BundleError)
    assert "is not in a bundle" in str(result.exception)


def test_info_of_a_bundle_without_a_card_says_so(zoo: Zoo, run: Path) -> None:
    (run / "bundle" / "README.md").unlink()
    assert "The bundle has no card." in zoo("info", run).stdout


def test_info_of_a_row_without_weights_prints_how_to_train_it(zoo: Zoo) -> None:
    result = zoo("info", "u2pl-voc-92-resnet101")
    assert result.exit_code == 0, result.output
    assert "67.98, reported by the paper, not measured here" in result.stdout
    assert "92, list: PseudoSeg" in result.stdout
    assert "\n  zoo train u2pl --recipe u2pl_voc_92 --data voc-classic:DIR\n" in result.stdout
    found = json.loads(zoo("info", "u2pl-voc-92-resnet101", "--json").stdout)
    assert (found["miou"], found["bundle"]) == (67.98, None)


@pytest.mark.parametrize("command", ["info", "pull"])
def test_a_row_of_three_commands_prints_all_three(command: str, zoo: Zoo) -> None:
    result = zoo(command, "s4gan-mlmt-voc-1/8-resnet101")
    told = " ".join(f"{result.stdout} {result.exception}".split())
    for line in (
        "zoo train s4gan --recipe s4gan_voc_1-8",
        "zoo train mlmt --recipe mlmt_voc_1-8",
        "--gate runs/mlmt",
    ):
        assert line in told


def test_a_misspelled_name_brings_the_nearest(zoo: Zoo) -> None:
    result = zoo("info", "eln-voc-1-8-resnet50")
    assert isinstance(result.exception, BundleError)
    assert "nearest in zoo list: eln-voc-1/8-resnet50" in str(result.exception)


@pytest.mark.parametrize(
    ("name", "row"),
    [("eln_voc_1-8", ", zoo info eln-voc-1/8-resnet50 tells what its paper reports"), ("eln_voc", "")],
)
def test_a_recipe_is_no_model(name: str, row: str, zoo: Zoo) -> None:
    result = zoo("info", name)
    assert isinstance(result.exception, BundleError)
    assert str(result.exception) == (
        f"{name} is a recipe, expected a model, which zoo list shows: zoo train eln --recipe {name} trains "
        f"one{row}"
    )


def test_offline_a_model_that_was_never_pulled_is_an_error(zoo: Zoo) -> None:
    result = zoo("info", "team/roads", "--offline")
    assert isinstance(result.exception, RegistryError)
    assert "team/roads is not in the cache" in str(result.exception)


@pytest.mark.slow
def test_a_benchmark_of_a_shared_model_leaves_the_shared_folder_as_it_is(
    zoo: Zoo, run: Path, tmp_path: Path
) -> None:
    name = f"file:{tmp_path.as_posix()}/share/eln"
    shared = Path(push(run / "bundle", name, PushOptions(license="mit")).where)
    before = {path: path.read_bytes() for path in shared.rglob("*") if path.is_file()}
    options = ("--quick", "--backends", "eager", "--device", "cpu", "--images", "0", "--threads", "1")
    result = zoo("bench", name, *options)
    assert result.exit_code == 0, result.output
    assert {path: path.read_bytes() for path in shared.rglob("*") if path.is_file()} == before
    (copy,) = Path("pulled").iterdir()
    assert "## Latency" in (copy / "README.md").read_text()
    assert "copy" in [item["where"] for item in listed(zoo)["models"]]


def test_encoders_that_match_are_listed_with_their_facts(zoo: Zoo) -> None:
    found = listed(zoo, "--encoders", "--match", "test_vit*")["encoders"]
    assert found[0] == {
        "name": "test_vit",
        "parameters": 306240,
        "strides": [16, 16, 16, 16],
        "size": None,
        "patch": 16,
        "weights": "test_vit.r160_in1k",
        "license": "apache-2.0",
        "is_here": False,
        "refused": "",
    }
    assert [each["name"] for each in found if each["size"]] == ["test_vit_relpos"]
    shown = zoo("list", "--encoders", "--match", "test_vit*").output
    assert "test_vit2" in shown
    assert "one" in next(line for line in shown.splitlines() if "test_vit_relpos" in line)


def test_a_refused_encoder_is_listed_with_the_reason(zoo: Zoo) -> None:
    shown = zoo("list", "--encoders", "--match", "gemma4_vit_167m").output
    assert "refused: encoder gemma4_vit_167m takes images of one size only" in " ".join(shown.split())
