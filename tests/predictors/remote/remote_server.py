"""A small server that speaks what `RemotePredictor` needs, and fails as it is told to."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo.predictors.base import Predictor

LENGTH = "Inference-Header-Content-Length"
DATATYPES = {"uint8": "UINT8", "int32": "INT32"}


class Reply(NamedTuple):
    """An answer that stands in for the right one."""

    status: int
    detail: str = ""
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes | None = None
    """None: a problem of RFC 9457."""


class StubServer(ThreadingHTTPServer):
    """One predictor under some names.

    Args:
        predictor: whose masks it gives.
        names: of its models.
    """

    daemon_threads = True

    def __init__(self, predictor: Predictor, names: tuple[str, ...] = ("first", "second")) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.predictor = predictor
        self.names = names
        self.key: str | None = None
        self.max_batch = 3
        self.replies: list[Reply] = []
        """Given in turn, before the right answer."""
        self.requests: list[str] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def describe(self, name: str) -> dict[str, Any]:
        pre, classes = self.predictor.preprocessing, self.predictor.classes
        return {
            "name": name,
            "version": "1",
            "backend": "ort",
            "description": "ONNX Runtime",
            "reason": "the only one",
            "imgsz": pre.imgsz,
            "resize": pre.resize,
            "mean": pre.mean,
            "std": pre.std,
            "classes": [
                {"label": label, "name": classes.names[label], "color": "#{:02x}{:02x}{:02x}".format(*color)}
                for label, color in enumerate(classes.palette)
            ],
            "output": "uint8" if len(classes) <= 255 else "int32",
            "max_batch": self.max_batch,
            "ready": True,
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubServer

    def do_GET(self) -> None:
        self.serve(b"")

    def do_POST(self) -> None:
        self.serve(self.rfile.read(int(self.headers["Content-Length"])))

    def serve(self, body: bytes) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        key = self.server.key
        with self.server.lock:
            reply = self.server.replies.pop(0) if self.server.replies else None
        if reply is not None and reply.status == 0:
            self.connection.close()
            self.close_connection = True
        elif reply is not None:
            self.refuse(reply)
        elif key is not None and self.headers["Authorization"] != f"Bearer {key}":
            self.refuse(Reply(401, "a key is needed", {"WWW-Authenticate": "Bearer"}))
        else:
            self.answer(body)

    def answer(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        names = self.server.names
        if path == "/models":
            self.send(200, json.dumps([self.server.describe(name) for name in names]).encode())
        elif path == "/predict" and "format=npy" in query and f"model={names[0]}" in query:
            mask = self.server.predictor.predict(np.asarray(Image.open(io.BytesIO(body)).convert("RGB")))
            file = io.BytesIO()
            np.save(file, mask)
            self.send(200, file.getvalue())
        elif path in {f"/v2/models/{name}/versions/1/infer" for name in names}:
            self.infer(body)
        else:
            self.refuse(Reply(404, f"there is nothing at {path}"))

    def infer(self, body: bytes) -> None:
        end = int(self.headers[LENGTH])
        request = json.loads(body[:end])
        [tensor] = request["inputs"]
        assert (tensor["name"], tensor["datatype"]) == ("image", "UINT8")
        assert tensor["parameters"]["binary_data_size"] == len(body) - end
        images = np.frombuffer(body[end:], np.uint8).reshape(tensor["shape"])
        assert len(images) <= self.server.max_batch
        masks = self.server.predictor.run(images)
        output = {"name": "mask", "datatype": DATATYPES[masks.dtype.name], "shape": masks.shape}
        output["parameters"] = {"binary_data_size": masks.nbytes}
        text = json.dumps({"model_name": "first", "model_version": "1", "outputs": [output]}).encode()
        self.send(200, text + masks.tobytes(), {LENGTH: str(len(text))})

    def refuse(self, reply: Reply) -> None:
        problem = {"type": "about:blank", "title": "Refused", "status": reply.status, "detail": reply.detail}
        if reply.body is not None:
            self.send(reply.status, reply.body, reply.headers)
            return
        headers = {"Content-Type": "application/problem+json", **reply.headers}
        self.send(reply.status, json.dumps(problem).encode(), headers)

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Be quiet."""
