"""The page on the server itself: what it asks for is what the server answers."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
import uvicorn
from pydantic import SecretStr

from zoo.serve.server.core.loading import ModelSource, load_model
from zoo.serve.server.core.settings import ServerSettings
from zoo.serve.server.http.app import create_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import FilePayload, Page

    MakeFile = Callable[..., FilePayload]
    OpenPage = Callable[..., Page]
    Segment = Callable[[Page, FilePayload], None]
    WriteOnnx = Callable[..., Path]


@pytest.fixture
def address(write_onnx: WriteOnnx, tmp_path: Path) -> Iterator[str]:
    """Return the address of a server with a key, whose model calls a pixel bright or dark."""
    settings = ServerSettings(api_key=SecretStr("open sesame"), max_body_mb=0.1)
    source = ModelSource("threshold", write_onnx(tmp_path / "threshold.onnx"), "ort")
    app = create_app([load_model(source, settings)], settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def test_the_page_works_on_the_server_with_a_key(
    address: str, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    page = open_page(address, ("Failed to load resource",))
    page.wait_for_selector("#key:not([hidden])")
    page.fill("#secret", "open sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector(".pill.good")
    segment(page, file())  # gray 120: 360 is under the threshold of 384
    assert page.locator(".area .label").all_inner_texts() == ["dark"]
    assert page.locator(".area .pixels").all_inner_texts() == ["4,800 px"]
    names = page.locator("#times dt").all_inner_texts()
    assert names == ["network and browser", "decode", "queue", "compute", "encode"]
    assert page.is_hidden("#card")
    page.set_input_files("#file", file("large.bmp", size=(200, 300)))
    page.wait_for_selector("#shrink:not([hidden])")
    assert "send a smaller one" in page.inner_text("#problem")
    with page.expect_download() as waiting:
        segment(page, file())
        page.click("#save-mask")
    assert waiting.value.suggested_filename == "gray-mask.png"
