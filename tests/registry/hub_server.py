"""A Hub on loopback: the endpoints that huggingface_hub uses to pull and push, with faults to order."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from hub_state import LFS_SUFFIXES, Hub, Repository, git_oid

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1 << 16


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if self.hub.status is not None:
            return self.send(self.hub.status, b"{}")
        token = self.headers.get("Authorization")
        if path.startswith("/lfs/"):
            self.hub.leaked |= token is not None  # these are on another host, by signed addresses
        elif self.hub.token and token != f"Bearer {self.hub.token}":
            return self.refuse(401, "RepoNotFound", "Repository not found")
        for pattern, handle in ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                return handle(self, *match.groups(), body)
        return self.send(404, b"{}")

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            if name.lower() not in self.hub.stripped:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str) -> None:
        self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def find(self, name: str, revision: str | None = None) -> tuple[Repository, str] | None:
        """Return a repository and a commit of it, or None after the answer that there is none."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        commit = repository.resolve(revision or "main")
        if commit is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.hub.repositories:
            return self.send(409, json.dumps({"url": f"{self.hub.url}/{name}"}).encode())
        self.hub.repositories[name] = Repository(private=wanted.get("visibility") == "private")
        self.hub.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.send_json({"url": f"{self.hub.url}/{name}"})

    def info(self, name: str, revision: str | None, _: bytes) -> None:
        if found := self.find(name, revision):
            repository, commit = found
            siblings = [{"rfilename": file} for file in repository.commits[commit]]
            facts = {"id": name, "sha": commit, "private": repository.private, "siblings": siblings}
            self.send_json({"_id": "0", "modelId": name, "tags": [], "downloads": 0, **facts})

    def tree(self, name: str, revision: str, _: bytes) -> None:
        if found := self.find(name, revision):
            files = found[0].commits[found[1]]
            self.send_json([self.tree_entry(file, data) for file, data in files.items()])

    def tree_entry(self, file: str, data: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": file, "size": len(data), "oid": git_oid(data)}
        if file.endswith(LFS_SUFFIXES):
            oid = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 130}
        return entry

    def refs(self, name: str, _: bytes) -> None:
        if found := self.find(name):
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid}
                for tag, oid in found[0].tags.items()
            ]
            self.send_json({"branches": [], "converts": [], "tags": tags})

    def preupload(self, name: str, body: bytes) -> None:
        if not (found := self.find(name)):
            return
        files = found[0].commits[found[1]]
        modes = []
        for file in (each["path"] for each in json.loads(body)["files"]):
            is_large = file.endswith(LFS_SUFFIXES)
            mode = {"path": file, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
            if file in files:
                mode["oid"] = hashlib.sha256(files[file]).hexdigest() if is_large else git_oid(files[file])
            modes.append(mode)
        self.send_json({"files": modes})

    def batch(self, _name: str, body: bytes) -> None:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}
            if each["oid"] not in self.hub.blobs
            else each
            for each in json.loads(body)["objects"]
        ]
        self.send_json({"transfer": "basic", "objects": objects})

    def put_blob(self, oid: str, body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self.send(200, b"")

    def commit(self, name: str, body: bytes) -> None:
        self.hub.before_commit()
        if not (found := self.find(name)):
            return None
        repository, head = found
        files = dict(repository.commits[head])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", head) != head:
                return self.refuse(412, "", "A commit has happened since")
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            if line["key"] == "deletedFile":
                del files[value["path"]]
        answer = {}
        branch = "main"
        if "create_pr=1" in self.path:
            repository.proposals += 1
            branch = f"refs/pr/{repository.proposals}"
            answer["pullRequestUrl"] = f"{self.hub.url}/{name}/discussions/{repository.proposals}"
        oid = repository.commit(files, branch)
        return self.send_json(
            {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid, **answer}
        )

    def tag(self, name: str, revision: str, body: bytes) -> None:
        if found := self.find(name, revision):
            found[0].tags[json.loads(body)["tag"]] = found[1]
            self.send(200, b"")

    def resolve(self, name: str, revision: str, file: str, _: bytes) -> None:
        if not (found := self.find(name, revision)):
            return None
        repository, commit = found
        if repository.gated:
            return self.refuse(403, "GatedRepo", "Access to model is restricted")
        data = repository.commits[commit].get(file)
        headers = {"X-Repo-Commit": commit}
        if data is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        if not file.endswith(LFS_SUFFIXES):
            return self.send(200, data, {**headers, "ETag": f'"{git_oid(data)}"'})
        oid = hashlib.sha256(data).hexdigest()
        self.hub.blobs.setdefault(oid, data)
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        return self.send(302, b"", {**headers, **linked, "Location": f"{self.hub.files_url}/lfs/{oid}"})

    def get_blob(self, oid: str, _: bytes) -> None:
        data = self.hub.blobs[oid]
        start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        size = len(data) - start
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(size))
        self.send_header("ETag", f'"{oid}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.hub.cut_after
        end = start + cuts.pop(0) if cuts and start + cuts[0] < len(data) else len(data)
        pause = CHUNK / self.hub.bytes_per_second if self.hub.bytes_per_second else 0
        for position in range(start, min(end, len(data)), CHUNK):
            self.wfile.write(memoryview(data)[position : min(position + CHUNK, end)])
            time.sleep(pause)
        if end < len(data):
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


MODEL = r"([\w.-]+/[\w.-]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", lambda handler, _: handler.send_json({"errors": [], "warnings": []})),
    (rf"GET /api/models/{MODEL}(?:/revision/(.+))?", Handler.info),
    (rf"GET /api/models/{MODEL}/tree/([^/]+)/?", Handler.tree),
    (rf"GET /api/models/{MODEL}/refs", Handler.refs),
    (rf"POST /api/models/{MODEL}/preupload/.+", Handler.preupload),
    (rf"POST /api/models/{MODEL}/commit/.+", Handler.commit),
    (rf"POST /api/models/{MODEL}/tag/(.+)", Handler.tag),
    (rf"POST /{MODEL}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /lfs/(\w+)", Handler.put_blob),
    (r"(?:GET|HEAD) /lfs/(\w+)", Handler.get_blob),
    (rf"(?:GET|HEAD) /{MODEL}/resolve/([^/]+)/(.+)", Handler.resolve),
]


def serve() -> tuple[Hub, ThreadingHTTPServer]:
    """Start a Hub on a free port of this machine."""
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return hub, server
