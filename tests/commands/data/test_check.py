import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

RANDOM = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        for name in ("images", "masks"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
        for number in range(4):
            pixels = RANDOM.integers(0, 256, (6, 8, 3), np.uint8)
            image = Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC)
            image.save(tmp_path / "data" / split / "images" / f"{number}.png")
            mask = np.resize(np.repeat(np.array([0, 255], np.uint8), 7), (48, 64))
            Image.fromarray(mask).save(tmp_path / "data" / split / "masks" / f"{number}.png")
    return tmp_path / "data"


def test_binary_masks_fail_and_pass_with_the_description_that_is_written(zoo, folder):
    first = zoo("data", "check", folder)
    assert first.exit_code == 1
    assert "fault: masks of 0 and 255, where 255 means ignore (8)" in first.stdout
    assert f"Wrote {folder / 'data.toml'}" in first.stdout
    assert '255 = "foreground"' in (folder / "data.toml").read_text()
    second = zoo("data", "check", folder)
    assert second.exit_code == 0
    assert "No faults, no kinds of warnings, in 8 images." in second.stdout


def test_a_description_is_never_written_unasked_over_another_or_against_no_write(zoo, folder):
    zoo("data", "check", folder, "--no-write")
    assert not (folder / "data.toml").exists()
    (folder / "data.toml").write_text('names = ["a", "b"]\n')
    result = zoo("data", "check", folder)
    assert (folder / "data.toml").read_text() == 'names = ["a", "b"]\n'
    assert "--write PATH writes it" in result.stdout
    zoo("data", "check", folder, "--write", folder / "data.toml")
    assert '255 = "b"' in (folder / "data.toml").read_text()


def test_names_that_are_not_utf_8_are_found_and_shown(zoo, folder, tmp_path):
    for name in ("images", "masks"):
        path = folder / "train" / name / "0.png"
        path.rename(path.with_name(os.fsdecode(b"f\xfcr.png")))
    result = zoo("data", "check", folder, "--report", tmp_path / "report")
    assert result.exit_code == 1
    assert "names of two lines or not in UTF-8, which no list can hold (1)" in result.stdout
    assert "train/images/f\\udcfcr.png" in result.stdout
    assert "f\\udcfcr.png" in (tmp_path / "report/report.html").read_text()


def test_json_lists_counts_classes_and_every_finding(zoo, folder):
    (folder / "train" / "images" / "1.png").write_bytes(b"")
    result = zoo("data", "check", folder, "--json")
    value = json.loads(result.stdout)
    assert result.exit_code == 1
    assert value["ok"] is False
    assert value["counts"]["train"]["images"] == 4
    assert [row["name"] for row in value["classes"]] == ["background", "foreground", "ignored"]
    kinds = {group["kind"]: group for group in value["findings"]}
    assert set(kinds) == {"unreadable-image", "binary-masks"}
    assert kinds["unreadable-image"]["findings"][0]["files"] == ["train/images/1.png"]
    assert value["written"] == str(folder / "data.toml")


def test_the_report_is_one_page_with_pictures_of_findings_and_masks(zoo, folder):
    (folder / "train" / "images" / "<b>.png").write_bytes(b"")
    result = zoo("data", "check", folder, "--report", "out", "--no-write")
    text = (folder.parent / "work" / "out" / "report.html").read_text()
    assert "See the pictures in out/report.html" in result.stdout
    assert text.count('src="data:image/jpeg;base64,') >= 8 + 2
    assert re.findall(r'(?:src|href)="(?!data:|#)', text) == []
    assert "&lt;b&gt;.png" in text
    assert "<b>.png" not in text
    assert "[labels]" in text


def test_shapes_are_refused_in_one_line(zoo):
    result = zoo("data", "check", "shapes")
    assert result.exit_code == 1
    assert "got neither a folder nor a data.toml" in str(result.exception)


def test_a_report_that_cannot_be_written_is_an_error_before_any_file_is_read(zoo, folder, monkeypatch):
    monkeypatch.setattr("zoo.data.inspect.inspection.inspect", lambda *_: pytest.fail("files were read"))
    result = zoo("data", "check", folder, "--report", folder / "train/images/0.png")
    assert "0.png cannot be written (Not a directory), expected a folder" in str(result.exception)


def test_one_kind_of_faults_is_one(zoo, folder):
    result = zoo("data", "check", folder)
    assert "1 kind of faults that would spoil training, 0 of warnings, in 8 images." in result.stdout


@pytest.mark.parametrize("odd", [1, 127])
def test_a_fault_of_the_masks_stops_training_too(zoo, folder, odd):
    path = folder / "train" / "masks" / "0.png"
    mask = np.asarray(Image.open(path))
    Image.fromarray(np.where(mask, odd, 0).astype(np.uint8)).save(path)
    assert zoo("data", "check", folder, "--no-write").exit_code == 1
    result = zoo("train", "supervised", "--data", folder, "--partition", "full", "--no-pretrained")
    assert result.exit_code == 1
    assert f"values 0, {odd})" in str(result.exception)
    assert f"(zoo data check {folder} shows all and proposes a data.toml)" in str(result.exception)
    assert not (folder.parent / "work" / "runs").exists()


def test_without_images_there_is_no_table(zoo, tmp_path):
    (tmp_path / "empty").mkdir()
    result = zoo("data", "check", tmp_path / "empty")
    assert result.exit_code == 1
    assert result.stdout.startswith("fault: ")
    assert "class_0" not in result.stdout


def test_without_masks_there_is_no_table_of_classes(zoo, folder):
    shutil.rmtree(folder / "train" / "masks")
    shutil.rmtree(folder / "val" / "masks")
    result = zoo("data", "check", folder)
    assert "Images of" in result.stdout
    assert "class_0" not in result.stdout
