"""Facts about the machine, and the choices that follow; nothing needs to be present."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from zoo import doctor
from zoo.doctor import choices, diagnose, extras, missing, problems, size, without_paths
from zoo.machine import cores, cpu_flags

H100 = {"name": "NVIDIA H100", "memory_mib": 81559, "capability": "9.0"}
NO_GPU: dict[str, Any] = {"driver": None, "devices": [], "cuda_of_pytorch": "13.0"}


def facts(**changes: Any) -> dict[str, Any]:
    """Return the facts of a machine without a GPU and with a plain processor."""
    return {
        "processor": {"instructions": ["AVX2"]},
        "memory": {"total_mib": 16000.0, "free_mib": 12000.0},
        "disk_free_gb": {"here": 100.0},
        "gpu": NO_GPU,
        "tensorrt": {},
        "backends": {"eager": True, "ort": True, "openvino": False, "trt": False},
        "requirements": [],
        "unreadable": {},
    } | changes


def chosen(topic: str, **changes: Any) -> tuple[str, str]:
    """Return choice and reason of a topic."""
    found = next(each for each in choices(facts(**changes)) if each.topic == topic)
    return found.choice, found.reason


def gpu(capability: str, count: int = 1) -> dict[str, Any]:
    return {
        "driver": "580.1",
        "devices": [H100 | {"capability": capability}] * count,
        "cuda_of_pytorch": "13.0",
    }


def test_the_facts_are_those_of_this_machine() -> None:
    found = diagnose()
    assert found["processor"]["cores"] == cores()
    assert found["onnxruntime"][-1] == "CPU"
    assert len(found["onnxruntime"]) == len(onnxruntime.get_available_providers())
    assert found["versions"]["onnxruntime"] == onnxruntime.__version__
    assert found["unreadable"] == {}
    assert found["requirements"] == []


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("HF_HUB_CACHE", "h", "h"),
        ("HUGGINGFACE_HUB_CACHE", "h", "h"),
        ("HF_HOME", "h", "h/hub"),
        ("XDG_CACHE_HOME", "h", "h/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_client_of_the_hub_keeps_it(variable: str, value: str, expected: str) -> None:
    code = "from zoo.doctor import folders; print(*list(folders().values())[:1])"
    others = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    environment = {name: text for name, text in os.environ.items() if name not in others} | {variable: value}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == expected, done.stderr


def test_a_machine_without_a_driver_does_not_import_pytorch() -> None:
    program = (
        "import sys; from zoo import doctor; doctor.cuda_driver = lambda: None; doctor.diagnose(); "
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["False"]


def test_a_probe_that_fails_is_a_problem_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise OSError("/srv/alice/venv/libonnx.so: cannot open shared object file")

    for name in (
        "versions",
        "processor",
        "memory",
        "disk",
        "gpu",
        "providers",
        "backends",
        "extras",
        "missing",
    ):
        monkeypatch.setattr(doctor, name, lambda *_: broken())
    monkeypatch.setattr(doctor, "size", lambda _: broken())
    found = diagnose()
    assert len(found["unreadable"]) == 9 + len(doctor.folders())
    assert "gpu cannot be read: OSError: libonnx.so: cannot open shared object file" in found["problems"]
    assert "alice" not in str(found)
    assert len(found["choices"]) == 5


def test_the_facts_name_no_path_user_or_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "secret-client"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "secret-client"))
    (tmp_path / "secret-client" / "hub").mkdir(parents=True)
    text = str(diagnose())
    assert "secret-client" not in text
    assert str(Path.home()) not in text
    assert os.uname().nodename not in text


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("no such file: '/data/set/x.py'", "no such file: 'x.py'"),
        (r"C:\Users\alice\x.dll failed", "x.dll failed"),
        ("two\nlines", "two lines"),
        ("3/4 of it", "3/4 of it"),
    ],
)
def test_paths_in_messages_are_shortened(message: str, expected: str) -> None:
    assert without_paths(message) == expected


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("9.0", "--precision bf16"), ("7.5", "--precision fp16"), ("6.1", "fp32, the default")],
)
def test_the_precision_of_training_follows_the_tensor_cores(capability: str, expected: str) -> None:
    assert chosen("precision of training", gpu=gpu(capability))[0] == expected


def test_on_a_cpu_bf16_and_int8_need_their_instructions() -> None:
    assert chosen("precision of training") == ("fp32, the default", "the processor has no bf16 instructions")
    assert chosen("int8")[0] == "rarely worth it"
    able = {"instructions": ["AVX-512", "VNNI", "AMX bf16"]}
    assert chosen("precision of training", processor=able)[0] == "--precision auto"
    assert chosen("int8", processor=able)[0] == "worth it"
    unlisted = {"instructions": None}
    assert chosen("int8", processor=unlisted)[1].startswith("this system does not list int8 instructions")


def test_backends_and_exports_follow_the_device_and_the_packages() -> None:
    assert chosen("device") == ("cpu", "no NVIDIA driver")
    assert chosen("backends of zoo serve") == (
        "ort, eager",
        "the first that has a file in the bundle; not installed: openvino",
    )
    assert chosen("export")[0] == "zoo export --onnx"
    able = {
        "gpu": gpu("9.0", 2),
        "backends": {"eager": True, "ort": True, "trt": True},
        "tensorrt": {"trt": "TensorRT"},
    }
    assert chosen("device", **able) == ("cuda", "PyTorch sees NVIDIA H100")
    assert chosen("several GPUs", **able)[0] == "zoo train --devices 2"
    assert chosen("backends of zoo serve", **able)[0] == "trt, ort, eager"
    assert chosen("export", **able)[0] == "zoo export --onnx --trt"
    assert chosen("int8", **able)[0] == "worth trying with TensorRT"
    assert chosen("int8", gpu=gpu("9.0"))[0] == "not worth it without TensorRT"


def test_what_would_fail_comes_with_what_to_do() -> None:
    assert problems(facts()) == []
    driver = NO_GPU | {"driver": "470.1"}
    assert "driver 470.1 may be too old" in problems(facts(gpu=driver))[0]
    assert "install its CUDA build" in problems(facts(gpu=driver | {"cuda_of_pytorch": None}))[0]
    assert "make room" in problems(facts(disk_free_gb={"here": 1.0}))[0]
    assert "zoo train --plan" in problems(facts(memory={"free_mib": 100.0}))[0]
    assert problems(facts(requirements=["numpy>=2"])) == [
        "required packages are missing or too old: pip install 'numpy>=2'"
    ]


def test_an_extra_lacks_what_is_absent_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"numpy": "2.3", "fastapi": "0.139"}
    monkeypatch.setattr(doctor, "version_of", found.get)
    needs = [
        "numpy>=2",
        "semiseg-zoo[serve]; extra == 'ray'",
        "ray>=2.60; extra == 'ray'",
        "fastapi>=0.140; extra == 'serve'",
        "numpy>=2; extra == 'serve'",
        "uvloop; sys_platform == 'win95' and extra == 'serve'",
    ]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: needs)
    assert missing(None) == []
    assert missing("serve") == ["fastapi>=0.140"]
    assert missing("ray") == ["fastapi>=0.140", "ray>=2.60"]


def test_every_extra_is_listed() -> None:
    assert {"serve", "trt", "openvino"} <= extras().keys()


def test_a_folder_is_measured_without_what_links_lead_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub" / "blobs").mkdir(parents=True)
    (tmp_path / "hub" / "blobs" / "a").write_bytes(bytes(3_000_000))
    (tmp_path / "hub" / "link").symlink_to(tmp_path / "hub" / "blobs" / "a")
    (tmp_path / "hub" / "round").symlink_to(tmp_path / "hub")
    assert size(tmp_path / "hub") == {"gb": 0.003, "complete": True}
    assert size(tmp_path / "none") == {}
    monkeypatch.setattr(doctor, "WALK_S", -1.0)
    assert size(tmp_path / "hub") == {"gb": 0.0, "complete": False}


def test_the_instruction_sets_are_those_that_linux_lists() -> None:
    if sys.platform != "linux":
        assert cpu_flags() == frozenset()
    else:
        assert len(cpu_flags()) > 5
