"""`zoo pull`, `zoo push` and names as MODEL, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zoo.catalog import entries
from zoo.cli import app
from zoo.errors import ZooError
from zoo.registry.local import cached

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    LittleSpace = Callable[[int], AbstractContextManager[None]]

    from click.testing import Result

LIMIT = 100_000


def zoo(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def name(bundle: Path, work: Path) -> str:
    """Return the name of a bundle that was pushed to a folder beside the current one."""
    assert zoo("push", bundle, "file:../share/tiny").exit_code == 0
    assert list(work.iterdir()) == []
    return "file:../share/tiny"


def test_info_tells_the_size_of_what_it_does_not_fetch(hub: Any, published: str, work: Path) -> None:
    result = zoo("info", published, "--json")
    told = json.loads(result.stdout)
    assert told["files"]["model.safetensors"] > LIMIT
    assert told["bytes"] == sum(told["files"].values())
    assert told["revision"] == hub.repositories[published].resolve("main")
    assert not [path for path in hub.fetched() if path.endswith((".safetensors", ".onnx"))]
    assert list(work.iterdir()) == []


def test_pull_notes_what_it_pulled_and_says_where_it_is(name: str) -> None:
    result = zoo("pull", name, "--json")
    ((entry,), lock) = json.loads(result.stdout), json.loads(Path("zoo.lock").read_text())
    assert entry["name"] == name
    assert Path(entry["folder"], "model.safetensors").is_file()
    assert lock["models"][name] == {"revision": entry["revision"], "files": entry["files"]}
    said = f"at {entry['revision'][:12]}, {len(entry['files'])} files checked: {entry['folder']}"
    assert said in zoo("pull", name).stdout


def test_locked_pulls_everything_in_the_lock(name: str) -> None:
    zoo("pull", name)
    before = Path("zoo.lock").read_bytes()
    result = zoo("pull", "--locked", "--json")
    assert [entry["name"] for entry in json.loads(result.stdout)] == [name]
    assert Path("zoo.lock").read_bytes() == before


def test_a_model_is_carried_to_a_machine_without_a_network(name: str) -> None:
    assert zoo("pull", name, "--bundle", "out/tiny.tar").exit_code == 0
    assert zoo("pull", name, "--bundle", "out/tiny.tar").exit_code == 0  # replaces its own file
    result = zoo("pull", "out/tiny.tar", "--out", "tiny", "--json")
    assert json.loads(result.stdout)[0]["folder"] == "tiny"
    assert (Path("tiny") / "model.safetensors").is_file()


def test_a_dry_run_shows_files_and_sizes_and_pushes_nothing(bundle: Path, work: Path) -> None:
    result = zoo("push", bundle, f"file:{work}/share/tiny", "--dry-run")
    assert result.exit_code == 0
    for text in ("model.safetensors", "manifest.json", "model.onnx", "all"):
        assert text in result.stdout
    sizes = json.loads(zoo("push", bundle, "team/tiny", "--dry-run", "--json").stdout)["files"]
    assert sizes["model.safetensors"] == (bundle / "model.safetensors").stat().st_size
    assert list(work.iterdir()) == []


def test_a_name_is_a_model_wherever_one_is_expected(name: str, bundle: Path) -> None:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("image.png")
    result = zoo("predict", name, "image.png", "--out", "masks")
    assert result.exit_code == 0, result.output
    assert list(Path("masks").rglob("*.png"))
    assert zoo("push", name, "file:../mirror/tiny").exit_code == 0
    # what may be written to is a copy, of one revision
    (copied,) = Path("pulled").iterdir()
    assert (copied / "model.safetensors").read_bytes() == (bundle / "model.safetensors").read_bytes()


def test_a_name_as_model_is_held_to_the_lock(name: str, bundle: Path) -> None:
    zoo("pull", name)
    (bundle / "README.md").write_text("---\nlicense: mit\n---\n")
    zoo("push", bundle, name)
    locked = json.loads(Path("zoo.lock").read_text())["models"][name]["revision"]
    assert zoo("push", name, "file:../mirror/tiny").exit_code == 0
    assert [path.name for path in Path("pulled").iterdir()] == [f"tiny-{locked[:12]}"]


def test_an_alias_without_weights_says_what_trains_them(work: Path) -> None:
    entry = next(entry for entry in entries() if entry.bundle is None)
    result = zoo("pull", entry.alias)
    assert isinstance(result.exception, ZooError)
    assert "zoo train" in str(result.exception)
    assert list(work.iterdir()) == []


def test_a_full_disk_leaves_no_half_bundle(
    name: str, work: Path, bundle: Path, little_space: LittleSpace
) -> None:
    for arguments in (["pull", name, "--out", "tiny"], ["push", bundle, "file:../mirror/tiny"]):
        with little_space(LIMIT):
            result = zoo(*arguments)
        assert isinstance(result.exception, ZooError), result.output
        assert "no space left for file:" in str(result.exception)
    assert {path.name for path in work.iterdir()} <= {"zoo.lock", ".zoo.lock.guard"}
    assert list((work.parent / "mirror" / "tiny").iterdir()) == []


def test_a_full_disk_leaves_no_half_bundle_in_the_cache(
    published: str, work: Path, little_space: LittleSpace
) -> None:
    with little_space(LIMIT):
        result = zoo("pull", published)
    assert "no space left for team/tiny" in str(result.exception)
    assert "HF_HOME" in str(result.exception)
    assert cached() == ()
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["pull", "tiny"], "'tiny' is not the name of a model, expected owner/name"),
        (["pull", "team/tiny@a b"], "has the revision 'a b', expected a commit, a branch or a tag"),
        (["pull", "file:nowhere/tiny"], "nowhere does not exist, expected a registry"),
        (["pull", "nowhere.tar"], "nowhere.tar does not exist, expected a file written by zoo pull"),
        (["pull", "team/tiny", "--locked"], "zoo.lock holds nothing, expected team/tiny"),
        (["pull", "team/tiny", "--offline"], "team/tiny is not in the cache, which holds no model"),
        (["push", "BUNDLE", "tiny"], "'tiny' is not the name of a model"),
        (["push", "BUNDLE", "team/tiny@v1"], "has a revision, which the registry assigns"),
        (["push", "nowhere", "team/tiny"], "nowhere does not exist, expected a run, a bundle"),
        (
            ["push", "BUNDLE/model.onnx", "team/tiny"],
            "model.onnx is an artifact, expected a run or bundle folder:",
        ),
        (["push", "BUNDLE", "file:../share/tiny", "--create-pr"], "are for the Hub"),
        (["push", "BUNDLE", "team/tiny", "--tag", "-"], "'-' cannot be a tag"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_bad_input_is_one_line_with_its_remedy(
    bundle: Path, work: Path, arguments: list[str], reason: str
) -> None:
    result: Any = zoo(*(argument.replace("BUNDLE", str(bundle)) for argument in arguments))
    assert isinstance(result.exception, ZooError), result.output
    assert reason in str(result.exception)
    assert "\n" not in str(result.exception)
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["a/b", "c/d", "--out", "x"], ["a/b", "c/d", "--bundle", "x.tar"]])
@pytest.mark.usefixtures("work")
def test_a_wrong_call_is_a_usage_error(arguments: list[str]) -> None:
    assert zoo("pull", *arguments).exit_code == 2


@pytest.mark.usefixtures("work")
def test_a_lock_that_holds_nothing_is_told() -> None:
    result = zoo("pull", "--locked")
    assert result.exit_code == 2
    assert "zoo.lock is empty, expected models: zoo pull NAME without --locked adds one" in result.stderr
