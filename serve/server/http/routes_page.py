"""Routes of the web page and of the API's documentation.

Their files are read once, so that request paths never reach the file system.
"""

from __future__ import annotations

import mimetypes
from hashlib import sha256
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import FastAPI
    from starlette.requests import Request

FOLDER = Path(__file__).parent / "page"

INDEX = "index.html"

SWAGGER = "swagger"
"""Path of Swagger UI's files."""

POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy: nothing from other hosts, nothing inline."""


class PageFile(NamedTuple):
    """File of the page."""

    content: bytes
    media_type: str
    etag: str


def page_files(folder: Path = FOLDER) -> dict[str, PageFile]:
    """Return the files of the page by server path, with `index.html` at `/`; none without a page."""
    if not folder.is_dir():
        return {}
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {f"/{path.relative_to(folder).as_posix()}".removesuffix(INDEX): _read(path) for path in files}


def add_page_routes(app: FastAPI, files: dict[str, PageFile]) -> None:
    """Add one route for each file."""
    for path, file in files.items():
        app.add_route(path, _route(file), methods=["GET"], include_in_schema=False)


def add_docs_routes(app: FastAPI) -> None:
    """Add `/docs`: Swagger UI without FastAPI's CDN, with relative links that hold behind any prefix."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=f"{app.title} - Swagger UI",
        swagger_js_url=f"{SWAGGER}/swagger-ui-bundle.js",
        swagger_css_url=f"{SWAGGER}/swagger-ui.css",
        swagger_favicon_url=f"{SWAGGER}/favicon-32x32.png",
        swagger_ui_parameters={"tryItOutEnabled": True, "persistAuthorization": True, "filter": True},
    )
    folder = resources("fastapi_swagger.resources")
    names = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")
    contents = {f"/{SWAGGER}/{name}": folder.joinpath(name).read_bytes() for name in names}
    for path, content in {"/docs": bytes(page.body), **contents}.items():
        media_type = mimetypes.guess_type(path)[0] or "text/html"
        app.add_route(path, _sender(content, media_type), methods=["GET"], include_in_schema=False)


def _sender(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def send(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return send


def _route(file: PageFile) -> Callable[[Request], Awaitable[Response]]:
    headers = {
        "Content-Security-Policy": POLICY,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
        "ETag": file.etag,
    }

    async def send_file(request: Request) -> Response:
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.media_type)

    return send_file


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return PageFile(content, media_type, f'"{sha256(content).hexdigest()[:16]}"')
