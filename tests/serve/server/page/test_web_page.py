"""The page of a server in a real browser: images in, overlay, areas and times out."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import FilePayload, Page
    from tests.serve.page.conftest import StandIn

    Legend = Callable[[Page], list[tuple[str, ...]]]
    MakeFile = Callable[..., FilePayload]
    OpenPage = Callable[..., Page]
    Segment = Callable[[Page, FilePayload], None]

GRAY = 120
FAILED = "Failed to load resource"
DROP = """
async ([name, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(bytes)], name));
  document.dispatchEvent(new DragEvent("dragover", { dataTransfer: transfer, bubbles: true }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
}
"""
AREAS = [("background", "50.0%", "2,400 px"), ("ring", "37.5%", "1,800 px"), ("disc", "12.5%", "600 px")]
"""Of `quadrants`, the largest first."""


def drop(page: Page, image: FilePayload) -> None:
    page.evaluate(DROP, [image["name"], list(image["buffer"])])


def seen(page: Page, x: float, y: float) -> tuple[int, ...]:
    """Return the color on the screen at a place of the frame, 0..1 from its left and top."""
    with Image.open(io.BytesIO(page.locator("#frame").screenshot())) as shot:
        color = shot.convert("RGB").getpixel((int(x * shot.width), int(y * shot.height)))
    assert isinstance(color, tuple)
    return tuple(map(int, color))


def test_a_dropped_image_gets_areas_sorted_by_size(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, legend: Legend
) -> None:
    page = open_page(stand_in.url)
    drop(page, file())
    page.wait_for_selector("#latency:not([hidden])")
    assert legend(page) == AREAS
    assert page.inner_text("#said") == "3 classes: background 50.0%, ring 37.5%, disc 12.5%"


def test_a_class_is_seen_in_its_color_over_the_image(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url)
    segment(page, file())
    ring = tuple(round(0.4 * GRAY + 0.6 * channel) for channel in (0, 128, 0))
    disc = tuple(round(0.4 * GRAY + 0.6 * channel) for channel in (128, 0, 0))
    assert seen(page, 0.6, 0.8) == pytest.approx(ring, abs=2)
    assert seen(page, 0.1, 0.8) == pytest.approx(disc, abs=2)
    assert seen(page, 0.5, 0.2) == (GRAY, GRAY, GRAY)  # black means nothing


def test_the_slider_changes_the_opacity(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url)
    segment(page, file())
    page.locator("#opacity").fill("100")
    assert page.inner_text("#percent") == "100%"
    assert seen(page, 0.6, 0.8) == (0, 128, 0)
    page.locator("#opacity").focus()
    page.keyboard.press("Home")
    assert seen(page, 0.6, 0.8) == (GRAY, GRAY, GRAY)


def test_a_class_can_be_hidden_and_shown_with_the_keyboard(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url)
    segment(page, file())
    ring = page.locator(".area", has_text="ring")
    ring.press("Enter")
    assert ring.get_attribute("aria-pressed") == "false"
    assert seen(page, 0.6, 0.8) == (GRAY, GRAY, GRAY)
    ring.press("Enter")
    assert seen(page, 0.6, 0.8) != (GRAY, GRAY, GRAY)


def test_a_slider_grays_out_what_is_unsure_and_asks_the_server_once_for_an_image(
    stand_in: StandIn, open_page: OpenPage, tmp_path: Path, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url)
    segment(page, file(size=(60, 2400)))  # wider than what is shown
    page.locator("#opacity").fill("100")
    assert page.inner_text("#below-percent") == "off"
    page.locator("#below").fill("60")
    page.locator("#below-note", has_text="below 60%").wait_for()
    assert page.inner_text("#below-note") == (
        "12.5% of the pixels are gray: their class is right with a probability below 60%."
    )
    assert seen(page, 0.1, 0.8) in {(152, 152, 152), (104, 104, 104)}
    assert seen(page, 0.6, 0.8) == (0, 128, 0)
    box = page.locator("#frame").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.9 * box["height"])
    assert page.inner_text("#under") == "disc 20%"
    with page.expect_download() as waiting:
        page.click("#save-overlay")
    waiting.value.save_as(tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as overlay:
        colors = [overlay.convert("RGB").getpixel((x, 50)) for x in (300, 2000)]
    assert colors[0] in {(152, 152, 152), (104, 104, 104)}
    assert colors[1] == (0, 128, 0)
    page.locator("#below").fill("90")
    assert page.inner_text("#below-note").startswith("100.0% of the pixels")
    page.locator("#below").fill("0")
    assert page.inner_text("#below-percent") == "off"
    assert seen(page, 0.1, 0.8) == (128, 0, 0)
    assert stand_in.posts == ["POST /predict?format=json&model=eln&output=mask%2Breliability"]


def test_another_image_is_grayed_out_as_the_slider_stands(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url)
    segment(page, file())
    page.locator("#below").fill("60")
    page.locator("#below-note", has_text="below 60%").wait_for()
    segment(page, file(size=(40, 200)))
    assert page.inner_text("#below-note").startswith("12.5% of the pixels are gray")
    assert len(stand_in.posts) == 2


def test_a_model_without_reliability_has_no_slider_and_the_page_says_why(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    stand_in.outputs = ("mask", "confidence")
    page = open_page(stand_in.url)
    segment(page, file())
    assert page.is_disabled("#below")
    said = page.inner_text("#below-note")
    assert said.startswith("This model does not tell how sure it is, because it has no calibration")
    assert "zoo calibrate" in said


def test_the_class_under_the_pointer_is_named(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url)
    segment(page, file())
    box = page.locator("#frame").bounding_box()
    assert box is not None
    for y, name in ((0.9, "disc 20%"), (0.1, "background 80%")):
        page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + y * box["height"])
        assert page.inner_text("#under") == name


def test_latency_is_split_into_the_parts_that_the_server_tells(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url)
    segment(page, file())
    names = page.locator("#times dt").all_inner_texts()
    values = page.locator("#times dd").all_inner_texts()
    assert names == ["network and browser", "decode", "queue", "compute", "encode"]
    assert values[1:] == ["2.5 ms", "0.4 ms", "11 ms", "1.1 ms"]
    assert float(page.inner_text("#total").removesuffix(" ms")) >= 15  # what the server tells and the way


def test_the_mask_is_downloaded_as_class_numbers(
    stand_in: StandIn, open_page: OpenPage, tmp_path: Path, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url)
    segment(page, file("street.view.png"))
    with page.expect_download() as waiting:
        page.click("#save-mask")
    assert waiting.value.suggested_filename == "street.view-mask.png"
    waiting.value.save_as(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "P"
        assert np.unique(np.asarray(mask)).tolist() == [0, 1, 2]


def test_the_overlay_is_downloaded_as_it_is_seen_at_the_size_of_the_image(
    stand_in: StandIn, open_page: OpenPage, tmp_path: Path, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url)
    segment(page, file(size=(60, 2400)))  # wider than what is shown
    page.locator("#opacity").fill("100")
    with page.expect_download() as waiting:
        page.click("#save-overlay")
    waiting.value.save_as(tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert overlay.size == (2400, 60)
        assert overlay.convert("RGB").getpixel((2000, 50)) == (0, 128, 0)
        assert overlay.convert("RGB").getpixel((2000, 10)) == (GRAY, GRAY, GRAY)


def test_a_file_that_is_no_image_gets_the_server_s_words(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url, (FAILED,))
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"})
    page.wait_for_selector("#problem:not([hidden])")
    assert "expected JPEG or PNG: send an image" in page.inner_text("#problem")
    assert page.is_visible("#empty")
    segment(page, file())
    assert not page.is_visible("#problem")


def test_a_server_that_is_gone_is_said(stand_in: StandIn, open_page: OpenPage, file: MakeFile) -> None:
    page = open_page(stand_in.url, (FAILED,))
    page.route("**/predict*", lambda route: route.abort())
    page.set_input_files("#file", file())
    page.wait_for_selector("#problem:not([hidden])")
    assert "The server does not answer" in page.inner_text("#problem")


def test_an_image_that_is_too_large_is_sent_smaller_only_when_the_user_says_so(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile
) -> None:
    page = open_page(stand_in.url, (FAILED,))
    stand_in.max_body = 100_000
    image = file("large.bmp", size=(200, 5000))
    page.set_input_files("#file", image)
    page.wait_for_selector("#shrink:not([hidden])")
    assert f"got {len(image['buffer'])} bytes" in page.inner_text("#problem")
    page.click("#shrink")
    page.wait_for_selector("#latency:not([hidden])")
    assert stand_in.sizes == [(164, 4096)]
    assert "4096 x 164 px of 5000 x 200" in page.inner_text("#note").replace("\u00d7", "x")


def test_a_file_that_the_browser_cannot_show_has_its_mask_alone(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment, legend: Legend
) -> None:
    page = open_page(stand_in.url)
    segment(page, file("scan.tif"))
    assert legend(page) == AREAS
    assert "cannot show such a file" in page.inner_text("#note")


def test_a_turned_photo_is_shown_upright_under_its_mask(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    page = open_page(stand_in.url)
    segment(page, file("phone.jpeg", size=(80, 60), exif=exif))
    assert stand_in.sizes == [(60, 80)]
    box = page.locator("#frame").bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(80 / 60, rel=0.01)


def test_a_server_with_a_key_asks_for_it_once_and_the_tab_keeps_it(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment, legend: Legend
) -> None:
    stand_in.key = "open sesame"
    page = open_page(stand_in.url, (FAILED,))
    page.wait_for_selector("#key:not([hidden])")
    page.fill("#secret", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#refused:not([hidden])")
    page.fill("#secret", "open sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector(".pill.good")
    assert not page.is_visible("#key")
    page.reload()
    page.wait_for_selector(".pill.good")
    segment(page, file())
    assert legend(page) == AREAS


def test_the_key_is_not_asked_for_where_none_is_needed(stand_in: StandIn, open_page: OpenPage) -> None:
    page = open_page(stand_in.url)
    page.wait_for_selector(".pill.good")
    assert not page.is_visible("#key")


def test_another_model_segments_the_same_image(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    stand_in.models = ("eln", "rrn")
    page = open_page(stand_in.url, (FAILED,))  # rrn has no card
    page.wait_for_selector("#card:not([hidden])")
    segment(page, file())
    with page.expect_response("**/predict?format=json&model=rrn*"):
        page.select_option("#model", "rrn")
    assert page.is_hidden("#card")
    assert page.title() == "rrn · zoo"
    assert stand_in.posts == [
        f"POST /predict?format=json&model={name}&output=mask%2Breliability" for name in stand_in.models
    ]


def test_one_model_needs_no_menu(stand_in: StandIn, open_page: OpenPage) -> None:
    page = open_page(stand_in.url)
    page.wait_for_selector(".pill.good")
    assert not page.is_visible("#menu")
    assert page.inner_text("#name") == "eln"


def test_markup_in_a_model_card_stays_text(stand_in: StandIn, open_page: OpenPage) -> None:
    page = open_page(stand_in.url)
    page.wait_for_selector("#card:not([hidden])")
    assert page.locator("#card img, #card script").count() == 0
    assert page.locator("#card a").evaluate_all("links => links.map(link => link.href)") == [
        "https://example.org/paper"
    ]
    card = page.inner_text("#card")
    assert "license: mit" not in card
    assert "<img src=x onerror=" in card
    assert page.inner_text("#card h3") == "eln on shapes"
    assert page.inner_text("#card strong") == "small"
    assert page.inner_text("#card pre") == "zoo predict FOLDER image.jpg"
    assert page.locator("#card td").all_inner_texts() == ["disc", "0.812"]
    assert page.title() == "eln · zoo"
