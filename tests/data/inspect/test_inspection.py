"""Folders that are wrong as a whole, and what is proposed for them."""

import tomllib

import numpy as np
import pytest

from zoo.data.check import check_source
from zoo.data.data_file import DataFile
from zoo.data.folder import FolderSource
from zoo.data.inspect.facts import ImageFacts
from zoo.data.inspect.findings import KINDS
from zoo.data.inspect.inspection import inspect
from zoo.data.inspect.judge import judge_image
from zoo.data.inspect.proposal import proposal_text, write_proposal
from zoo.errors import DatasetError


def labels(values=(0, 1, 2, 255)):
    return np.resize(np.repeat(np.array(values, np.uint8), 5), (48, 64))


def found(spec) -> set[tuple[str, tuple[str, ...]]]:
    return {(finding.kind, finding.files) for finding in inspect(str(spec)).findings}


def make_masks(folder, masks):
    for split in ("train", "val"):
        for number, mask in enumerate(masks):
            folder.pair(f"{number}", mask=mask, split=split)
    return folder


COLORS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [224, 224, 192]], np.uint8)


@pytest.mark.parametrize(
    ("mask", "kind", "expected"),
    [
        (labels(values=(0, 0, 255)), "binary-masks", labels(values=(0, 0, 1))),
        (labels(values=(0, 100, 200)), "sparse-values", labels(values=(0, 1, 2))),
        (COLORS[labels(values=(0, 2, 2, 1, 3))], "color-masks", labels(values=(0, 1, 1, 2, 255))),
        (labels(values=(0, 1, 2, 255)), None, labels(values=(0, 1, 2, 255))),
    ],
)
def test_the_proposed_description_makes_the_folder_ready_for_training(folder, mask, kind, expected):
    make_masks(folder, [mask])
    inspection = inspect(str(folder.root))
    assert {finding.kind for finding in inspection.findings} == ({kind} if kind else set())
    write_proposal(inspection.meaning.proposal, inspection.root, folder.root / "data.toml")
    assert found(folder.root) == set()
    source = FolderSource(str(folder.root))
    check_source(source)
    assert np.array_equal(source.read_mask("train/0"), expected)
    assert inspect(str(folder.root)).meaning.proposal is None


def test_a_description_written_elsewhere_leads_back_to_the_images(folder, tmp_path):
    make_masks(folder, [labels(values=(0, 255))])
    inspection = inspect(str(folder.root))
    path = tmp_path / "other" / "mine.toml"
    write_proposal(inspection.meaning.proposal, inspection.root, path)
    assert found(path) == set()
    assert FolderSource(str(path)).classes.names == ("background", "foreground")


def test_names_of_any_letters_survive_the_proposal():
    data = DataFile(train="a b", names=['"quoted"', "ü [x]"], ignore=[7])
    assert DataFile.model_validate(tomllib.loads(proposal_text(data))) == data


def test_names_are_kept_for_binary_masks(folder):
    make_masks(folder, [labels(values=(0, 255))])
    folder.path("data.toml").write_text('names = ["wall", "crack"]\n')
    assert found(folder.root) == {("binary-masks", ("train/masks/0.png", "val/masks/0.png"))}
    assert inspect(str(folder.root)).meaning.proposal.labels == {"0": "wall", "255": "crack"}


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_soft_masks_are_found(folder, mode):
    soft = np.asarray(folder.scene(96, 96).convert(mode))
    make_masks(folder, [labels()] * 2)
    folder.pair("soft", image=folder.scene(96, 96), mask=soft)
    assert found(folder.root) == {("soft-masks", ("train/masks/soft.png",))}


def test_unknown_colors_are_found_by_file(folder):
    make_masks(folder, [COLORS[labels(values=(0, 1))]] * 2)
    folder.pair("odd", mask=COLORS[labels(values=(0, 1, 2))])
    folder.path("data.toml").write_text("[colors]\nground = [0, 0, 0]\nrust = [128, 0, 0]\n")
    findings = inspect(str(folder.root)).findings
    assert [(finding.kind, finding.files, finding.detail) for finding in findings] == [
        ("unknown-color", ("train/masks/odd.png",), "the color [0, 128, 0]")
    ]


def test_masks_of_one_class_are_found(folder):
    make_masks(folder, [labels(values=(1,))])
    assert ("one-class", ()) in found(folder.root)


def test_a_folder_of_another_layout_says_what_it_holds(folder):
    folder.save("train/JPEGImages/a.png", folder.scene())
    findings = inspect(str(folder.root)).findings
    assert [(finding.kind, finding.detail) for finding in findings] == [
        ("no-images", "train: it holds JPEGImages"),
        ("no-images", "val: no such folder"),
    ]


@pytest.mark.parametrize("toml", ["names = [", 'names = ["a"]', "[colors]\na = [1, 2, 3]\nb = [1, 2, 3]\n"])
def test_a_broken_description_is_a_finding_and_the_rest_is_checked(good, toml):
    good.path("data.toml").write_text(toml)
    good.cut("train/images/good1.png")
    kinds = {finding.kind for finding in inspect(str(good.root)).findings}
    assert {"data-file", "unreadable-image"} <= kinds


def test_a_named_folder_that_is_not_there_is_found(good):
    good.path("data.toml").write_text('unlabeled = "more"\nnames = ["a", "b", "c", "d"]\n')
    details = [finding.detail for finding in inspect(str(good.root)).findings if finding.kind == "data-file"]
    assert len(details) == 1
    assert "got unlabeled = 'more', expected an existing folder" in details[0]


def test_hidden_files_and_those_of_a_file_manager_are_not_findings(good):
    for name in ("train/images/.DS_Store", "train/masks/Thumbs.db", "unlabeled/__MACOSX/x.png"):
        good.path(name).write_bytes(b"")
    assert found(good.root) == {("absent-class", ())}


def test_a_folder_without_faults_is_one_that_training_takes(good):
    check_source(FolderSource(str(good.root)))


def test_a_huge_image_is_found():
    assert [finding.kind for finding in judge_image("a", ImageFacts(mode="RGB", size=(8000, 8000)))] == [
        "huge-image"
    ]


@pytest.mark.parametrize("spec", ["shapes", "vox:somewhere", "no/folder"])
def test_what_is_no_folder_is_an_error_of_one_line(spec):
    with pytest.raises(DatasetError, match=f"{spec}: got neither a folder nor a data.toml"):
        inspect(spec)


def test_every_kind_says_what_to_do():
    assert all(kind.title and kind.remedy for kind in KINDS.values())


def test_the_check_knows_val_list_as_training_does(folder):
    for number in range(4):
        folder.pair(f"{number}")
    image = (folder.root / "train/images/0.png").read_bytes()
    folder.pair("copy", split="train")
    (folder.root / "train/images/copy.png").write_bytes(image)
    folder.path("data.toml").write_text('names = ["a", "b", "c"]\nval_list = "val.txt"\n')
    folder.path("val.txt").write_text("0\n1\n")
    inspection = inspect(str(folder.root))
    assert [inspection.counts()[split]["images"] for split in ("train", "val")] == [3, 2]
    assert found(folder.root) == {("leakage", ("train/images/copy.png", "train/images/0.png"))}
    folder.path("val.txt").write_text("0\nnowhere\n")
    (finding,) = [one for one in inspect(str(folder.root)).findings if one.kind == "data-file"]
    assert "got 'nowhere', expected an image with a mask" in finding.detail
