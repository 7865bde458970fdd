import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from zoo.classes import IGNORE
from zoo.data.check import check_source
from zoo.data.folder import FolderSource
from zoo.data.formats.coco import Annotations
from zoo.data.formats.drawing import ImageRegions, Region, unpacked_runs
from zoo.data.inspect.inspection import inspect
from zoo.errors import DatasetError

HEIGHT, WIDTH = 20, 30
CATEGORIES = [{"id": 9, "name": "car"}, {"id": 3, "name": "road"}]


def box(left, top, right, bottom):
    """Return the polygon of a rectangle, right and bottom excluded."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(mask):
    """Return the uncompressed runs of a region, column by column, counted one pixel at a time."""
    counts, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def annotate(segmentation, category=9, **changes):
    return {"segmentation": segmentation, "category_id": category, "image_id": 1, "iscrowd": 0} | changes


def make_folder(folder, annotations, categories=None, **image):
    for split in ("train", "val"):
        (folder / split / "images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), "red" if split == "train" else "blue").save(
            folder / split / "images" / "a.jpg"
        )
        content = {
            "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH} | image],
            "annotations": [{"id": number} | one for number, one in enumerate(annotations)],
            "categories": categories or CATEGORIES,
        }
        (folder / split / "annotations.json").write_text(json.dumps(content))
    return str(folder)


def painted(*boxes):
    """Return a mask of rectangles (label, left, top, right, bottom), the later ones on top, by loops."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for label, left, top, right, bottom in boxes:
        for y in range(top, bottom):
            for x in range(left, right):
                mask[y, x] = label
    return mask


def test_classes_are_the_categories_by_id_after_a_background(tmp_path):
    source = FolderSource(make_folder(tmp_path, [annotate(box(2, 3, 12, 9)), annotate(box(15, 2, 20, 8), 3)]))
    assert source.classes.names == ("background", "road", "car")
    assert np.array_equal(source.read_mask("train/a"), painted((2, 2, 3, 12, 9), (1, 15, 2, 20, 8)))


def test_smaller_objects_are_on_top_whatever_their_order(tmp_path):
    small, large = annotate(box(4, 4, 8, 8), 3), annotate(box(2, 2, 14, 12))
    expected = painted((2, 2, 2, 14, 12), (1, 4, 4, 8, 8))
    for annotations in ([small, large], [large, small]):
        source = FolderSource(make_folder(tmp_path, annotations))
        assert np.array_equal(source.read_mask("train/a"), expected)


def test_a_crowd_is_ignored_and_lies_below_objects(tmp_path):
    crowd = annotate(runs(painted((1, 6, 6, 10, 10)) > 0), iscrowd=1)
    source = FolderSource(make_folder(tmp_path, [annotate(box(2, 2, 8, 8)), crowd]))
    assert np.array_equal(source.read_mask("val/a"), painted((IGNORE, 6, 6, 10, 10), (2, 2, 2, 8, 8)))


def test_several_polygons_runs_and_compressed_runs_are_drawn(tmp_path):
    from pycocotools.mask import encode

    region = painted((1, 1, 2, 5, 7), (1, 20, 11, 28, 19)) > 0
    packed = encode(np.asfortranarray(region.astype(np.uint8)))
    packed["counts"] = packed["counts"].decode()
    for segmentation in (box(1, 2, 5, 7) + box(20, 11, 28, 19), runs(region), packed):
        source = FolderSource(make_folder(tmp_path, [annotate(segmentation, 3)]))
        assert np.array_equal(source.read_mask("train/a"), region.astype(np.uint8))


def test_a_slanted_polygon_is_what_pillow_fills_but_for_its_edge(tmp_path):
    points = [3, 2, 27, 5, 20, 18, 6, 15]
    canvas = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(canvas).polygon(points, fill=2)
    filled = np.asarray(canvas)
    mask = FolderSource(make_folder(tmp_path, [annotate([points])])).read_mask("train/a")
    edge = np.zeros(mask.shape, bool)
    edge[1:-1, 1:-1] = sum(filled[1 + y : HEIGHT - 1 + y, 1 + x : WIDTH - 1 + x] > 0 for y in (-1, 0, 1)
                           for x in (-1, 0, 1)) % 9 > 0  # fmt: skip
    assert np.array_equal(mask[~edge], filled[~edge])
    assert (mask > 0).sum() > 200


def test_a_category_named_background_is_label_0(tmp_path):
    categories = [{"id": 0, "name": "Background"}, {"id": 1, "name": "car"}]
    annotations = [annotate(box(0, 0, 9, 9), 1), annotate(box(2, 2, 5, 5), 0)]
    source = FolderSource(make_folder(tmp_path, annotations, categories))
    assert source.classes.names == ("background", "car")
    assert np.array_equal(source.read_mask("train/a"), painted((1, 0, 0, 9, 9), (0, 2, 2, 5, 5)))


def test_an_image_without_annotations_is_background_and_the_rest_passes_the_check(tmp_path):
    folder = make_folder(tmp_path, [annotate(box(2, 2, 8, 8))])
    path = tmp_path / "train" / "annotations.json"
    content = json.loads(path.read_text())
    content["images"].append({"id": 2, "file_name": "images/b.png", "height": 8, "width": 8})
    path.write_text(json.dumps(content))
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "images" / "b.png")
    content["images"][-1]["file_name"] = "b.png"
    path.write_text(json.dumps(content))
    source = FolderSource(folder)
    assert not source.read_mask("train/b").any()
    check_source(source)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (annotate([]), r"annotation 0 without a usable segmentation: \[\]; \[coco\] unusable = "),
        (annotate([[0, 0, 3, 3]]), "annotation 0 without a usable segmentation"),
        (annotate(None), "annotation 0 without a usable segmentation: None"),
        (annotate([[0, 0, 1e9, 0, 3, 3]]), "without a usable segmentation"),
        (annotate(box(0, 0, 3, 3), 5), "category id 5, which is not listed"),
        (annotate(box(0, 0, 3, 3), image_id=8), "image id 8, which is not listed"),
        ({"image_id": 1}, "no 'category_id'"),
    ],
)
def test_bad_annotations_name_file_and_reason_in_one_line(tmp_path, annotation, message):
    with pytest.raises(DatasetError, match=rf"annotations\.json: got a file .*{message}") as caught:
        FolderSource(make_folder(tmp_path, [annotation]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 1), (7, 40), (40, 7), (200, 300)])
def test_packed_runs_are_those_of_pycocotools(shape):
    from pycocotools.mask import encode

    for share in (0, 0.01, 0.5, 1):
        mask = (np.random.default_rng(0).random(shape) < share).astype(np.uint8)
        lengths = unpacked_runs(encode(np.asfortranarray(mask))["counts"])
        assert np.array_equal(np.repeat(np.arange(len(lengths)) % 2, lengths), mask.T.ravel())


@pytest.mark.parametrize("counts", [[], [10, 20], [-1, 601], [10, 20, 600], ":d0", "abc", "", ["x"]])
def test_runs_of_another_sum_than_the_image_are_refused(counts):
    region = Region({"counts": counts, "size": [HEIGHT, WIDTH]}, 1)
    with pytest.raises(DatasetError, match="got a segmentation that cannot be drawn"):
        ImageRegions("a.json", HEIGHT, WIDTH, (region,)).draw()


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [HEIGHT, WIDTH], "counts": [3, 3000]},
        {"size": [4, 4], "counts": "04"},
    ],
)
def test_runs_that_do_not_fit_the_image_are_named(tmp_path, segmentation):
    folder = make_folder(tmp_path, [annotate(segmentation)])
    with pytest.raises(DatasetError, match=r"image a\.jpg: got a segmentation that cannot be drawn"):
        FolderSource(folder).read_mask("train/a")


def test_an_image_of_another_size_than_its_annotations_is_named(tmp_path):
    folder = make_folder(tmp_path, [annotate(box(2, 2, 8, 8))], width=WIDTH + 1)
    with pytest.raises(DatasetError, match=r"image a\.jpg: got a mask of 31x20 pixels, expected 30x20"):
        check_source(FolderSource(folder))


def test_an_image_that_is_not_listed_is_named(tmp_path):
    folder = make_folder(tmp_path, [])
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "images" / "b.png")
    with pytest.raises(DatasetError, match=r"b\.png: got no image of this name in .*annotations\.json"):
        FolderSource(folder)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[labels]\n0 = "a"\n1 = "b"\n', "got labels beside annotations"),
        ('names = ["a", "b", "c"]\n', r"got names = .*, expected \['background', 'road', 'car'\]"),
    ],
)
def test_a_description_cannot_map_annotations(tmp_path, toml, message):
    folder = make_folder(tmp_path, [])
    (tmp_path / "data.toml").write_text(toml)
    with pytest.raises(DatasetError, match=message):
        FolderSource(folder)


def test_train_and_val_have_the_same_categories(tmp_path):
    folder = make_folder(tmp_path, [])
    path = tmp_path / "val" / "annotations.json"
    path.write_text(path.read_text().replace("road", "street"))
    with pytest.raises(
        DatasetError, match="got the classes background, street, car, expected background, road"
    ):
        FolderSource(folder)
    path.unlink()
    with pytest.raises(DatasetError, match=r"val: got no annotations\.json"):
        FolderSource(folder)


def entries(*names):
    """Return annotations of images of these file names, by which they are matched."""
    return Annotations(("background", "car"), {name: ImageRegions(name, 1, 1, ()) for name in names})


@pytest.mark.parametrize("prefix", ["", "images/", "/mnt/disk/data/", "../../upload/1/", "C:\\data\\"])
def test_images_are_matched_by_the_longest_common_end_of_their_paths(tmp_path, prefix):
    folder = make_folder(tmp_path, [annotate(box(2, 3, 12, 9))], file_name=f"{prefix}a.jpg")
    assert FolderSource(folder).read_mask("train/a").any()
    found, unclear = entries("data/one/a", "data/two/a").match(["one/a", "two/a"])
    assert {stem: drawing.where for stem, drawing in found.items()} == {
        "one/a": "data/one/a",
        "two/a": "data/two/a",
    }
    assert not unclear


def test_an_accented_name_is_found_in_either_form_of_unicode():
    assert set(entries("\u00e9").match(["e\u0301"]).found) == {"e\u0301"}


def test_entries_and_images_that_may_be_several_are_refused_by_both_names(tmp_path):
    assert entries("one/a", "two/a").match(["a"]).unclear["a"].startswith("the entries one/a and two/a")
    assert "may be one/a or two/a" in entries("a").match(["one/a", "two/a"]).unclear["two/a"]
    folder = make_folder(tmp_path, [], file_name="x/a.jpg")
    path = tmp_path / "val" / "annotations.json"
    content = json.loads(path.read_text())
    content["images"].append({"id": 2, "file_name": "y/a.jpg", "height": HEIGHT, "width": WIDTH})
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"val.images.a\.jpg: got the entries x/a and y/a"):
        FolderSource(folder)
    assert [one.kind for one in inspect(folder).findings if one.kind == "unclear-entry"] == ["unclear-entry"]


def test_an_entry_of_an_image_in_another_folder_is_not_taken():
    assert set(entries("one/a").match(["one/a", "two/a"]).found) == {"one/a"}


def test_all_unusable_annotations_are_listed_and_can_be_skipped(tmp_path):
    bad = [annotate([]), annotate(None), annotate([[1, 1, 5, 5]])]
    folder = make_folder(tmp_path, [*bad, annotate(box(2, 3, 12, 9))])
    with pytest.raises(DatasetError, match=r"and 2 more \(annotation 1, annotation 2\)"):
        FolderSource(folder)
    (tmp_path / "data.toml").write_text('[coco]\nunusable = "skip"\n')
    source = FolderSource(folder)
    assert np.array_equal(source.read_mask("train/a"), painted((2, 2, 3, 12, 9)))
    skipped = [one.detail for one in inspect(folder).findings if one.kind == "skipped"]
    assert skipped == ["annotation 0, annotation 1, annotation 2"] * 2


def test_a_supercategory_without_annotations_is_no_class_but_a_class_without_any_is(tmp_path):
    pets = {"id": 0, "name": "cat", "supercategory": "none"}  # the name of the only class, as Roboflow writes
    cat, dog = ({"id": at, "name": name, "supercategory": "cat"} for at, name in ((1, "cat"), (2, "dog")))
    folder = make_folder(tmp_path, [annotate(box(2, 3, 12, 9), 1)], [pets, cat, dog])
    assert FolderSource(folder).classes.names == ("background", "cat", "dog")
    assert [one.detail for one in inspect(folder).findings if one.kind == "unused-parents"] == ["cat"] * 2


def test_a_supercategory_that_val_alone_uses_is_a_class_of_both(tmp_path):
    categories = [
        {"id": 1, "name": "pet", "supercategory": "none"},
        {"id": 2, "name": "cat", "supercategory": "pet"},
    ]
    folder = make_folder(tmp_path, [annotate(box(2, 3, 12, 9), 2)], categories)
    path = tmp_path / "val" / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 1
    path.write_text(json.dumps(content))
    assert FolderSource(folder).classes.names == ("background", "pet", "cat")


def test_the_later_object_is_on_top_if_the_description_says_so(tmp_path):
    small, large = annotate(box(4, 4, 8, 8), 3), annotate(box(2, 2, 14, 12))
    folder = make_folder(tmp_path, [small, large])
    (tmp_path / "data.toml").write_text('[coco]\norder = "file"\n')
    assert np.array_equal(FolderSource(folder).read_mask("train/a"), painted((2, 2, 2, 14, 12)))


def test_overlaps_and_areas_that_are_not_drawn_are_counted(tmp_path):
    ring = annotate(box(2, 2, 18, 18) + box(6, 6, 14, 14), area=16 * 16 - 8 * 8)  # the hole is a polygon
    folder = make_folder(
        tmp_path, [annotate(box(20, 2, 29, 12), 3, area=90), annotate(box(22, 4, 26, 8)), ring]
    )
    details = {one.kind: one.detail for one in inspect(folder).findings}
    assert details["overlaps"] == "32 pixels in 2 images"
    assert details["area-differs"] == "2 regions in 2 images"
