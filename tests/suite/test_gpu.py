"""The parts as a GPU measures them, at the smallest sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from zoo.suite import inference, peaks, training
from zoo.suite.parts import Settings, plan
from zoo.suite.reading import queries_of, steps_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.suite.record import Record

    MakeRecord = Callable[..., Record]

pytestmark = pytest.mark.gpu

PARTS = {part.name: part for part in plan(Settings(device="cuda", quick=True))}


def ignore(figures: dict[str, Any]) -> None:
    """Do nothing with what was measured so far."""


def test_the_backends_of_a_gpu_are_timed_there_and_held_against_its_roof(make_record: MakeRecord) -> None:
    name = "infer-deeplabv3plus-tiny-64x64"
    part = PARTS[name]
    machine = make_record("machine", peaks.measure({"quick": True}, "cuda", ignore))
    figures = inference.measure(part.options, "cuda", ignore)
    record = make_record(name, figures, inputs={"options": part.options})
    queries = {(query.row.name, query.row.batch): query for query in queries_of([machine, record])}
    for backend in ("eager", "eager-amp", "ort:fp32"):
        query = queries[backend, 1]
        assert query.row.gpu_compute_ms is not None
        assert query.roof is not None
        assert query.row.agreement is not None
        assert query.row.agreement > 0.9


def test_the_host_syncs_of_a_step_are_counted(make_record: MakeRecord) -> None:
    part = PARTS["train-u2pl-test_resnet"]
    figures = training.measure(part.options, "cuda", ignore)
    steps = steps_of([make_record(part.name, figures, inputs={"options": part.options})])
    assert {step.figures["host_syncs"] for step in steps} == {0}
    assert all(step.figures["peak_mib"] > 0 for step in steps)
