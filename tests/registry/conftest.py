"""A Hub on loopback for the unmodified client, bundles that may be pushed, and a folder to work in."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants as hub_constants
import onnx
import pytest
from huggingface_hub.utils import disable_progress_bars

from zoo.bundle.bundle import WEIGHTS_NAME
from zoo.bundle.manifest import sha256
from zoo.export.manifest import update_manifest
from zoo.registry.push import PushOptions, stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Files = dict[str, bytes]
    Environment = dict[str, str]


def load(name: str) -> Any:
    """Return a module beside this file; pytest puts no folder of tests on the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


load("hub_state")
hub_server = load("hub_server")

CARD = "---\nlicense: apache-2.0\nlibrary_name: semiseg-zoo\n---\n\n# Tiny\n"
PASSED = {"precision": "fp32", "parity": {"agreement": 1.0, "passed": True}}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, which is the current one."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a Hub that the client in this process talks to, with a cache of its own.

    The client reads HF_ENDPOINT and HF_HOME when it is imported; these are the values they set.
    """
    state, server = hub_server.serve()
    template = state.url + "/{repo_id}/resolve/{revision}/{filename}"
    cache = tmp_path / "hf" / "hub"
    monkeypatch.setattr(hub_constants, "ENDPOINT", state.url)
    monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(hub_constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_TELEMETRY", True)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    disable_progress_bars()
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def environment(hub: Any, tmp_path: Path) -> Environment:
    """Return the environment of a process that talks to the Hub, by nothing but the client's variables."""
    return {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def add_onnx(folder: Path, write_onnx: Callable[..., Path], **parity: Any) -> None:
    """Give a bundle an ONNX file with a manifest that says it passed, or what is given."""
    path = write_onnx(folder / "model.onnx")
    model = onnx.load(path)
    (entry,) = model.metadata_props
    entry.value = json.dumps(json.loads(entry.value) | {"weights_sha256": sha256(folder / WEIGHTS_NAME)})
    onnx.save(model, path)
    update_manifest(folder, {"model.onnx": {**PASSED, "parity": {**PASSED["parity"], **parity}}})  # type: ignore[dict-item]


@pytest.fixture
def bundle(bundle_copy: Path, write_onnx: Callable[..., Path]) -> Path:
    """Return a bundle with a license and an ONNX file that passed its gate."""
    (bundle_copy / "README.md").write_text(CARD)
    add_onnx(bundle_copy, write_onnx)
    return bundle_copy


@pytest.fixture
def staged_files(bundle: Path, tmp_path: Path) -> Files:
    """Return the files of a bundle as they are pushed."""
    folder = tmp_path / "staged"
    folder.mkdir()
    stage(bundle, folder, PushOptions().license)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    return files


@pytest.fixture
def published(hub: Any, staged_files: Files) -> str:
    """Return the name of a bundle that is on the Hub."""
    hub.add("team/tiny", staged_files)
    return "team/tiny"
