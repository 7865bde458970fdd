"""Outermost middleware: HEAD requests, and the path prefix of a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Entry:
    """ASGI middleware that answers HEAD as GET without a body, and accepts paths below a prefix.

    Args:
        app: ASGI app to enter.
        root_path: prefix that a proxy leaves on paths; paths without it are accepted too.
    """

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        prefix = scope.get("root_path", "") + self.root_path
        if self.root_path and scope["path"] == prefix:  # relative links of the page need the slash
            await RedirectResponse(f"{prefix}/", 307)(scope, receive, send)
            return
        if self.root_path and scope["path"].startswith(f"{prefix}/"):
            scope = {**scope, "root_path": prefix}
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        await self.app(scope, receive, send)


def _without_body(send: Send) -> Send:
    async def sent(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sent
