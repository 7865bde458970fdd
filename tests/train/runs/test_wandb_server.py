"""Runs logged to W&B online, with a server on loopback that answers as far as a run asks."""

from __future__ import annotations

import gzip
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from zoo.train.runs.wandb import logged_to_wandb, read_wandb_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

PROJECT = {"id": "p", "name": "trials", "entity": {"id": "e", "name": "me"}}


class WandbServer(ThreadingHTTPServer):
    """Keeps one run.

    Attributes:
        rows: what was told, in its order.
        ids: of the runs that were begun or continued.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/file_stream"):
            lines = body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.rows += map(json.loads, lines)
            return {}
        variables = body.get("variables", {})
        match body.get("operationName"):
            case "RunResumeStatus":
                return {"data": {"model": PROJECT | {"bucket": self._bucket() if self.ids else None}}}
            case "UpsertBucket":
                self.ids += [variables["name"]] if variables.get("name") else []
                run = {"id": "r", "name": variables.get("name"), "config": "{}", "project": PROJECT}
                return {"data": {"upsertBucket": {"bucket": run | {"historyLineCount": 0}, "inserted": True}}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/put"} for name in variables["files"]]
                return {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}}
        return {"data": None}

    def _bucket(self) -> dict[str, Any]:
        """Return the run as it is before it is continued."""
        last = json.dumps([json.dumps(self.rows[-1])])
        counts = {"logLineCount": 0, "historyLineCount": len(self.rows), "eventsLineCount": 0}
        run = {"id": "r", "name": self.ids[0], "config": "{}", "summaryMetrics": "{}"}
        return run | counts | {"historyTail": last, "eventsTail": "[]", "wandbConfig": '{"t": 1}'}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        is_json = body.startswith(b"{") and self.headers.get("Content-Type", "").startswith(
            "application/json"
        )
        answer = json.dumps(self.server.answer(self.path, json.loads(body) if is_json else {})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_PUT(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def write_run(folder: Path) -> None:
    """Write what is read of a run."""
    (folder / "recipe.json").write_text('{"recipe": {"seed": 7}}')
    (folder / "metrics.json").write_text('{"val": {"miou": 0.5}, "curve": [[3, 0.5]]}')


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return our own remarks; pytest also catches what W&B writes into its own log files."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("zoo")]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """Return a server that W&B reaches."""
    for name, value in {"MODE": "online", "API_KEY": "k" * 40, "INIT_TIMEOUT": "30"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_server_is_told_each_step_once_whatever_this_side_remembers(
    server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "zoo")
    write_run(tmp_path)
    with logged_to_wandb(tmp_path, "trials") as write:
        assert write is not None
        write(3, {"loss/s": 0.5})
        write(4, {"loss/s": 0.25})
    (tmp_path / "log.csv").write_text("step,loss/s\n3,0.5\n4,0.25\n5,0.125\n")  # the last is not known there
    with logged_to_wandb(tmp_path, None) as write:
        assert write is not None
        write(4, {"loss/s": 0.75})
        write(6, {"loss/s": 0.0625})
    rows = [(row["_step"], row["loss/s"]) for row in server.rows]
    assert rows == [(3, 0.5), (4, 0.25), (5, 0.125), (6, 0.0625)]
    kept = read_wandb_run(tmp_path)
    assert kept is not None
    assert set(server.ids) == {kept.id}
    assert ours(caplog) == [f"W&B: {server.url}/me/trials/runs/{kept.id}"] * 2


def test_a_server_that_goes_away_neither_stops_nor_holds_a_run(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    write_run(tmp_path)
    with logged_to_wandb(tmp_path, "trials") as write:
        assert write is not None
        server.shutdown()
        server.server_close()
        for step in range(1, 500):
            write(step, {"loss/s": 1 / step})
    (kept,) = (tmp_path / "wandb").glob("run-*")
    (warning,) = ours(caplog)
    why, known, remedy = warning.split("; ")
    assert why == "W&B logs no more of this run (TimeoutError: Timed out finishing run.)"
    assert known == "log.csv has every figure"
    assert remedy == f"upload what W&B has with: wandb sync {kept}"
