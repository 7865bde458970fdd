from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

import zoo
from zoo.errors import BundleError, ZooError
from zoo.predictors.fastest import RECORD_NAME, Record, contestants, fastest, measure, record, recorded
from zoo.predictors.load import load_predictor
from zoo.serve.server.core.loading import ModelSource, candidates, load_best, why_not

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import WriteOnnx

ORT_WINS = {"ort:fp32": 1.0, "openvino:fp32": 2.0}


@pytest.fixture
def chosen(onnx_bundle: Path) -> Path:
    record(onnx_bundle, 1, ORT_WINS | {"eager": 0.5})
    return onnx_bundle


def test_the_first_load_measures_and_later_ones_read_what_it_wrote(onnx_bundle: Path) -> None:
    model = zoo.load(onnx_bundle, backend="fastest", device="cpu", threads=1)
    found = Record.model_validate_json((onnx_bundle / RECORD_NAME).read_bytes())
    assert found.ms.keys() == ORT_WINS.keys()
    assert f"{model.predictor.backend}:fp32" == min(found.ms, key=lambda name: found.ms[name])
    record(onnx_bundle, 1, ORT_WINS)
    assert load_predictor(onnx_bundle, backend="fastest", threads=1).backend == "ort"


def test_the_server_takes_what_was_recorded(chosen: Path) -> None:
    loaded = load_best(ModelSource("m", chosen, device="cpu", threads=1))
    assert loaded.predictor.backend == "ort"
    assert loaded.reason == "ONNX Runtime CPU in fp32; measured as the fastest on this CPU"


def test_the_server_measures_on_request(onnx_bundle: Path) -> None:
    loaded = load_best(ModelSource("m", onnx_bundle, backend="fastest", threads=1))
    assert recorded(onnx_bundle, 1) == (loaded.predictor.backend, "fp32")


def test_a_precision_leaves_the_files_of_others_out(chosen: Path, write_onnx: WriteOnnx) -> None:
    assert recorded(chosen, 1, "int8") is None
    with pytest.raises(BundleError, match="has no file in int8 that runs on this CPU: zoo export"):
        fastest(chosen, 1, "int8")
    write_onnx(chosen / "model.int8.onnx", metadata="")
    record(chosen, 1, ORT_WINS | {"ort:int8": 0.5})
    assert recorded(chosen, 1) == ("ort", "int8")
    assert recorded(chosen, 1, "fp32") == ("ort", "fp32")


@pytest.mark.parametrize(("flags", "takes_part"), [({"avx2"}, False), ({"avx2", "avx_vnni"}, True)])
def test_openvino_runs_int8_only_where_its_sums_do_not_overflow(
    onnx_bundle: Path,
    write_onnx: WriteOnnx,
    monkeypatch: pytest.MonkeyPatch,
    flags: set[str],
    takes_part: bool,
) -> None:
    monkeypatch.setattr("zoo.machine.cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    write_onnx(onnx_bundle / "model.int8.onnx", metadata="")
    names = {each.name for each in contestants(onnx_bundle)}
    assert names - {"openvino:int8"} == {*ORT_WINS, "ort:int8"}
    assert ("openvino:int8" in names) == takes_part
    asked = ModelSource("m", onnx_bundle, precision="int8", device="cpu")
    reasons = {each.backend: why_not(each, asked, 0) for each in candidates(asked)}
    assert ("overflow" in reasons["openvino"]) != takes_part
    assert reasons["ort"] == ""


@pytest.mark.parametrize("change", ["threads", "file", "processor", "text"])
def test_a_record_that_does_not_hold_here_is_ignored(chosen: Path, change: str) -> None:
    path = chosen / RECORD_NAME
    if change == "file":
        with (chosen / "model.onnx").open("ab") as file:
            file.write(b"\0")
    elif change == "processor":
        found = Record.model_validate_json(path.read_bytes())
        path.write_text(found.model_copy(update={"cpu": "another"}).model_dump_json())
    elif change == "text":
        path.write_text("{}")
    assert recorded(chosen, 2 if change == "threads" else 1) is None


def test_a_file_that_does_not_run_is_left_out(onnx_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    (onnx_bundle / "model.int8.onnx").write_bytes(b"no onnx")
    with caplog.at_level(logging.WARNING):
        assert measure(onnx_bundle, 1).keys() == ORT_WINS.keys()
    assert "model.int8.onnx" in caplog.text


def test_a_folder_that_cannot_be_written_is_measured_at_every_load(
    onnx_bundle: Path,
) -> None:
    (onnx_bundle / RECORD_NAME).mkdir()
    assert load_predictor(onnx_bundle, backend="fastest", threads=1).backend in {"ort", "openvino"}


def test_what_cannot_be_compared_is_an_error(tiny_bundle: Path, onnx_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"nothing to compare on this CPU \(no exported file\): zoo export"):
        load_predictor(tiny_bundle, backend="fastest")
    with pytest.raises(BundleError, match="compares backends of the CPU, got device cuda"):
        load_predictor(onnx_bundle, backend="fastest", device="cuda")
    with pytest.raises(BundleError, match=r"compares files of a bundle, got .*model\.onnx"):
        load_predictor(onnx_bundle / "model.onnx", backend="fastest")
    with pytest.raises(BundleError, match="has no exported file that runs on this CPU"):
        record(tiny_bundle, 1, ORT_WINS)


def test_a_benchmark_records_the_fastest(shapes_onnx_bundle: Path) -> None:
    options = {"backends": ["ort", "openvino"], "device": "cpu", "threads": 1, "images": 0, "quick": True}
    found = zoo.benchmark(shapes_onnx_bundle, **options, choose=True)
    ms = {row.name: row.end_to_end_ms.p50 for row in found.report.rows if row.end_to_end_ms}
    name = min(ORT_WINS, key=lambda each: ms[each])
    assert found.chosen == {shapes_onnx_bundle: name}
    assert ":".join(recorded(shapes_onnx_bundle, 1) or ()) == name
    with pytest.raises(ZooError, match=r"--choose needs a bundle, to which it writes, got .*model\.onnx"):
        zoo.benchmark(shapes_onnx_bundle / "model.onnx", device="cpu", choose=True)
