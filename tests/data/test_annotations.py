"""`zoo data import`: annotations become masks of a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zoo.classes import IGNORE
from zoo.cli import app
from zoo.data.annotations import Images, Options, import_annotations
from zoo.data.folder import FolderSource
from zoo.data.formats.cvat import CvatWriter
from zoo.data.formats.regions import Labels
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = ("background", "car", "tree")
HEIGHT, WIDTH = 12, 16


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data set of one image with a mask and two without, `s/a.png` and `b.png`."""
    folder = tmp_path / "data"
    for name, level in (("train/images/old", 10), ("unlabeled/s/a", 20), ("unlabeled/b", 30)):
        picture(folder / f"{name}.png", level)
    (folder / "train/masks").mkdir()
    Image.fromarray(mask(0)).save(folder / "train/masks/old.png")
    toml(folder, "")
    return folder


def picture(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (level, 2 * level, 0)).save(path)
    return path


def toml(folder: Path, more: str) -> None:
    (folder / "data.toml").write_text(f"names = {json.dumps(list(NAMES))}\n{more}")


def mask(label: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray[np.uint8]:
    found = np.zeros(size, np.uint8)
    found[2:6, 3:9] = label
    return found


def annotations(path: Path, **masks: NDArray[np.uint8]) -> Path:
    """Write a file of CVAT; `__` in a name stands for a slash."""
    writer = CvatWriter(Labels(NAMES))
    for name, found in masks.items():
        writer.add(f"{name.replace('__', '/')}.png", found)
    path.write_text(writer.text())
    return path


def test_unlabeled_images_move_to_train_and_are_read_with_their_masks(data: Path, tmp_path: Path) -> None:
    file = annotations(tmp_path / "a.xml", s__a=mask(1), b=mask(IGNORE))
    _, found = import_annotations(file, str(data), Options())
    source = FolderSource(str(data))
    assert source.ids("train") == ("train/b", "train/old", "train/s/a")
    assert source.ids("unlabeled") == ()
    assert [(one.action, one.labels) for one in found] == [("moved", (0, 1)), ("moved", (0,))]
    assert np.array_equal(source.read_mask("train/s/a"), mask(1))
    assert np.array_equal(source.read_mask("train/b"), mask(IGNORE))
    assert source.read_image("train/s/a")[0, 0].tolist() == [20, 40, 0]


@pytest.mark.parametrize(
    ("more", "mode", "value"),
    [
        ("[labels]\n7 = 'background'\n9 = 'car'\n4 = 'tree'\n", "L", 9),
        ("ignore = [[1, 1, 1]]\n[colors]\nbackground=[0, 0, 0]\ncar=[[5, 6, 7], [9, 9, 9]]\ntree=[1, 2, 3]\n",
         "RGB", (5, 6, 7)),
    ],
)  # fmt: skip
def test_masks_are_written_with_the_values_or_colors_of_the_data_set(
    data: Path, tmp_path: Path, more: str, mode: str, value: object
) -> None:
    toml(data, more)
    drawn = mask(1)
    drawn[8] = IGNORE
    import_annotations(annotations(tmp_path / "a.xml", b=drawn), str(data), Options())
    with Image.open(data / "train/masks/b.png") as written:
        assert (written.mode, written.getpixel((4, 4))) == (mode, value)
    assert np.array_equal(FolderSource(str(data)).read_mask("train/b"), drawn)


def test_an_ignored_pixel_needs_a_color_to_be_written(data: Path, tmp_path: Path) -> None:
    toml(data, "[colors]\nbackground=[0, 0, 0]\ncar=[5, 6, 7]\ntree=[1, 2, 3]\n")
    file = annotations(tmp_path / "a.xml", b=mask(IGNORE))
    with pytest.raises(DatasetError, match=r"got ignore, expected a color for it in data\.toml"):
        import_annotations(file, str(data), Options())
    assert (data / "unlabeled/b.png").is_file()


def test_images_from_elsewhere_are_copied_into_a_new_data_set_that_names_its_classes(tmp_path: Path) -> None:
    picture(tmp_path / "photos/x/c.png", 40)
    file = annotations(tmp_path / "a.xml", c=mask(2))
    new = tmp_path / "new"
    new.mkdir()
    with pytest.raises(DatasetError, match=r"got a data set without classes, expected names"):
        import_annotations(file, str(new), Options(tmp_path / "photos"))
    toml(new, "")
    with pytest.raises(DatasetError, match=r"got the image c\.png, expected it in .*--images"):
        import_annotations(file, str(new), Options())
    assert [path.name for path in new.iterdir()] == ["data.toml"]
    _, [found] = import_annotations(file, str(new), Options(tmp_path / "photos"))
    assert (found.action, found.image) == ("copied", new / "train/images/x/c.png")
    assert found.source.is_file()
    assert np.array_equal(FolderSource(str(new)).read_mask("train/x/c"), mask(2))


def test_a_copy_of_an_unlabeled_image_moves_the_original(data: Path, tmp_path: Path) -> None:
    picture(tmp_path / "photos/b.png", 30)
    picture(tmp_path / "photos/a.png", 99)  # another image than unlabeled/s/a
    file = annotations(tmp_path / "a.xml", b=mask(1), a=mask(1))
    _, found = import_annotations(file, str(data), Options(tmp_path / "photos"))
    assert [one.action for one in found] == ["moved", "copied"]
    assert FolderSource(str(data)).ids("unlabeled") == ("unlabeled/s/a",)


def test_the_same_import_again_changes_nothing_and_other_masks_need_overwrite(
    data: Path, tmp_path: Path
) -> None:
    file = annotations(tmp_path / "a.xml", b=mask(1))
    for action in ("moved", "kept"):
        _, [found] = import_annotations(file, str(data), Options())
        assert found.action == action
    annotations(file, b=mask(2))
    with pytest.raises(DatasetError, match=r"b\.png: got another mask of this image.*--overwrite"):
        import_annotations(file, str(data), Options())
    import_annotations(file, str(data), Options(overwrite=True))
    assert np.array_equal(FolderSource(str(data)).read_mask("train/b"), mask(2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"c": mask(1)}, r"got the image c\.png, expected it in .*unlabeled.*--images"),
        ({"s__a": mask(1, (WIDTH, HEIGHT))}, r"annotations of 12x16 pixels for .*a\.png, expected 16x12"),
    ],
)
def test_one_wrong_image_leaves_the_data_set_as_it_was(
    data: Path, tmp_path: Path, wrong: dict[str, NDArray[np.uint8]], message: str
) -> None:
    before = sorted(path for path in data.rglob("*"))
    file = annotations(tmp_path / "a.xml", b=mask(1), **wrong)
    with pytest.raises(DatasetError, match=message):
        import_annotations(file, str(data), Options())
    assert sorted(path for path in data.rglob("*")) == before


def test_the_command_counts_the_images_of_each_class(data: Path, tmp_path: Path) -> None:
    file = annotations(tmp_path / "a.xml", s__a=mask(1), b=mask(2))
    result = CliRunner().invoke(app, ["data", "import", str(file), str(data), "--json"])
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["classes"] == {"background": 2, "car": 1, "tree": 1}
    assert [Path(one["image"]).name for one in value["images"]] == ["a.png", "b.png"]


def test_a_copy_of_an_image_of_val_is_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    picture(data / "val/images/v.png", 30)  # as unlabeled/b
    before = sorted(data.rglob("*"))
    file = annotations(tmp_path / "a.xml", s__a=mask(1), b=mask(1))
    with pytest.raises(DatasetError, match=r"unlabeled/b\.png: got a copy of .*val/images/v\.png, an image"):
        import_annotations(file, str(data), Options())
    assert sorted(data.rglob("*")) == before


def test_a_list_says_which_images_of_train_are_of_val(data: Path, tmp_path: Path) -> None:
    toml(data, "val_list = 'val.txt'\n")
    (data / "val.txt").write_text("train/old\n")
    import_annotations(annotations(tmp_path / "a.xml", old=mask(1)), str(data), Options(overwrite=True))
    picture(data / "unlabeled/b.png", 10)  # as train/images/old
    with pytest.raises(DatasetError, match=r"b\.png: got a copy of .*old\.png, an image of val"):
        import_annotations(annotations(tmp_path / "b.xml", b=mask(1)), str(data), Options())


@pytest.mark.parametrize("name", ["old_mask.png", "old.png.png", "old.PNG", "old.tif"])
def test_a_mask_of_another_name_or_format_is_not_replaced_by_a_second_one(
    name: str, data: Path, tmp_path: Path
) -> None:
    path = data / "train/masks/old.png"
    if name.endswith(".tif"):
        Image.open(path).save(path.with_name(name))
        path.unlink()
    else:
        path.rename(path.with_name(name))
    file = annotations(tmp_path / "a.xml", old=mask(1))
    with pytest.raises(DatasetError, match=f"{name}: got another mask of this image.* remove it"):
        import_annotations(file, str(data), Options(overwrite=True))
    assert [path.name for path in (data / "train/masks").iterdir()] == [name]


def test_images_without_regions_are_named(data: Path, tmp_path: Path) -> None:
    file = annotations(tmp_path / "a.xml", s__a=mask(1), b=mask(0))
    result = CliRunner().invoke(app, ["data", "import", str(file), str(data)])
    assert f"1 without a region of a class ({data}/train/images/b.png)" in " ".join(result.output.split())


def test_an_image_uploaded_to_label_studio_is_found_by_its_own_name(data: Path) -> None:
    images = Images(data / "unlabeled")
    found = images.find("/data/upload/1/1a2b3c4d-b.png", Path("a.json"))
    assert found is not None
    assert (found.image, found.parts) == (data / "unlabeled/b.png", 0)
    assert images.find("/data/upload/1/1a2b3c-b.png", Path("a.json")) is None


def test_an_image_of_another_folder_never_gets_the_mask_of_its_namesake(data: Path, tmp_path: Path) -> None:
    """The same file is imported twice, as after an interruption."""
    picture(data / "unlabeled/t/a.png", 40)
    file = annotations(tmp_path / "a.xml", s__a=mask(1))
    for _ in range(2):
        import_annotations(file, str(data), Options())
        assert FolderSource(str(data)).ids("unlabeled") == ("unlabeled/b", "unlabeled/t/a")
    assert FolderSource(str(data)).ids("train") == ("train/old", "train/s/a")
    with pytest.raises(DatasetError, match=r"got the image v/a\.png, expected it in"):
        import_annotations(annotations(tmp_path / "b.xml", v__a=mask(1)), str(data), Options())


def test_the_most_parts_of_a_path_decide(data: Path, tmp_path: Path) -> None:
    picture(data / "unlabeled/old.png", 50)
    picture(data / "train/images/s/old.png", 60)
    Image.fromarray(mask(0)).save((data / "train/masks/s").with_suffix(".tmp"), "PNG")
    (data / "train/masks/s").mkdir()
    (data / "train/masks/s.tmp").rename(data / "train/masks/s/old.png")
    file = annotations(tmp_path / "a.xml", s__old=mask(2))
    _, [found] = import_annotations(file, str(data), Options(overwrite=True))
    assert (found.action, found.image) == ("kept", data / "train/images/s/old.png")
    assert (data / "unlabeled/old.png").is_file()


def test_of_two_files_that_differ_in_their_suffix_the_named_one_is_taken(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    picture(source / "x.png", 70)
    Image.new("RGB", (WIDTH, HEIGHT), (0, 0, 90)).save(source / "x.bmp")
    file = annotations(tmp_path / "a.xml", x=mask(1))
    _, [found] = import_annotations(file, str(data), Options(images=source))
    assert found.source == source / "x.png"


def test_the_folder_of_another_tool_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "yolo"
    for split in ("train", "val"):
        picture(folder / f"images/{split}/{split}.png", 10)
        label = folder / f"labels/{split}/{split}.txt"
        label.parent.mkdir(parents=True)
        label.write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    picture(folder / "unlabeled/new.png", 20)
    (folder / "data.yaml").write_text("names: [car]\n")
    before = sorted(folder.rglob("*"))
    file = annotations(tmp_path / "a.xml", new=mask(1))
    with pytest.raises(DatasetError, match=r"got YOLO.*, expected train/images and train/masks, since"):
        import_annotations(file, str(folder), Options())
    assert sorted(folder.rglob("*")) == before


def test_a_missing_data_set_is_said_to_be_missing(tmp_path: Path) -> None:
    file = annotations(tmp_path / "a.xml", b=mask(1))
    with pytest.raises(DatasetError, match=r"nodata: got a path that does not exist, expected the folder"):
        import_annotations(file, str(tmp_path / "nodata"), Options())


def test_one_image_is_counted_as_one(data: Path, tmp_path: Path) -> None:
    file = annotations(tmp_path / "a.xml", b=mask(2))
    result = CliRunner().invoke(app, ["data", "import", str(file), str(data)])
    assert "1 image: 1 moved" in result.output


def test_images_of_16_bits_and_arrays_are_imported_too(data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "train")
    shutil.rmtree(data / "unlabeled")
    toml(data, 'channels = 1\ndtype = "uint16"\n')
    (data / "unlabeled").mkdir()
    pixels = np.full((HEIGHT, WIDTH), 40_000, np.uint16)
    Image.fromarray(pixels).save(data / "unlabeled/a.png")
    np.save(data / "unlabeled/b.npy", pixels[..., None])
    file = annotations(tmp_path / "a.xml", a=mask(1), b=mask(2))
    file.write_text(file.read_text().replace("b.png", "b.npy"))
    _, found = import_annotations(file, str(data), Options())
    assert [one.image.name for one in found] == ["a.png", "b.npy"]
    source = FolderSource(str(data))
    assert [int(source.read_image(id_).max()) for id_ in source.ids("train")] == [40_000, 40_000]
    assert np.array_equal(source.read_mask("train/b"), mask(2))
