from __future__ import annotations

import json
from typing import TYPE_CHECKING

from zoo import doctor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from typer.testing import Result

    Zoo = Callable[..., Result]


def test_one_page_shows_the_machine_and_what_follows(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    shown = zoo("doctor")
    assert shown.exit_code == 0
    assert len(shown.stdout.splitlines()) < 40
    for text in (
        "cores",
        "ONNX Runtime providers",
        "extras",
        "precision of training",
        "int8",
        str(tmp_path / "hf"),
    ):
        assert text in shown.stdout


def test_a_bug_report_has_the_same_facts_without_paths(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    shown = zoo("doctor", "--json")
    found = json.loads(shown.stdout)
    assert found.keys() >= {
        "versions",
        "processor",
        "memory",
        "gpu",
        "extras",
        "caches",
        "choices",
        "problems",
    }
    assert str(tmp_path) not in shown.stdout
    assert found["left_out"] == doctor.LEFT_OUT


def test_a_gpu_is_shown_with_its_driver(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    device = {"name": "NVIDIA H100", "memory_mib": 81920, "capability": "9.0"}
    monkeypatch.setattr(
        doctor, "gpu", lambda: {"driver": "580.1", "devices": [device], "cuda_of_pytorch": "13.0"}
    )
    shown = zoo("doctor")
    assert "NVIDIA H100, 80.0 GiB, compute capability 9.0; driver 580.1" in shown.stdout
    assert "--precision bf16" in shown.stdout
