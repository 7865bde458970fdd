from __future__ import annotations

from typing import Any

from zoo.suite import training
from zoo.suite.reading import PLAIN
from zoo.suite.training import QUICK_VARIANTS, VARIANTS, measure

OPTIONS = {"method": "supervised", "recipe": "supervised_shapes", "encoder": "test_resnet", "quick": True}


def test_every_variant_of_a_step_is_measured_in_every_phase() -> None:
    kept: list[dict[str, Any]] = []
    figures = measure(OPTIONS, "cpu", lambda figures: kept.append({**figures}))
    assert list(figures["variants"]) == [each.name for each in QUICK_VARIANTS]
    for found in figures["variants"].values():
        [phase] = found["phases"]
        assert phase["step_ms"]["p50"] > 0
        assert phase["images_per_s"] > 0
        assert phase["flops_per_step"] > 0
        assert 0 < phase["loss_share"] < 1
        assert phase["host_syncs"] is None  # of a GPU
    assert figures["recipe"]["imgsz"] == [32, 32]
    assert len(kept) == len(QUICK_VARIANTS)


def test_a_variant_that_cannot_be_had_leaves_the_others(monkeypatch: Any) -> None:
    impossible = training.variant("fp16", "fp16")  # needs a GPU
    monkeypatch.setattr(training, "QUICK_VARIANTS", (impossible, QUICK_VARIANTS[0]))
    found = measure(OPTIONS, "cpu", lambda _: None)["variants"]
    assert "fp16 needs a GPU" in found["fp16"]["reason"]
    assert "phases" in found[PLAIN]


def test_the_variants_that_the_aims_need_come_first() -> None:
    assert VARIANTS[0].plain
    assert VARIANTS[0].name == PLAIN
    assert [each.plain for each in VARIANTS].count(True) == 1
    assert any(each.compile for each in VARIANTS)
    assert {each.precision for each in VARIANTS} == {"fp32", "bf16"}
