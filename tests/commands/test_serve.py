from __future__ import annotations

import http.client
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from tritonclient import grpc as triton

from zoo.api.serve import name_models
from zoo.errors import ZooError
from zoo.serve.server.core.settings import is_loopback
from zoo.serve.server.processes.port import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typer.testing import Result

    Zoo = Callable[..., Result]
    Start = Callable[..., "Command"]
    WriteOnnx = Callable[..., Path]

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


class Command:
    """`zoo serve` in a process of its own."""

    def __init__(self, *arguments: object, **variables: str) -> None:
        words = [sys.executable, "-m", "zoo", "serve", *map(str, arguments)]
        environment = {**os.environ, **variables}
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def lines_until(self, pattern: str) -> list[str]:
        """Return the lines of standard output up to one that fits."""
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            lines.append(line.rstrip("\n"))
            if re.search(pattern, line):
                return lines
        raise AssertionError((lines, self.errors))

    def port(self) -> int:
        return int(self.lines_until("^ready at")[-1].rpartition(":")[2])

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not any(re.search(pattern, line) for line in self.errors):
            assert time.monotonic() < until, self.errors
            time.sleep(0.02)

    def end(self) -> tuple[int, str]:
        """End it and return its exit code and what it said on standard error."""
        self.process.terminate()
        return self.exit()

    def exit(self) -> tuple[int, str]:
        code = self.process.wait(60)
        self._reader.join()
        return code, "".join(self.errors)


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts `zoo serve`; it is gone after the test."""
    commands: list[Command] = []

    def run(*arguments: object, **variables: str) -> Command:
        commands.append(Command(*arguments, **variables))
        return commands[-1]

    yield run
    for command in commands:
        command.process.terminate()
        try:
            command.process.wait(10)
        except subprocess.TimeoutExpired:
            command.process.kill()


def bright() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (250, 250, 250)).save(stream, "PNG")
    return stream.getvalue()


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def ask_at(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    return ask(http.client.HTTPConnection("127.0.0.1", port, timeout=10), method, path, body, **headers)


@pytest.mark.slow
def test_a_model_is_served_until_a_signal_comes(start: Start, write_onnx: WriteOnnx, tmp_path: Path) -> None:
    command = start(write_onnx(tmp_path / "eyes.onnx"), "--port", 0, "--backend", "ort", "--device", "cpu")
    said = command.lines_until("^ready at")
    assert re.fullmatch(
        r"eyes: ONNX Runtime \S+ CPU\w+ \(ONNX Runtime CPU; as requested\), .*eyes.onnx", said[0]
    )
    port = int(said[-1].rpartition(":")[2])
    status, png = ask_at(port, "POST", "/predict", bright())
    assert status == 200
    assert np.unique(np.asarray(Image.open(io.BytesIO(png)))).tolist() == [1]
    assert command.end() == (0, "")


@pytest.mark.slow
def test_two_models_with_a_key_from_the_environment_and_json(
    start: Start, write_onnx: WriteOnnx, tmp_path: Path
) -> None:
    one, two = write_onnx(tmp_path / "one.onnx"), write_onnx(tmp_path / "two.onnx")
    page = {"Origin": "https://maps.example.com"}
    options = (
        "--root-path",
        "/seg/",
        "--cors",
        "http://localhost:3000",
        "--cors",
        "https://Maps.example.com/",
    )
    command = start(one, f"other={two}", "--port", 0, "--json", *options, ZOO_API_KEY="secret")
    said = json.loads("".join(command.lines_until("^}")))
    assert [model["name"] for model in said["models"]] == ["one", "other"]
    assert len(said["workers"]) == 1
    port = int(said["url"].rpartition(":")[2])
    assert ask_at(port, "POST", "/predict?model=other", bright())[0] == 401
    key = {"Authorization": "Bearer secret"}
    assert ask_at(port, "POST", "/predict?model=other", bright(), **key)[0] == 200
    assert ask_at(port, "POST", "/seg/predict?model=other", bright(), **key)[0] == 200
    asked = {**page, "Access-Control-Request-Method": "POST"}
    assert ask_at(port, "OPTIONS", "/seg/predict", **asked) == (200, b"OK")
    assert "secret" not in Path(f"/proc/{command.process.pid}/cmdline").read_text()
    assert command.end() == (0, "")


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_command_with_one_line(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no model")
    code, error = start(path, "--port", 0, "--workers", 2).exit()
    assert code == 1
    *noise, last = error.splitlines()  # OpenVINO writes to standard error by itself
    assert last.startswith(f"error: {path} cannot be served, no backend can run it: ONNX Runtime CUDA")
    assert not any("Traceback" in line or "error:" in line for line in noise)


@on_linux
@pytest.mark.slow
def test_a_file_that_is_broken_while_it_is_served_is_reported_and_tried_again(
    start: Start, write_onnx: WriteOnnx, tmp_path: Path
) -> None:
    path = write_onnx(tmp_path / "m.onnx")
    whole = path.read_bytes()
    command = start(path, "--port", 0, "--workers", 2, "--json", "--threads", 1)
    said = json.loads("".join(command.lines_until("^}")))
    port, victim = int(said["url"].rpartition(":")[2]), said["workers"][0]
    path.write_bytes(whole[:100])
    assert ask_at(port, "POST", "/predict", bright())[0] == 200  # both have it in memory
    os.kill(victim, signal.SIGKILL)
    command.wait_for("worker 0 was killed by SIGKILL: starting another now")
    command.wait_for("worker 0 cannot start: .*m.onnx cannot be served")
    for _ in range(5):
        assert ask_at(port, "POST", "/predict", bright())[0] == 200  # the other goes on
    path.write_bytes(whole)
    command.wait_for("worker 0 is back")
    code, error = command.end()
    assert code == 0
    assert "Traceback" not in error


@pytest.mark.slow
def test_tls(start: Start, write_onnx: WriteOnnx, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *words, *subject, *files], check=True, capture_output=True)
    model = write_onnx(tmp_path / "m.onnx")
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    command = start(model, "--port", 0, "--grpc-port", 0, "--ssl-certfile", both)
    *_, grpc_line, line = command.lines_until("^ready at")
    assert line.startswith("ready at https://127.0.0.1:")
    context = ssl.create_default_context(cafile=str(certificate))
    port = int(line.rpartition(":")[2])
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    assert ask(connection, "POST", "/predict", bright())[0] == 200
    credentials = {"ssl": True, "root_certificates": str(certificate)}
    with triton.InferenceServerClient(grpc_line.removeprefix("gRPC at "), **credentials) as client:
        assert client.is_model_ready("m")
    assert command.end()[0] == 0
    command = start(model, "--port", 0, "--ssl-certfile", certificate, "--ssl-keyfile", key)
    command.lines_until("^ready at https")
    code, error = start(model, "--port", 0, "--ssl-certfile", model).exit()
    assert code == 1
    assert error.startswith("error: the certificate cannot be used")
    assert error.count("\n") == 1


def test_a_port_in_use_is_one_line(zoo: Zoo, write_onnx: WriteOnnx, tmp_path: Path) -> None:
    port = Port("127.0.0.1", 0)
    result = zoo("serve", write_onnx(tmp_path / "m.onnx"), "--port", port.number)
    assert isinstance(result.exception, ZooError)
    assert re.match(rf"cannot listen on 127.0.0.1:{port.number} \(.*in use\)", str(result.exception))


def test_a_port_of_grpc_in_use_is_one_line(zoo: Zoo, write_onnx: WriteOnnx, tmp_path: Path) -> None:
    port = Port("127.0.0.1", 0)
    result = zoo("serve", write_onnx(tmp_path / "m.onnx"), "--port", 0, "--grpc-port", port.number)
    assert isinstance(result.exception, ZooError)
    assert str(result.exception).startswith(f"cannot listen on 127.0.0.1:{port.number} ")
    assert "choose another with --grpc-port" in str(result.exception)


@pytest.mark.parametrize("options", [("--port", 0), ("--port", 8000, "--ray")])
def test_a_host_that_does_not_exist_is_one_line(
    zoo: Zoo, write_onnx: WriteOnnx, tmp_path: Path, options: tuple[str | int, ...]
) -> None:
    result = zoo("serve", write_onnx(tmp_path / "m.onnx"), "--host", "localhost:8000", *options)
    assert isinstance(result.exception, ZooError)
    assert "expected a name or address of this machine" in str(result.exception)


def test_any_origin_without_a_key_is_warned_of(zoo: Zoo, write_onnx: WriteOnnx, tmp_path: Path) -> None:
    port = Port("127.0.0.1", 0)
    options = (write_onnx(tmp_path / "m.onnx"), "--port", port.number, "--cors", "*")  # in use: it ends
    assert "warning: every web page opened in a browser" in zoo("serve", *options).output
    assert zoo("serve", *options, "--api-key", "x").output == ""


def test_listening_for_other_machines_without_a_key_is_warned_of(
    zoo: Zoo, write_onnx: WriteOnnx, tmp_path: Path
) -> None:
    port = Port("0.0.0.0", 0)
    model = write_onnx(tmp_path / "m.onnx")
    warned = zoo("serve", model, "--host", "0.0.0.0", "--port", port.number)  # in use: it ends
    assert "warning: anyone who can reach 0.0.0.0 can use this server" in warned.output
    assert warned.stderr.count("\n") == 1
    quiet = zoo("serve", model, "--host", "0.0.0.0", "--port", port.number, "--api-key", "x")
    assert quiet.output == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--api-key", " "], "empty key"),
        (["--api-key", "cl\u00e9"], "got a key with characters that no header can hold"),
        (["--ssl-keyfile", "m.onnx"], "expected --ssl-certfile"),
        (["--queue", "0"], "--queue"),
        (["--timeout", "inf"], "'--timeout': got 'inf': Input should be less than or equal to 86400"),
        (["--max-wait-ms", "1e12"], "'--max-wait-ms': got '1e12'"),
        (
            ["--max-body-mb", "3000"],
            "'--max-body-mb': got '3000': Input should be less than or",
        ),
        (["--precision", "fp64"], "--precision"),
        (["--cors", "maps.example.com"], "got origin 'maps.example.com', expected 'https://host'"),
        (["--grpc-port", "0", "--ray"], "got --grpc-port with --ray, which serves HTTP only"),
        (["--root-path", "seg"], "got path prefix 'seg', expected one like"),
    ],
)
def test_options_that_make_no_sense_are_errors_of_usage(
    zoo: Zoo, write_onnx: WriteOnnx, options: list[str], message: str
) -> None:
    write_onnx(Path("m.onnx"))
    result = zoo("serve", "m.onnx", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_model_that_does_not_exist_is_an_error(zoo: Zoo) -> None:
    result = zoo("serve", "runs/none")
    assert isinstance(result.exception, ZooError)
    assert "runs/none does not exist" in str(result.exception)


def test_what_is_missing_is_told_with_the_extra_that_has_it(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec: Any = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "fastapi" else find_spec(name)
    )
    result = zoo("serve", "m.onnx")
    assert str(result.exception) == (
        "zoo serve needs fastapi, which is not installed: pip install 'semiseg-zoo[serve]'"
    )


def test_models_are_named_after_their_file_or_folder(
    write_onnx: WriteOnnx, bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "eln 1"
    run.mkdir(parents=True)
    shutil.move(bundle_copy, run / "bundle")
    write_onnx(run / "bundle" / "model.onnx")
    write_onnx(Path("a=b.onnx"))
    texts = [str(run / "bundle"), "x.y-z=a=b.onnx", "a=b.onnx"]
    assert name_models(texts) == [
        ("eln-1", run / "bundle"),
        ("x.y-z", Path("a=b.onnx")),
        ("a-b", Path("a=b.onnx")),
    ]
    assert name_models([str(run / "bundle" / "model.onnx")])[0][0] == "eln-1"


def test_two_models_of_one_name_are_an_error(write_onnx: WriteOnnx, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx")
    with pytest.raises(ZooError, match=r"two models named m.*rename one with NAME=MODEL"):
        name_models([str(path), str(path)])


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)],
)
def test_what_only_this_machine_reaches_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
