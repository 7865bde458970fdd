"""The page on the server itself: what it asks for is what the server answers."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
import uvicorn
from pydantic import SecretStr

from tests.bundles import calibrate_by
from zoo.bundle.reliability import Calibration
from zoo.predictors.load import load_predictor
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


@contextmanager
def serving(source: ModelSource, settings: ServerSettings) -> Iterator[str]:
    """Serve a model, and return the address."""
    app = create_app([load_model(source, settings)], settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def address(write_onnx: WriteOnnx, tmp_path: Path) -> Iterator[str]:
    """Return the address of a server with a key, whose model calls a pixel bright or dark."""
    settings = ServerSettings(api_key=SecretStr("open sesame"), max_body_mb=0.1)
    source = ModelSource("threshold", write_onnx(tmp_path / "threshold.onnx"), "ort")
    with serving(source, settings) as url:
        yield url


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
    assert page.is_disabled("#below")  # the file gives masks alone
    page.set_input_files("#file", file("large.bmp", size=(200, 300)))
    page.wait_for_selector("#shrink:not([hidden])")
    assert "send a smaller one" in page.inner_text("#problem")
    with page.expect_download() as waiting:
        segment(page, file())
        page.click("#save-mask")
    assert waiting.value.suggested_filename == "gray-mask.png"


def test_the_page_grays_out_what_a_calibrated_model_is_unsure_of(
    bundle_copy: Path, open_page: OpenPage, file: MakeFile, segment: Segment
) -> None:
    calibration = Calibration(score="temperature", temperature=0.1)
    calibrate_by(bundle_copy, calibration)
    image = file()
    pixels = np.full((60, 80, 3), 120, np.uint8)
    values = load_predictor(bundle_copy).predict_outputs(pixels, ("reliability",)).outputs["reliability"]
    below = round(float(np.median(values)) / 2.55)
    with serving(ModelSource("tiny", bundle_copy, "eager"), ServerSettings()) as url:
        page = open_page(url)
        segment(page, image)
        page.locator("#below").fill(str(below))
        page.locator("#below-note", has_text=f"below {below}%").wait_for()
        note = page.inner_text("#below-note")
    share = 100 * float((values < 2.55 * below).mean())
    assert 0 < share < 100
    assert note.startswith(f"{share:.1f}% of the pixels are gray")
