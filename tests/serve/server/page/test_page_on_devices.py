"""The page of a server on a phone, with a camera and without a mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import FilePayload, Page
    from tests.serve.page.conftest import StandIn

    MakeFile = Callable[..., FilePayload]
    OpenPage = Callable[..., Page]
    Segment = Callable[[Page, FilePayload], None]

FAILED = "Failed to load resource"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_nothing_to_scroll_sideways(
    stand_in: StandIn, open_page: OpenPage, scheme: str, file: MakeFile, segment: Segment
) -> None:
    stand_in.models = ("eln", "a-name-that-is-longer-than-the-screen-of-any-phone-is-wide-in-the-year-2026")
    page = open_page(
        stand_in.url, viewport={"width": 375, "height": 700}, color_scheme=scheme, has_touch=True
    )
    segment(page, file(size=(60, 400)))
    assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_the_camera_gives_a_picture_and_then_rests(stand_in: StandIn, open_page: OpenPage) -> None:
    page = open_page(stand_in.url)
    page.click("#empty [data-camera]")
    page.click("#shot")
    page.wait_for_selector("#latency:not([hidden])")
    assert len(stand_in.sizes) == 1
    assert page.evaluate("document.querySelector('#video').srcObject") is None


def test_live_pictures_wait_while_the_server_is_busy_and_end_when_told(
    stand_in: StandIn, open_page: OpenPage
) -> None:
    stand_in.full = 1
    page = open_page(stand_in.url, (FAILED,))
    page.click("#empty [data-camera]")
    page.click("#live")
    page.wait_for_selector(".pill.wait")
    page.wait_for_selector("#latency:not([hidden])")
    assert not page.is_visible("#problem")
    page.click("#stop")
    assert page.evaluate("document.querySelector('#video').srcObject") is None
    page.wait_for_timeout(350)
    asked = len(stand_in.asked)
    page.wait_for_timeout(350)
    assert len(stand_in.asked) == asked


def test_a_camera_that_is_asked_for_twice_is_opened_once(stand_in: StandIn, open_page: OpenPage) -> None:
    page = open_page(stand_in.url)
    page.evaluate("""
        const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        window.opened = 0;
        navigator.mediaDevices.getUserMedia = (...wanted) => { window.opened += 1; return open(...wanted); };
        const button = document.querySelector("#empty [data-camera]");
        button.click();
        button.click();
    """)
    page.wait_for_selector("#shot:visible")
    page.click("#stop")
    assert page.evaluate("window.opened") == 1


def test_live_view_that_is_switched_twice_sends_one_picture_at_a_time(
    stand_in: StandIn, open_page: OpenPage
) -> None:
    page = open_page(stand_in.url, (FAILED,))
    page.click("#empty [data-camera]")
    page.wait_for_selector("#live:visible")
    page.evaluate("for (let click = 0; click < 3; click += 1) document.querySelector('#live').click()")
    page.wait_for_selector("#latency:not([hidden])")
    page.wait_for_timeout(600)  # requests that were given up have ended
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.wait_for_timeout(1200)
    assert failed == []
    page.click("#stop")


def test_all_can_be_reached_with_the_keyboard(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url)
    segment(page, file())
    reached = set()
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"file", "opacity", "area", "save-mask", "save-overlay"} <= reached


def test_every_control_has_a_name(
    stand_in: StandIn, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    page = open_page(stand_in.url)
    segment(page, file())
    unnamed = page.evaluate(
        """[...document.querySelectorAll("input, select, button, canvas, a")]
            .filter((one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim()))
            .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
