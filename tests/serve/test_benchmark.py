from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from zoo.bundle import CONFIG_NAME, WEIGHTS_NAME
from zoo.data.shapes import ShapesSource
from zoo.errors import DatasetError, ZooError
from zoo.predictors.load import load_predictor
from zoo.serve.benchmark import benchmark, candidates, figures, read_images, reason
from zoo.serve.measurement import Report, Row, Settings
from zoo.serve.timing import ROUNDS, Budget, Staged, time_in_turns, warm_up

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

QUICK = Settings(backends=("eager",), threads=1, seconds=0.05, min_runs=10)


def silent(text: str) -> None:
    """Say nothing."""


def rows_of(report: Report) -> dict[str, Row]:
    return {row.backend: row for row in report.rows}


class Recorder:
    """Stands where a predictor runs and notes each call in a list that several share."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self.calls.append(self.name)
        return images[..., 0]


IMAGES = np.zeros((1, 4, 4, 3), np.uint8)


def test_backends_take_turns_and_the_first_run_after_a_change_is_not_counted() -> None:
    calls: list[str] = []
    rounds: list[int] = []
    timings = time_in_turns(
        [(Recorder("a", calls), IMAGES), (Recorder("b", calls), IMAGES)],  # type: ignore[list-item]
        Budget(seconds=0, runs=20),
        rounds.append,
    )
    assert "".join(calls) == "aaabbb" * ROUNDS
    assert [[len(counted) for counted in timing] for timing in timings] == [[2] * ROUNDS] * 2
    assert rounds == list(range(1, ROUNDS + 1))


def test_each_backend_runs_until_both_time_and_runs_are_reached() -> None:
    calls: list[str] = []
    recorder = Recorder("a", calls)
    start = time.perf_counter()
    [timing] = time_in_turns([(recorder, IMAGES)], Budget(seconds=0.1, runs=1), silent_round)  # type: ignore[list-item]
    assert time.perf_counter() - start >= 0.1
    assert sum(map(len, timing)) > 10


def silent_round(number: int) -> None:
    """Say nothing."""


def test_the_warm_up_runs_at_least_ten_times_and_gives_the_time_of_the_first() -> None:
    calls: list[str] = []
    first = warm_up(Recorder("a", calls), IMAGES)  # type: ignore[arg-type]
    assert len(calls) > 10
    assert first > 0


def test_figures_follow_from_the_runs() -> None:
    rounds = [[0.010, 0.020], [0.030, 0.100]]
    found = figures(rounds, 4, baseline=[[0.030, 0.030], [0.130, 0.130]])
    latency = found["latency_ms"]
    assert latency.runs == 4
    assert latency.min == pytest.approx(10)
    assert latency.p50 == pytest.approx(25)
    assert latency.p90 == pytest.approx(79)
    assert latency.p99 is None
    assert latency.rounds == pytest.approx((15, 65))
    assert found["images_per_s"] == pytest.approx(16 / 0.160)
    assert found["speedup"] == pytest.approx(80 / 25)
    assert found["speedup_range"] == pytest.approx((2, 2))


def test_no_outlier_is_removed_and_p99_needs_a_thousand_runs() -> None:
    thousand = [[0.001] * 98 + [1.0, 1.0] for _ in range(10)]
    latency = figures(thousand, 1, None)["latency_ms"]
    assert latency.p99 == pytest.approx(1000)
    assert figures([[0.001] * 999], 1, None)["latency_ms"].p99 is None


def test_without_eager_there_is_no_speedup() -> None:
    assert "speedup" not in figures([[0.001]], 1, None)


def test_a_backend_that_cannot_run_here_is_a_row_with_its_reason(tiny_bundle: Path) -> None:
    settings = QUICK.model_copy(update={"backends": ("eager", "ort", "trt")})
    rows = rows_of(benchmark([tiny_bundle], settings, silent))
    assert rows["eager"].latency_ms is not None
    assert rows["ort"].latency_ms is None
    assert "model.onnx does not exist" in str(rows["ort"].reason)
    assert "holds no engine" in str(rows["trt"].reason)


def test_no_backend_at_all_is_an_error_with_all_reasons(tiny_bundle: Path) -> None:
    settings = QUICK.model_copy(update={"backends": ("ort", "trt")})
    with pytest.raises(ZooError, match=r"no backend can run here \(ort: .*model.onnx.*; trt: .*no engine"):
        benchmark([tiny_bundle], settings, silent)


def test_an_eager_row_is_its_own_reference(tiny_bundle: Path) -> None:
    [row] = benchmark([tiny_bundle], QUICK, silent).rows
    assert row.speedup == 1
    assert row.speedup_range == (1, 1)
    assert row.agreement == 1
    assert row.latency_ms is not None
    assert row.latency_ms.min <= row.latency_ms.p50 <= row.latency_ms.p90
    assert row.latency_ms.runs >= QUICK.min_runs
    assert (row.data, row.imgsz, row.batch) == ("shapes", (64, 64), 1)


def test_agreement_is_the_share_of_pixels_with_the_class_of_eager(onnx_bundle: Path) -> None:
    images = read_images(ShapesSource(), (64, 64))
    eager = load_predictor(onnx_bundle).run(images)
    expected = np.mean((images[..., 0] > 127) == eager)
    settings = QUICK.model_copy(update={"backends": ("eager", "ort"), "batches": (1, 5)})
    found = [row.agreement for row in benchmark([onnx_bundle], settings, silent).rows if row.backend == "ort"]
    assert found[0] == pytest.approx(expected, abs=1e-3)
    assert len(found) == 2


def test_an_artifact_is_measured_alone_but_compared_with_its_bundle(onnx_bundle: Path) -> None:
    settings = QUICK.model_copy(update={"backends": None})
    [row] = benchmark([onnx_bundle / "model.onnx"], settings, silent).rows
    assert row.backend == "ort"
    assert row.speedup is None
    assert row.agreement is not None
    assert "ONNX Runtime" in row.runtime


def test_an_artifact_without_a_bundle_has_no_agreement(onnx_bundle: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "deeper" / "model.onnx"
    alone.parent.mkdir(parents=True)
    shutil.copy(onnx_bundle / "model.onnx", alone)
    settings = QUICK.model_copy(update={"backends": None})
    [row] = benchmark([alone], settings, silent).rows
    assert row.agreement is None
    assert row.data == "shapes"


def test_a_bundle_that_has_lost_its_weights_costs_the_agreement_only(
    onnx_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (onnx_bundle / WEIGHTS_NAME).unlink()
    settings = QUICK.model_copy(update={"backends": None})
    [row] = benchmark([onnx_bundle / "model.onnx"], settings, silent).rows
    assert row.latency_ms is not None
    assert row.agreement is None
    assert "measuring without agreement" in caplog.text


def test_other_backends_of_an_artifact_come_from_its_bundle(onnx_bundle: Path) -> None:
    artifact = onnx_bundle / "model.onnx"
    assert candidates(artifact, ("eager", "ort")) == [("eager", onnx_bundle), ("ort", artifact)]
    assert candidates(artifact, None) == [("ort", artifact)]


def test_several_models_and_batch_sizes_give_a_row_each(onnx_bundle: Path, tiny_bundle: Path) -> None:
    settings = QUICK.model_copy(update={"batches": (1, 3), "imgsz": (32, 48)})
    report = benchmark([onnx_bundle, tiny_bundle], settings, silent)
    assert [(row.model, row.batch) for row in report.rows] == [
        (str(onnx_bundle), 1),
        (str(onnx_bundle), 3),
        (str(tiny_bundle), 1),
        (str(tiny_bundle), 3),
    ]
    assert {row.imgsz for row in report.rows} == {(32, 48)}


def test_models_take_turns_and_each_is_compared_with_its_own_eager(
    onnx_bundle: Path, tiny_bundle: Path
) -> None:
    settings = QUICK.model_copy(update={"backends": ("ort", "eager")})
    said: list[str] = []
    rows = benchmark([onnx_bundle, tiny_bundle], settings, said.append).rows
    assert [(row.model, row.backend) for row in rows] == [
        (str(onnx_bundle), "ort"),
        (str(onnx_bundle), "eager"),
        (str(tiny_bundle), "eager"),
        (str(tiny_bundle), "ort"),  # which it has not, and which stands last
    ]
    assert [row.speedup for row in rows if row.backend == "eager"] == [1, 1]
    assert [row.agreement for row in rows if row.backend == "eager"] == [1, 1]
    assert rows[0].speedup != 1
    assert sum("round 1 of" in line for line in said) == 1


def test_models_of_other_sizes_get_images_of_their_own(tiny_bundle: Path, bundle_copy: Path) -> None:
    config = bundle_copy / CONFIG_NAME
    stored = json.loads(config.read_text())
    stored["preprocessing"]["imgsz"] = [32, 48]
    config.write_text(json.dumps(stored))
    rows = benchmark([tiny_bundle, bundle_copy], QUICK, silent).rows
    assert [row.imgsz for row in rows] == [(64, 64), (32, 48)]


def test_the_report_records_machine_versions_and_settings(tiny_bundle: Path) -> None:
    report = benchmark([tiny_bundle], QUICK, silent)
    assert report.machine["cpu"]
    assert report.machine["cores"] >= 1
    assert report.versions["torch"] == torch.__version__.split("+")[0]
    assert report.settings == QUICK
    assert Report.model_validate_json(json.dumps(report.model_dump(mode="json"))) == report


def test_the_number_of_threads_holds_while_measuring_only(tiny_bundle: Path) -> None:
    seen: list[int] = []
    torch.set_num_threads(2)
    benchmark([tiny_bundle], QUICK, lambda _: seen.append(torch.get_num_threads()))
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


def test_images_fall_back_to_shapes_with_a_warning(
    bundle_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = bundle_copy / CONFIG_NAME
    config.write_text(config.read_text().replace('"shapes"', '"gone"'))
    [row] = benchmark([bundle_copy], QUICK, silent).rows
    assert row.data == "shapes"
    assert "measuring on images of shapes: the data of the model cannot be used" in caplog.text


def test_data_that_are_named_must_be_there(tiny_bundle: Path) -> None:
    with pytest.raises(DatasetError, match="gone"):
        benchmark([tiny_bundle], QUICK.model_copy(update={"data": "gone"}), silent)


def test_a_reason_is_one_line() -> None:
    error = RuntimeError("backend='inductor' raised:\nNo compiler\n\nSet VERBOSE=1\nfor more")
    assert reason(error) == "RuntimeError: backend='inductor' raised: No compiler"


def test_eager_runs_in_the_stages_that_a_gpu_is_timed_in(tiny_bundle: Path) -> None:
    predictor = load_predictor(tiny_bundle)
    assert isinstance(predictor, Staged)
    images = read_images(ShapesSource(), (64, 64))[:2]
    staged = predictor.download(predictor.compute(predictor.upload(images)))
    assert np.array_equal(staged, predictor.run(images))


@pytest.mark.gpu
def test_a_gpu_is_timed_in_stages(tiny_bundle: Path) -> None:
    [row] = benchmark([tiny_bundle], QUICK.model_copy(update={"device": "cuda"}), silent).rows
    assert row.stages_ms is not None
    assert set(row.stages_ms) == {"h2d", "compute", "d2h"}
    assert all(value > 0 for value in row.stages_ms.values())


@pytest.mark.slow
def test_a_compiled_model_agrees_and_tells_the_time_of_its_first_run(tiny_bundle: Path) -> None:
    settings = QUICK.model_copy(update={"backends": ("eager", "compile")})
    row = rows_of(benchmark([tiny_bundle], settings, silent))["compile"]
    assert row.agreement is not None
    assert row.agreement > 0.999
    assert row.first_run_s is not None
    assert row.latency_ms is not None
    assert row.first_run_s * 1000 > row.latency_ms.p90


@pytest.mark.slow
def test_a_compiler_that_is_missing_is_a_reason(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    settings = QUICK.model_copy(update={"backends": ("eager", "compile")})
    row = rows_of(benchmark([tiny_bundle], settings, silent))["compile"]
    assert row.latency_ms is None
    assert "No working C++ compiler" in str(row.reason)
