"""Reports and lists go to folders that users name: what others put there is kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from zoo.bundle.bundle import replacing
from zoo.errors import ZooError
from zoo.outputs import LEDGER_NAME, Outputs, is_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = ("page.html", "data.json")


def write(folder: Path, text: str = "ours", *, overwrite: bool = False) -> None:
    outputs = Outputs(folder, NAMES, "--report", overwrite=overwrite)
    with outputs.writing():
        for name in NAMES:
            with replacing(folder / name) as temporary:
                temporary.write_text(text)


def texts(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in NAMES]


def test_a_new_folder_is_made_and_may_be_written_again(tmp_path: Path) -> None:
    for text in ("first", "second"):
        write(tmp_path / "a" / "b", text)
        assert texts(tmp_path / "a" / "b") == [text, text]


def test_nothing_is_made_before_something_is_written(tmp_path: Path) -> None:
    Outputs(tmp_path / "new", NAMES, "--report")
    assert list(tmp_path.iterdir()) == []


def _unknown(folder: Path) -> None:
    (folder / "data.json").write_text("mine")


def _edited(folder: Path) -> None:
    write(folder)
    (folder / "data.json").write_text("mine")


def _linked(folder: Path) -> None:
    write(folder)
    (folder / "kept").write_text("ours")
    (folder / "data.json").unlink()
    (folder / "data.json").symlink_to(folder / "kept")


def _without_ledger(folder: Path) -> None:
    write(folder)
    (folder / LEDGER_NAME).write_text("[]")
    (folder / "page.html").unlink()


@pytest.mark.parametrize("prepare", [_unknown, _edited, _linked, _without_ledger])
def test_what_zoo_did_not_write_is_refused(tmp_path: Path, prepare: Callable[[Path], None]) -> None:
    prepare(tmp_path)
    before = (tmp_path / "data.json").read_text()
    with pytest.raises(ZooError) as caught:
        write(tmp_path, "new")
    assert str(caught.value) == (
        f"1 file in {tmp_path} would be overwritten, but was not written by this command or was edited since "
        f"(data.json): choose another --report, or replace existing files with --overwrite"
    )
    assert (tmp_path / "data.json").read_text() == before
    write(tmp_path, "new", overwrite=True)
    assert texts(tmp_path) == ["new", "new"]
    write(tmp_path, "again")


def test_a_file_that_appears_while_the_work_is_done_is_kept(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path, NAMES, "--report")
    _unknown(tmp_path)
    with pytest.raises(ZooError, match=r"data\.json"), outputs.writing():
        pytest.fail("it was written")
    assert (tmp_path / "data.json").read_text() == "mine"


def test_files_of_other_names_stay_ours(tmp_path: Path) -> None:
    write(tmp_path)
    other = Outputs(tmp_path, ("list.txt",), "--out")
    with other.writing():
        (tmp_path / "list.txt").write_text("1")
    write(tmp_path, "again")
    assert set(json.loads((tmp_path / LEDGER_NAME).read_bytes())["files"]) == {*NAMES, "list.txt"}


def test_a_write_that_fails_may_be_tried_again(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path, NAMES, "--report")
    with pytest.raises(FileNotFoundError), outputs.writing():
        _ = (tmp_path / "page.html").write_text("half"), (tmp_path / "gone").read_text()
    write(tmp_path)


def test_a_killed_write_may_be_tried_again(tmp_path: Path) -> None:
    (tmp_path / LEDGER_NAME).write_text(json.dumps({"files": {"page.html": None}}))
    (tmp_path / "page.html").write_text("ours, but not noted yet")
    write(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "\0"])
def test_a_record_has_its_keys(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert not is_record(tmp_path / "x.json", ("a", "b"))
    (tmp_path / "x.json").write_text('{"a": 1, "b": 2, "c": 3}')
    assert is_record(tmp_path / "x.json", ("a", "b"))
