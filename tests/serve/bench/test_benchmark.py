from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from zoo.bundle.bundle import CONFIG_NAME, WEIGHTS_NAME
from zoo.data.shapes import ShapesSource
from zoo.errors import DatasetError, ZooError
from zoo.evaluation.evaluate import evaluate
from zoo.predictors.eager import has_bf16_instructions
from zoo.predictors.load import load_predictor
from zoo.serve.bench.accuracy import EvenSubset
from zoo.serve.bench.contender import left_out, read_images, reason
from zoo.serve.bench.measurement import Report, Row, Settings, Speedup

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Measure = Callable[..., Report]

needs_bf16 = pytest.mark.skipif(not has_bf16_instructions(), reason="this CPU has no bfloat16 instructions")


def rows_of(report: Report) -> dict[str, Row]:
    return {row.name: row for row in report.rows}


def test_a_backend_that_cannot_run_here_is_a_row_with_its_reason(onnx_bundle: Path, measure: Measure) -> None:
    rows = rows_of(measure(onnx_bundle, backends=("ort", "ort:fp16", "trt")))
    assert rows["eager"].end_to_end_ms is not None
    assert rows["ort:fp32"].end_to_end_ms is not None
    assert rows["ort:fp16"].end_to_end_ms is None
    assert "model.fp16.onnx does not exist" in str(rows["ort:fp16"].reason)
    assert "has no engine" in str(rows["trt"].reason)


def test_none_of_what_was_asked_for_is_an_error_with_all_reasons_before_anything_is_measured(
    tiny_bundle: Path, measure: Measure
) -> None:
    said: list[str] = []
    with pytest.raises(
        ZooError, match=r"no backend can run on this machine \(ort: .*model.onnx.*; trt: .*no engine"
    ):
        measure(tiny_bundle, say=said.append, backends=("ort", "trt"))
    assert not any("round" in line for line in said)


def test_a_quick_look_leaves_out_what_must_be_compiled_unless_it_is_asked_for(
    tiny_bundle: Path, measure: Measure
) -> None:
    row = rows_of(measure(tiny_bundle, backends=None, quick=True))["compile"]
    assert row.end_to_end_ms is None
    assert "skipped by --quick" in str(row.reason)
    assert left_out(Settings(quick=True)).keys() == {"compile", "compile-amp"}


def test_on_a_gpu_what_runs_on_the_cpu_is_left_out() -> None:
    assert left_out(Settings(device="cuda")).keys() == {"openvino"}
    assert left_out(Settings()).keys() == {"compile-amp"}


def test_what_leaves_images_on_a_gpu_needs_one(tiny_bundle: Path, measure: Measure) -> None:
    with pytest.raises(ZooError, match="--match-trtexec leaves images on a GPU, but the device is cpu"):
        measure(tiny_bundle, match_trtexec=True)


def test_an_eager_row_is_its_own_reference(tiny_bundle: Path, measure: Measure) -> None:
    row = rows_of(measure(tiny_bundle))["eager"]
    assert row.speedup == Speedup(ratio=1, low=1, high=1)
    assert row.agreement == 1
    assert row.end_to_end_ms is not None
    assert row.end_to_end_ms.min <= row.end_to_end_ms.p50 <= row.end_to_end_ms.p90
    assert row.end_to_end_ms.n >= 10
    assert (row.data, row.imgsz, row.batch) == ("shapes", (64, 64), 1)
    assert row.scenarios == ("SingleStream", "Offline")
    assert (row.gpu_compute_ms, row.bytes_h2d, row.device_memory_bytes, row.cuda_graph) == (None,) * 4


@needs_bf16
def test_eager_amp_is_measured_along_in_half_precision(tiny_bundle: Path, measure: Measure) -> None:
    row = rows_of(measure(tiny_bundle))["eager-amp"]
    assert row.precision == "bf16"
    assert "AMP bfloat16" in row.runtime
    assert row.speedup_amp == Speedup(ratio=1, low=1, high=1)
    assert row.speedup is not None
    assert row.agreement is not None
    assert 0.9 < row.agreement < 1  # the same network, but not the same numbers


@needs_bf16
def test_every_backend_is_compared_with_both_baselines(onnx_bundle: Path, measure: Measure) -> None:
    rows = rows_of(measure(onnx_bundle, backends=("ort",)))
    ort = rows["ort:fp32"]
    assert ort.speedup is not None
    assert ort.speedup_amp is not None
    assert ort.end_to_end_ms is not None
    for name, found in (("eager", ort.speedup), ("eager-amp", ort.speedup_amp)):
        baseline = rows[name].end_to_end_ms
        assert baseline is not None
        assert found.ratio == pytest.approx(baseline.p50 / ort.end_to_end_ms.p50)


def test_a_row_says_which_file_was_run_and_how_large_it_is(onnx_bundle: Path, measure: Measure) -> None:
    rows = rows_of(measure(onnx_bundle, backends=("ort",)))
    for name, file in (("eager", WEIGHTS_NAME), ("ort:fp32", "model.onnx")):
        assert rows[name].artifact == str(onnx_bundle / file)
        assert rows[name].artifact_bytes == (onnx_bundle / file).stat().st_size


def test_the_miou_is_that_of_the_file_that_is_timed(shapes_onnx_bundle: Path, measure: Measure) -> None:
    rows = rows_of(measure(shapes_onnx_bundle, backends=("ort",), images=3))
    excerpt = EvenSubset(ShapesSource(), 3)
    expected = {
        "eager": evaluate(load_predictor(shapes_onnx_bundle), excerpt)["miou"],
        "ort:fp32": evaluate(load_predictor(shapes_onnx_bundle, backend="ort"), excerpt)["miou"],
    }
    found = {name: rows[name].accuracy for name in expected}
    assert {name: accuracy and accuracy.miou for name, accuracy in found.items()} == expected
    ort = found["ort:fp32"]
    assert ort is not None
    assert ort.delta == pytest.approx(expected["ort:fp32"] - expected["eager"])


def test_the_miou_is_measured_at_the_size_that_is_timed(shapes_bundle: Path, measure: Measure) -> None:
    row = rows_of(measure(shapes_bundle, images=3, imgsz=(32, 32)))["eager"]
    smaller = load_predictor(shapes_bundle)
    smaller.preprocessing = smaller.preprocessing.model_copy(update={"imgsz": (32, 32)})
    excerpt = EvenSubset(ShapesSource(), 3)
    assert row.accuracy is not None
    assert row.accuracy.miou == evaluate(smaller, excerpt)["miou"]
    assert row.accuracy.miou != evaluate(load_predictor(shapes_bundle), excerpt)["miou"]


def test_why_there_is_no_miou_is_said(tiny_bundle: Path, measure: Measure) -> None:
    row = rows_of(measure(tiny_bundle, images=2))["eager"]
    assert row.accuracy is None
    assert "has the 7 classes background" in str(row.accuracy_reason)
    left_out = rows_of(measure(tiny_bundle))["eager"]
    assert left_out.accuracy_reason == "not measured: --images 0"


def test_agreement_is_the_share_of_pixels_with_the_class_of_eager(
    onnx_bundle: Path, measure: Measure
) -> None:
    images = read_images(ShapesSource(), (64, 64))
    eager = load_predictor(onnx_bundle).run(images)
    expected = np.mean((images[..., 0] > 127) == eager)
    found = [
        row.agreement
        for row in measure(onnx_bundle, backends=("eager", "ort"), batches=(1, 2)).rows
        if row.backend == "ort"
    ]
    assert found[0] == pytest.approx(expected, abs=1e-3)
    assert len(found) == 2


def test_an_artifact_is_compared_with_its_bundle(onnx_bundle: Path, measure: Measure) -> None:
    row = rows_of(measure(onnx_bundle / "model.onnx", backends=("ort",)))["ort:fp32"]
    assert row.speedup is not None
    assert row.agreement is not None
    assert "ONNX Runtime" in row.runtime


def test_an_artifact_without_a_bundle_is_compared_with_nothing(
    onnx_bundle: Path, tmp_path: Path, measure: Measure
) -> None:
    alone = tmp_path / "elsewhere" / "deeper" / "model.onnx"
    alone.parent.mkdir(parents=True)
    shutil.copy(onnx_bundle / "model.onnx", alone)
    [row] = measure(alone, backends=("ort",)).rows
    assert (row.agreement, row.speedup, row.speedup_amp) == (None, None, None)
    assert row.data == "shapes"


def test_a_bundle_that_has_lost_its_weights_costs_the_comparison_only(
    onnx_bundle: Path, measure: Measure
) -> None:
    (onnx_bundle / WEIGHTS_NAME).unlink()
    rows = rows_of(measure(onnx_bundle / "model.onnx", backends=("ort",)))
    assert rows["ort:fp32"].end_to_end_ms is not None
    assert rows["ort:fp32"].agreement is None
    assert "has no model.safetensors" in str(rows["eager"].reason)


def test_several_models_and_batch_sizes_give_a_row_each(
    onnx_bundle: Path, tiny_bundle: Path, measure: Measure
) -> None:
    report = measure(onnx_bundle, tiny_bundle, batches=(1, 3), imgsz=(32, 48))
    assert [(row.model, row.batch) for row in report.rows if row.backend == "eager"] == [
        (str(onnx_bundle), 1),
        (str(onnx_bundle), 3),
        (str(tiny_bundle), 1),
        (str(tiny_bundle), 3),
    ]
    assert {row.imgsz for row in report.rows if row.batch} == {(32, 48)}


def test_models_take_turns_and_each_is_compared_with_its_own_eager(
    onnx_bundle: Path, tiny_bundle: Path, measure: Measure
) -> None:
    said: list[str] = []
    rows = measure(onnx_bundle, tiny_bundle, say=said.append, backends=("ort",)).rows
    of_model = {
        model: [row for row in rows if row.model == str(model)] for model in (onnx_bundle, tiny_bundle)
    }
    assert [row.name for row in of_model[onnx_bundle] if row.backend != "eager-amp"] == ["eager", "ort:fp32"]
    assert [row.name for row in of_model[tiny_bundle] if row.backend != "eager-amp"] == ["eager", "ort"]
    assert of_model[tiny_bundle][-1].reason is not None  # which it has not, and which stands last
    eager = [row for row in rows if row.backend == "eager"]
    assert [row.speedup and row.speedup.ratio for row in eager] == [1, 1]
    assert [row.agreement for row in eager] == [1, 1]
    assert sum("round 1 of" in line for line in said) == 1


def test_models_of_other_sizes_get_images_of_their_own(
    tiny_bundle: Path, bundle_copy: Path, measure: Measure
) -> None:
    config = bundle_copy / CONFIG_NAME
    stored = json.loads(config.read_text())
    stored["preprocessing"]["imgsz"] = [32, 48]
    config.write_text(json.dumps(stored))
    rows = measure(tiny_bundle, bundle_copy).rows
    assert [row.imgsz for row in rows if row.backend == "eager"] == [(64, 64), (32, 48)]


def test_the_report_records_machine_versions_and_settings(tiny_bundle: Path, measure: Measure) -> None:
    report = measure(tiny_bundle)
    assert report.machine["cpu"]
    assert report.machine["cores"] >= 1
    assert report.versions["torch"] == torch.__version__.split("+")[0]
    assert report.settings.min_runs == 10
    assert report.command.split()[0] == "zoo"
    assert Report.model_validate_json(json.dumps(report.model_dump(mode="json"))) == report


def test_the_number_of_threads_holds_while_measuring_only(tiny_bundle: Path, measure: Measure) -> None:
    seen: list[int] = []
    torch.set_num_threads(2)
    measure(tiny_bundle, say=lambda _: seen.append(torch.get_num_threads()))
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


def test_images_fall_back_to_shapes_with_a_warning(
    bundle_copy: Path, caplog: pytest.LogCaptureFixture, measure: Measure
) -> None:
    config = bundle_copy / CONFIG_NAME
    config.write_text(config.read_text().replace('"shapes"', '"gone"'))
    row = rows_of(measure(bundle_copy))["eager"]
    assert row.data == "shapes"
    assert "measuring on images of shapes: the training data cannot be used" in caplog.text


def test_data_that_are_named_must_be_there(tiny_bundle: Path, measure: Measure) -> None:
    with pytest.raises(DatasetError, match="gone"):
        measure(tiny_bundle, data="gone")


def test_a_reason_is_one_line() -> None:
    error = RuntimeError("backend='inductor' raised:\nNo compiler\n\nSet VERBOSE=1\nfor more")
    assert reason(error) == "RuntimeError: backend='inductor' raised: No compiler"
