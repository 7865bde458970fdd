"""Threads of the backends under a CPU quota."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

from zoo import machine
from zoo.predictors.load import load_predictor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit this process to one of several cores by a quota of its cgroup."""
    (tmp_path / "self").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "self")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)


@pytest.mark.usefixtures("one_core")
@pytest.mark.parametrize("backend", ["ort", "openvino", "eager"])
def test_a_backend_takes_no_more_threads_than_the_quota_allows(
    write_linear: Callable[..., Path], tiny_bundle: Path, tmp_path: Path, backend: str
) -> None:
    path = tiny_bundle if backend == "eager" else write_linear(tmp_path / "linear.onnx", output="mask")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        predictor = load_predictor(path, backend=backend)
        assert threads_of(predictor, backend) == 1
    finally:
        torch.set_num_threads(before)


def threads_of(predictor: Any, backend: str) -> int:
    if backend == "eager":
        return torch.get_num_threads()
    with predictor.session.use() as session:
        if backend == "ort":
            return int(session.get_session_options().intra_op_num_threads)
        return int(session.model.get_property("INFERENCE_NUM_THREADS"))
