"""Masks written for CVAT, Label Studio and COCO, and read back by the formats' own readers and by ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest
from cvat_sdk.masks import decode_mask
from pycocotools.coco import COCO

from zoo.classes import IGNORE, Classes
from zoo.data.annotations import read_annotated
from zoo.data.formats.coco import CocoWriter
from zoo.data.formats.cvat import CvatWriter, label_constructor
from zoo.data.formats.label_studio import LabelStudioWriter, decode, encode, labeling_interface
from zoo.data.formats.polygons import trace
from zoo.data.formats.regions import Labels
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

STREET = ("road", "sky & clouds", "car")
SCENE = ("background", "car", "tree")
BOX = ("left", "top", "width", "height")
WRITERS = {
    "cvat.xml": CvatWriter,
    "label_studio.json": lambda labels: LabelStudioWriter(labels, "images", "m"),
    "coco.json": CocoWriter,
}


def random_masks(names: tuple[str, ...], *, ignored: bool = True) -> dict[str, NDArray[np.uint8]]:
    """Return masks of odd sizes by image: noise, large blocks with holes and islands, and one label alone."""
    random = np.random.default_rng(0)
    labels = [*range(len(names)), *([IGNORE] if ignored else [])]
    noise = random.choice(labels, (17, 31)).astype(np.uint8)
    blocks = np.kron(random.choice(labels, (6, 5)), np.ones((7, 9))).astype(np.uint8)
    rings = np.zeros((40, 30), np.uint8)
    for depth in range(1, 12):
        rings[depth:-depth, depth:-depth] = depth % 2
    return {"a.jpg": noise, "b.jpg": blocks, "c/d.png": rings, "e.jpg": np.full((5, 4), 2, np.uint8)}


def write(path: Path, masks: dict[str, NDArray[np.uint8]], names: tuple[str, ...]) -> Path:
    writer = WRITERS[path.name](Labels(names))
    for name, mask in masks.items():
        writer.add(name, mask)
    path.write_text(writer.text(), encoding="utf-8")
    return path


@pytest.mark.parametrize("names", [STREET, SCENE])
@pytest.mark.parametrize("file", WRITERS)
def test_written_masks_are_read_back_bit_for_bit(tmp_path: Path, file: str, names: tuple[str, ...]) -> None:
    masks = random_masks(names)
    path = write(tmp_path / file, masks, names)
    found = list(read_annotated(path, Labels(names), predictions=True))
    stems = [name.removesuffix(".jpg").removesuffix(".png") for name in masks]
    assert [one.name.partition("images/")[2] or one.name for one in found] == (
        stems if file == "coco.json" else list(masks)
    )
    for one, mask in zip(found, masks.values(), strict=True):
        assert np.array_equal(one.mask, mask)


def test_cvats_own_decoder_reads_the_masks_bit_for_bit(tmp_path: Path) -> None:
    masks = random_masks(STREET, ignored=False)
    root = ElementTree.parse(write(tmp_path / "cvat.xml", masks, STREET)).getroot()
    for image, mask in zip(root.iter("image"), masks.values(), strict=True):
        found = np.full(mask.shape, IGNORE, np.uint8)
        for shape in image:
            left, top, width, height = (int(shape.get(key, "")) for key in BOX)
            runs = [int(run) for run in shape.get("rle", "").split(",")]
            region = decode_mask(
                [*runs, left, top, left + width - 1, top + height - 1],
                image_width=mask.shape[1],
                image_height=mask.shape[0],
            )
            found[region] = STREET.index(shape.get("label", ""))
        assert np.array_equal(found, mask)


def test_pycocotools_reads_the_polygons_bit_for_bit_with_their_areas(tmp_path: Path) -> None:
    masks = random_masks(STREET, ignored=False)
    coco = COCO(write(tmp_path / "coco.json", masks, STREET))
    for number, mask in enumerate(masks.values(), start=1):
        found = np.full(mask.shape, IGNORE, np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=number)):
            region = coco.annToMask(annotation) > 0
            assert region.sum() == annotation["area"]
            left, top, width, height = annotation["bbox"]
            assert region[top : top + height, left : left + width].sum() == annotation["area"]
            found[region] = annotation["category_id"] - 1
        assert np.array_equal(found, mask)


def label_studio_decode(rle: list[int]) -> list[int]:
    """Return the values of a brush region, bit by bit as the format's description reads."""
    bits = [byte >> shift & 1 for byte in rle for shift in range(7, -1, -1)]

    def read(count: int) -> int:
        value = 0
        for _ in range(count):
            value = 2 * value + bits.pop(0)
        return value

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated, count = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * count if repeated else [read(word) for _ in range(count)]
    return values


def test_a_literal_decoder_of_label_studio_reads_brush_regions_as_images_of_four_channels() -> None:
    region = random_masks(STREET)["a.jpg"] == 1
    values = np.reshape(label_studio_decode(encode(region)), (*region.shape, 4))
    assert np.array_equal(values, np.where(region, 255, 0)[..., None].repeat(4, axis=2))


def test_label_studios_own_decoder_reads_the_masks_bit_for_bit(tmp_path: Path) -> None:
    """Runs beside `pip install --no-deps label-studio-sdk`, whose dependencies are many."""
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    masks = random_masks(STREET, ignored=False)
    tasks = json.loads(write(tmp_path / "label_studio.json", masks, STREET).read_text())
    for task, mask in zip(tasks, masks.values(), strict=True):
        results = [one | one["value"] for one in task["predictions"][0]["result"]]
        found = np.full(mask.shape, IGNORE, np.uint8)
        for layer, region in brush.decode_from_annotation("mask", results).items():
            found[region > 0] = STREET.index(layer.removeprefix("mask-").rpartition("-")[0])
        assert np.array_equal(found, mask)


def test_label_studios_own_converter_packs_a_region_into_the_same_bytes() -> None:
    """Its encoder's bytes: `label_studio_sdk.converter.brush.mask2rle` of label-studio-sdk 2.1.2."""
    region = np.zeros((5, 7), bool)
    region[1:4, 2:6] = True
    region[2, 3] = False
    packed = [0, 0, 0, 140, 57, 27, 254, 35, 0, 191, 255, 108, 2, 63, 248, 192, 39, 255, 182, 1, 127]
    packed += [255, 15, 128, 0]
    assert list(encode(region)) == packed
    assert np.array_equal(decode(packed, region.shape), region)


def test_values_that_label_studio_does_not_repeat_are_read() -> None:
    header = f"{12:032b}{7:05b}" + "".join(f"{bits - 1:04b}" for bits in (3, 4, 8, 16))
    literal = "0" + "01" + f"{11:04b}" + "".join(f"{value:08b}" for value in [0, 0, 0, 9] * 2 + [0] * 4)
    bits = header + literal
    packed = list(int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8)))
    assert label_studio_decode(packed) == [0, 0, 0, 9] * 2 + [0] * 4
    assert decode(packed, (1, 3)).tolist() == [[True, True, False]]


def test_a_long_region_is_packed_in_several_runs() -> None:
    region = np.ones((300, 200), bool)  # 240,000 values, more than one count holds
    assert np.array_equal(decode(encode(region), (300, 200)), region)


def test_each_connected_part_is_traced_alone_and_a_hole_cuts_it_in_two() -> None:
    region = np.zeros((5, 9), bool)
    region[0:3, 0:3] = True
    region[1, 1] = False  # a hole
    region[3, 3] = True  # touches at a corner only
    assert trace(region) == [
        [[0, 0, 3, 0, 3, 1, 0, 1], [0, 1, 1, 1, 1, 2, 2, 2, 2, 1, 3, 1, 3, 3, 0, 3]],
        [[3, 3, 4, 3, 4, 4, 3, 4]],
    ]


CVAT = """<annotations><version>1.1</version><image id="0" name="a.jpg" width="6" height="4">
<polygon label="car" points="0,0;3,0;3,2;0,2" z_order="1"/>
<box label="road" xtl="1" ytl="1" xbr="6" ybr="4" z_order="0"/><tag label="night"/>{more}</image>
</annotations>"""


def test_shapes_of_cvat_are_drawn_by_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(CVAT.format(more=""))
    [found] = read_annotated(tmp_path / "a.xml", Labels(STREET))
    nothing = IGNORE
    assert found.mask.tolist() == [
        [2, 2, 2, nothing, nothing, nothing],
        [2, 2, 2, 0, 0, 0],
        [nothing, 0, 0, 0, 0, 0],
        [nothing, 0, 0, 0, 0, 0],
    ]


def test_a_turned_box_of_cvat_is_drawn_turned(tmp_path: Path) -> None:
    box = '<box label="car" xtl="2" ytl="4" xbr="8" ybr="6" rotation="{}"/>'
    image = '<annotations><image name="a.jpg" width="10" height="10">{}</image></annotations>'
    for turn, rows, columns in ((90, (2, 8), (4, 6)), (180, (4, 6), (2, 8))):
        (tmp_path / "a.xml").write_text(image.format(box.format(turn)))
        [found] = read_annotated(tmp_path / "a.xml", Labels(STREET))
        expected = np.full((10, 10), IGNORE)
        expected[slice(*rows), slice(*columns)] = STREET.index("car")
        assert np.array_equal(found.mask, expected)
    (tmp_path / "a.xml").write_text(image.format(box.format(30)))
    [found] = read_annotated(tmp_path / "a.xml", Labels(STREET))
    assert (found.mask[3, 3], found.mask[6, 3]) == (STREET.index("car"), IGNORE)  # clockwise: the left end up


def task(*results: dict[str, Any], key: str = "annotations", **changes: Any) -> dict[str, Any]:
    size = {"original_width": 10, "original_height": 10, "image_rotation": 0}
    return {"data": {"image": "a.jpg"}, key: [{"result": [size | one for one in results]} | changes]}


def rectangle(label: str, **changes: float) -> dict[str, Any]:
    value = {"x": 0, "y": 0, "width": 50, "height": 20, "rectanglelabels": [label]} | changes
    return {"type": "rectanglelabels", "value": value}


def test_polygons_and_rectangles_of_label_studio_are_in_percent(tmp_path: Path) -> None:
    polygon = {"points": [[50, 50], [100, 50], [100, 100], [50, 100]], "polygonlabels": ["road"]}
    tasks = [task(rectangle("car"), {"type": "polygonlabels", "value": polygon})]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    [found] = read_annotated(tmp_path / "a.json", Labels(STREET))
    expected = np.full((10, 10), IGNORE)
    expected[:2, :5], expected[5:, 5:] = 2, 0
    assert np.array_equal(found.mask, expected)


@pytest.mark.parametrize(
    ("turn", "rows", "columns"),
    [(0, (4, 6), (4, 9)), (90, (4, 9), (2, 4)), (180, (2, 4), (0, 4)), (270, (0, 4), (4, 6))],
)
def test_a_rectangle_of_label_studio_is_turned_clockwise_around_its_upper_left_corner(
    tmp_path: Path, turn: int, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    (tmp_path / "a.json").write_text(json.dumps([task(rectangle("car", x=40, y=40, rotation=turn))]))
    [found] = read_annotated(tmp_path / "a.json", Labels(STREET))
    expected = np.full((10, 10), IGNORE)
    expected[slice(*rows), slice(*columns)] = STREET.index("car")
    assert np.array_equal(found.mask, expected)


def inside_ellipse(size: int, radii: tuple[float, float], turn: float) -> NDArray[np.bool_]:
    """Return the pixels whose centers are in an ellipse around the center of a square image, row by row."""
    found = np.zeros((size, size), np.bool_)
    for row in range(size):
        for column in range(size):
            x, y = column + 0.5 - size / 2, row + 0.5 - size / 2
            along = x * np.cos(turn) + y * np.sin(turn)
            across = y * np.cos(turn) - x * np.sin(turn)
            found[row, column] = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1
    return found


@pytest.mark.parametrize("turn", [0, 30, 90])
def test_ellipses_of_cvat_and_label_studio_are_drawn_turned(tmp_path: Path, turn: int) -> None:
    size = 80
    ellipse = f'<ellipse label="car" cx="40" cy="40" rx="30" ry="10" rotation="{turn}"/>'
    image = f'<annotations><image name="a.jpg" width="{size}" height="{size}">{ellipse}</image></annotations>'
    (tmp_path / "a.xml").write_text(image)
    value = {"x": 50, "y": 50, "radiusX": 37.5, "radiusY": 12.5, "rotation": turn, "ellipselabels": ["car"]}
    shape = {"type": "ellipselabels", "value": value, "original_width": size, "original_height": size}
    (tmp_path / "a.json").write_text(json.dumps([task(shape)]))
    expected = inside_ellipse(size, (30, 10), np.radians(turn))
    for file in ("a.xml", "a.json"):
        [found] = read_annotated(tmp_path / file, Labels(STREET))
        region = found.mask == STREET.index("car")
        assert (region != expected).sum() < 0.05 * expected.sum()


def test_answers_of_label_studio_about_an_image_are_no_regions(tmp_path: Path) -> None:
    results = [{"type": "choices", "value": {"choices": ["sunny"]}}, rectangle("car"), {"type": "relation"}]
    (tmp_path / "a.json").write_text(json.dumps([task(*results)]))
    [found] = read_annotated(tmp_path / "a.json", Labels(STREET))
    assert (found.mask != IGNORE).sum() == 10


def test_label_studio_gets_addresses_and_exports_without_our_names_are_read_by_them(tmp_path: Path) -> None:
    writer = LabelStudioWriter(Labels(STREET), "images", "m")
    writer.add("a b#1.jpg", np.zeros((4, 4), np.uint8))
    [written] = writer.tasks
    assert written["data"]["image"] == "/data/local-files/?d=images/a%20b%231.jpg"
    del written["data"]["name"]
    (tmp_path / "a.json").write_text(json.dumps([written]))
    [found] = read_annotated(tmp_path / "a.json", Labels(STREET), predictions=True)
    assert found.name == "images/a b#1.jpg"


def test_predictions_are_no_annotations_unless_accepted(tmp_path: Path) -> None:
    skipped = task(rectangle("car"), was_cancelled=True)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([task(rectangle("car"), key="predictions"), skipped]))
    with pytest.raises(DatasetError, match=r"a\.json: got no submitted annotation.*--predictions"):
        list(read_annotated(path, Labels(STREET)))
    assert len(list(read_annotated(path, Labels(STREET), predictions=True))) == 1


def of_cvat(more: str) -> str:
    return CVAT.format(more=more)


def of_mask(**changes: object) -> str:
    found = {"label": "car", "rle": "0,1", "left": 0, "top": 0, "width": 1, "height": 1} | changes
    attributes = " ".join(f'{key}="{value}"' for key, value in found.items())
    return of_cvat(f"<mask {attributes}/>")


BROKEN = {"type": "brushlabels", "value": {"brushlabels": ["car"], "rle": [0]}}
BUSES = {"categories": [{"id": 1, "name": "bus"}], "images": [], "annotations": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (of_mask(label="bus"), "got the label 'bus', expected one of"),
        (of_mask(rle="0,2"), "got runs of 2 pixels, expected 1"),
        (of_mask(left=6), "got a mask of 1x1 pixels at 6,0, expected one inside 6x4"),
        (of_cvat('<polyline label="car" points="0,0;1,1"/>'), "got a polyline, expected mask, polygon, box"),
        (of_cvat('<polygon label="car" points="0,0;1,1"/>'), "at least three"),
        ("<annotations><track/></annotations>", "got a video with tracks, expected images"),
        ("<annotations>", "a.txt: got no element found"),
        (json.dumps([task(rectangle("bus"))]), "the label 'bus', expected one of"),
        (json.dumps([task(rectangle("car") | {"image_rotation": 90})]), "a rotated image, expected none"),
        (json.dumps([task()]), "an annotation without regions"),
        (json.dumps([task(BROKEN | {"value": {"brushlabels": ["car", "road"]}})]), "a region of 2 labels"),
        (json.dumps([task({"type": "choices", "value": {}})]), "an annotation without regions"),
        (json.dumps([task({"type": "keypointlabels", "value": {}})]), "a result of the type keypointlabels"),
        (json.dumps([task(BROKEN)]), "ends early"),
        (json.dumps([{"image": "a.jpg"}]), "got no 'data', expected one: correct it in Label Studio"),
        (json.dumps(BUSES), "the label 'bus', expected one of"),
        ("PK...", r"a.txt: got a file of another format.*unpack it"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_one_clear_line(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(DatasetError, match=message) as caught:
        list(read_annotated(tmp_path / "a.txt", Labels(STREET)))
    assert "\n" not in str(caught.value)


def test_the_tools_get_the_labels_with_their_colors_without_the_background() -> None:
    classes = Classes(SCENE, ((0, 0, 0), (255, 0, 16), (0, 9, 0)))
    labels = Labels(SCENE)
    assert [(one["name"], one["color"]) for one in label_constructor(classes, labels)] == [
        ("car", "#ff0010"),
        ("tree", "#000900"),
    ]
    interface = ElementTree.fromstring(labeling_interface(classes, labels))
    assert [(one.get("value"), one.get("background")) for one in interface.iter("Label")] == [
        ("car", "#ff0010"),
        ("tree", "#000900"),
    ]
