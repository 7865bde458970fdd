"""The page of a server in a real browser, while answers come in another order than they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import FilePayload, Page
    from tests.serve.page.conftest import StandIn

    Legend = Callable[[Page], list[tuple[str, ...]]]
    MakeFile = Callable[..., FilePayload]
    OpenPage = Callable[..., Page]
    Segment = Callable[[Page, FilePayload], None]

FAILED = "Failed to load resource"
MODELS = "**/models"
REQUEST = "POST /predict?format=json&model=eln&output=mask%2Breliability"
AREAS = [("background", "50.0%", "2,400 px"), ("ring", "37.5%", "1,800 px"), ("disc", "12.5%", "600 px")]
"""Of `quadrants`, the largest first."""
SLOWLY = """
window.decode = window.createImageBitmap.bind(window);
window.createImageBitmap = (blob) =>
  new Promise((resolve) => { window.decoded = () => resolve(window.decode(blob)); });
null
"""
"""Lets the page decode an image when `decoded` is called."""


def test_an_image_that_is_dropped_before_the_models_are_known_waits_for_them(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, legend: Legend
) -> None:
    page = open_page("about:blank")
    waiting: list[Any] = []
    page.route(MODELS, lambda route: waiting.append(route))  # not answered yet
    page.goto(stand_in.url)
    page.set_input_files("#file", file())
    page.wait_for_selector("#busy:not([hidden])", state="attached")
    assert stand_in.posts == []
    waiting[0].continue_()
    page.wait_for_selector("#latency:not([hidden])")
    assert legend(page) == AREAS
    assert page.is_enabled("#below")
    assert stand_in.posts == [REQUEST]


def test_an_image_finds_a_server_that_did_not_answer_at_first(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment, legend: Legend
) -> None:
    page = open_page("about:blank", (FAILED,))
    page.route(MODELS, lambda route: route.abort(), times=1)
    page.goto(stand_in.url)
    page.wait_for_selector(".pill.bad")
    assert "The server does not answer" in page.inner_text("#problem")
    segment(page, file())
    assert legend(page) == AREAS
    assert page.is_hidden("#problem")
    assert page.title() == "eln · zoo"


def test_an_image_waits_for_the_key(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, legend: Legend
) -> None:
    stand_in.key = "open sesame"
    page = open_page(stand_in.url, (FAILED,))
    page.wait_for_selector("#key:not([hidden])")
    with page.expect_response(MODELS):
        page.set_input_files("#file", file())
    page.fill("#secret", "open sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector("#latency:not([hidden])")
    assert legend(page) == AREAS


def test_a_mask_is_saved_under_the_name_of_its_image(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url)
    segment(page, file("first.png"))
    waiting: list[Any] = []
    page.route("**/predict?format=png*", lambda route: waiting.append(route))
    with page.expect_request("**/predict?format=png*"):
        page.click("#save-mask")
    segment(page, file("second.png", size=(40, 200)))
    with page.expect_download() as download:
        waiting[0].continue_()
    assert download.value.suggested_filename == "first-mask.png"


def test_an_image_that_was_replaced_while_it_was_decoded_is_not_sent(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    stand_in.models = ("eln", "rrn")
    page = open_page(stand_in.url, (FAILED,))  # rrn has no card
    segment(page, file("first.png"))
    page.evaluate(SLOWLY)
    page.select_option("#model", "rrn")
    page.evaluate("window.createImageBitmap = window.decode; null")
    segment(page, file("second.png", size=(40, 200)))
    page.evaluate("window.decoded()")
    page.wait_for_timeout(200)
    assert stand_in.sizes == [(60, 80), (40, 200)]
