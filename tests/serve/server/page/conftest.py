"""Chromium without a window, and a small server that speaks the HTTP contract with a mask that tests know."""

from __future__ import annotations

import io
import json
import mimetypes
import shutil
import threading
import time
from base64 import b64encode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image, ImageOps

import zoo.serve
from zoo.classes import Classes
from zoo.pages.overlay import areas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from playwright.sync_api import Browser, FilePayload, Page, Request

    OpenPage = Callable[..., Page]

PAGE = Path(zoo.serve.__file__).parent / "server" / "http" / "page"
CLASSES = Classes.of(("background", "disc", "ring"))
CARD = """---
license: mit
---

# eln on shapes

A **small** network, see [its paper](https://example.org/paper) or [this](javascript:alert(1)).
<img src=x onerror="document.title='owned'"> stays text.

| class | IoU |
|---|---:|
| disc | 0.812 |

    zoo predict FOLDER image.jpg
"""
TIMING = "decode;dur=2.5, queue;dur=0.4, compute;dur=11.0, encode;dur=1.1"
TAKEN = 0.015
"""Seconds: the parts of `TIMING` together."""


def quadrants(height: int, width: int) -> NDArray[np.uint8]:
    """Return a mask: background above, below a disc (the left quarter) and a ring (the rest)."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 2 :] = 2
    mask[height // 2 :, : width // 4] = 1
    return mask


def sureness(height: int, width: int) -> NDArray[np.uint8]:
    """Return a reliability of 20 % of the disc of `quadrants`, and of 80 % elsewhere."""
    return np.where(quadrants(height, width) == 1, 51, 204).astype(np.uint8)


@dataclass
class StandIn:
    """What the stand-in for a server does, and what it was asked."""

    models: tuple[str, ...] = ("eln",)
    outputs: tuple[str, ...] = ("mask", "reliability")
    key: str | None = None
    max_body: int = 10**9
    full: int = 0
    """How many requests are refused with 503 before one is answered."""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """Method and path of each request."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Height and width of each image."""

    @property
    def posts(self) -> list[str]:
        """Return the requests with an image; the icon is asked for at any time."""
        return [line for line in self.asked if line.startswith("POST")]


class Handler(BaseHTTPRequestHandler):
    """Answers as the contract of serving says."""

    protocol_version = "HTTP/1.1"
    stand_in: StandIn

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.stand_in.asked.append(f"GET {self.path}")
        path = PAGE / (self.path.strip("/") or "index.html")
        if path.is_file():
            self.answer(200, mimetypes.guess_type(path.name)[0] or "", path.read_bytes())
        elif self.allowed():
            self.answer_about_models()

    def do_POST(self) -> None:
        self.stand_in.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.allowed():
            return
        if len(body) > self.stand_in.max_body:
            self.refuse(413, "Content Too Large", f"got {len(body)} bytes: send a smaller image")
        elif self.stand_in.full > 0:
            self.stand_in.full -= 1
            self.refuse(503, "Service Unavailable", "64 images wait already: try again", {"Retry-After": "1"})
        else:
            self.answer_image(body, parse_qs(urlsplit(self.path).query))

    def allowed(self) -> bool:
        """Return whether the key is right; if not, the request is answered."""
        key = self.stand_in.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self.refuse(401, "Unauthorized", "got no key", {"WWW-Authenticate": "Bearer"})
        return False

    def answer_about_models(self) -> None:
        if self.path == "/models":
            described = [
                {**describe(name), "outputs": self.stand_in.outputs} for name in self.stand_in.models
            ]
            self.answer(200, "application/json", json.dumps(described).encode())
        elif self.path == "/models/eln/card":
            self.answer(200, "text/markdown", CARD.encode())
        else:
            self.refuse(404, "Not Found", f"nothing at {self.path}")

    def answer_image(self, body: bytes, query: dict[str, list[str]]) -> None:
        try:
            with Image.open(io.BytesIO(body)) as image:
                width, height = ImageOps.exif_transpose(image).size
        except OSError:
            self.refuse(
                400, "Bad Request", "got bytes that are no image, expected JPEG or PNG: send an image"
            )
            return
        self.stand_in.sizes.append((height, width))
        time.sleep(TAKEN)
        mask = quadrants(height, width)
        headers = {"Server-Timing": TIMING, "X-Zoo-Model": query.get("model", ["eln"])[0]}
        if query["format"] == ["json"]:
            outputs = {}
            if query.get("output") == ["mask+reliability"]:
                outputs["reliability"] = b64encode(sureness(height, width)).decode()
            found = found_in(mask, query.get("model", ["eln"])[0]) | {"outputs": outputs}
            self.answer(200, "application/json", json.dumps(found).encode(), headers)
        else:
            self.answer(200, "image/png", indexed(mask), headers)

    def refuse(self, status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> None:
        problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        self.answer(status, "application/problem+json", json.dumps(problem).encode(), headers)

    def answer(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


def describe(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "version": "1",
        "backend": "ort",
        "description": "ONNX Runtime CPUExecutionProvider",
        "reason": "no GPU is present",
        "imgsz": [96, 96],
        "classes": [
            {"label": label, "name": CLASSES.names[label], "color": color(label)} for label in range(3)
        ],
        "max_batch": 8,
        "ready": True,
    }


def found_in(mask: NDArray[np.uint8], model: str) -> dict[str, Any]:
    runs = [(int(label), len(list(run))) for label, run in groupby(mask.ravel())]
    return {
        "model": model,
        "version": "1",
        "size": mask.shape,
        "areas": [
            {
                "label": label,
                "name": CLASSES.names[label],
                "color": color(label),
                "pixels": int((mask == label).sum()),
                "share": share,
            }
            for label, share in sorted(areas(mask).items())
        ],
        "rle": {"labels": [label for label, _ in runs], "lengths": [length for _, length in runs]},
    }


def color(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*CLASSES.palette[label])


def indexed(mask: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(mask, "L").convert("P")
    image.putpalette(np.array(CLASSES.palette, np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def gray_file(name: str = "gray.png", size: tuple[int, int] = (60, 80), **save: Any) -> FilePayload:
    """Return a gray image of this height and width, as the file input takes it."""
    buffer = io.BytesIO()
    format_ = name.rpartition(".")[2].upper().replace("TIF", "TIFF")
    Image.new("RGB", size[::-1], (120, 120, 120)).save(buffer, format_, **save)
    return {"name": name, "mimeType": "", "buffer": buffer.getvalue()}


def segment_image(page: Page, image: FilePayload) -> None:
    with page.expect_response("**/predict?*"):  # the result of an image before it is hidden by now
        page.set_input_files("#file", image)
    page.wait_for_selector("#latency:not([hidden])")


def read_legend(page: Page) -> list[tuple[str, ...]]:
    rows = page.locator(".area").all()
    return [
        tuple(row.locator(f".{part}").inner_text() for part in ("label", "percent", "pixels")) for row in rows
    ]


@pytest.fixture(scope="session")
def file() -> Callable[..., FilePayload]:
    """Return `gray_file`."""
    return gray_file


@pytest.fixture(scope="session")
def segment() -> Callable[[Page, FilePayload], None]:
    """Return `segment_image`."""
    return segment_image


@pytest.fixture(scope="session")
def legend() -> Callable[[Page], list[tuple[str, ...]]]:
    """Return `read_legend`."""
    return read_legend


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    state = StandIn()
    handler = type("Bound", (Handler,), {"stand_in": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}/"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield state
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return Chromium; while it runs, Playwright holds this thread's event loop, which other tests need."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=camera)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Return a function that opens a page and checks at the end that nothing went wrong in it unseen.

    It takes the address, what a test expects on the console, and options of Playwright's contexts.
    """
    opened: list[tuple[Page, set[str]]] = []

    def show(url: str, expected: tuple[str, ...] = (), **options: Any) -> Page:
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(30_000)  # for a busy machine
        opened.append((page, unexpected := set()))

        def note(text: str) -> None:
            if not any(part in text for part in expected):
                unexpected.add(text)

        def check_host(request: Request) -> None:
            if urlsplit(request.url).hostname not in (None, "127.0.0.1"):  # None: a download from memory
                unexpected.add(request.url)

        page.on("console", lambda message: note(message.text))
        page.on("pageerror", lambda error: note(str(error)))
        page.on("request", check_host)
        page.goto(url)
        return page

    yield show
    for page, unexpected in opened:
        page.context.close()
        assert unexpected == set()
