"""Figures for Prometheus, of one worker and of several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from pathlib import Path

    from tests.serve.server.conftest import Running, ServeApp

PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU\x00\x00\x00"
    b"\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
)
"""One black pixel."""


def figures(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return values by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def read(server: Running) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return figures(answer.text)


def requests(
    status: str, route: str = "/predict", model: str = "stand-in"
) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "zoo_requests_total", (("model", model), ("route", route), ("status", status))


def test_requests_are_counted_by_model_route_and_status_and_errors_by_kind(serve_app: ServeApp) -> None:
    server = serve_app(max_body_mb=0.001)
    for content in (PNG, PNG, b"garbage", b"", bytes(5000)):
        server.client.post("/predict", content=content)
    server.client.post("/predict?model=x%0A%22")
    server.client.get("/secret/path")
    found = read(server)
    assert found[requests("200")] == 2
    assert found[requests("400")] == 2
    assert found[requests("413", route="other", model="")] == 1
    assert found[requests("404", model="")] == 1
    assert found[requests("404", route="other", model="")] == 1
    kinds = {labels[0][1]: value for (name, labels), value in found.items() if name == "zoo_errors_total"}
    assert kinds == {"invalid": 2, "too-large": 1, "unknown": 2}
    assert found["zoo_request_seconds_count", (("route", "/predict"),)] == 5


def test_no_label_comes_from_a_client(serve_app: ServeApp) -> None:
    server = serve_app()
    for number in range(20):
        server.client.post(f"/predict?model=evil-{number}", content=PNG)
        server.client.get(f"/evil-{number}")
        server.client.get(f"/v2/models/evil-{number}")
        server.client.request(f"EVIL{number}", "/predict")
    text = server.client.get("/metrics").text
    assert "evil" not in text.lower()
    assert text.count("zoo_requests_total{") <= 5


def test_images_are_counted_with_their_batches_and_waits(serve_app: ServeApp) -> None:
    server = serve_app()
    for _ in range(3):
        assert server.client.post("/predict", content=PNG).status_code == 200
    found, labels = read(server), (("model", "stand-in"),)
    assert found["zoo_batch_size_sum", labels] == 3
    assert found["zoo_batch_size_count", labels] == 3
    assert found["zoo_compute_seconds_count", labels] == 3
    assert found["zoo_queue_seconds_count", labels] == 3
    assert 0 < found["zoo_queue_seconds_sum", labels] < 10
    assert found["zoo_queue_length", labels] == 0


def test_models_are_described(serve_app: ServeApp) -> None:
    found = read(serve_app())
    labels = {"backend": "stand-in", "description": "stand-in", "model": "stand-in", "version": "1"}
    assert found["zoo_model_info", tuple(sorted(labels.items()))] == 1


WORKER = """
import json, sys
from zoo.serve.server.core.metrics import Metrics
from zoo.serve.server.core.timing import Trace

class Model:
    name, version, backend, description = "m", "1", "ort", "somewhere"
    waiting, observer = int(sys.argv[1]), None

metrics = Metrics([Model()])
for _ in range(int(sys.argv[1])):
    metrics.request(Trace("id", 0.0, model="m", status=503), "/predict")
    metrics.batch("m", 4, 0.02)
    metrics.waited("m", 0.01)
sys.stdout.write(json.dumps(metrics.render().decode()))
if len(sys.argv) > 2:
    sys.stdout.flush()
    sys.stdin.read()
"""


def test_any_worker_answers_for_all_the_dead_too(tmp_path: Path) -> None:
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-c", WORKER]
    subprocess.run([*command, "2"], env=environment, check=True, capture_output=True)
    last = subprocess.run([*command, "3"], env=environment, check=True, capture_output=True, text=True)
    found, labels = figures(json.loads(last.stdout)), (("model", "m"),)
    assert found[requests("503", model="m")] == 5
    assert found["zoo_errors_total", (("kind", "full"),)] == 5
    assert found["zoo_batch_size_sum", labels] == 20
    assert found["zoo_compute_seconds_count", labels] == 5
    info = {"backend": "ort", "description": "somewhere", "model": "m", "version": "1"}
    assert found["zoo_model_info", tuple(sorted(info.items()))] == 1
