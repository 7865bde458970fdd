from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zoo.suite.aims import NOT_MEASURED, Aim, aims
from zoo.suite.reading import conditions, fastest, queries_of, steps_of, unmeasured_variants

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.suite.record import Record

    MakeRecord = Callable[..., Record]


def line(records: tuple[Record, ...], start: str) -> Aim:
    return next(aim for aim in aims(records) if start in aim.aim)


def test_speed_is_that_of_the_fastest_variant_in_the_last_phase_of_the_slowest_method(
    gpu_records: tuple[Record, ...],
) -> None:
    found = line(gpu_records, "images/s of plain fp32 eager")
    assert found.measured == "1.80x (u2pl resnet50, the worst of 2)"
    assert found.met == "no"
    assert line(gpu_records[:2], "images/s of plain").measured == "3.00x (eln resnet50)"
    assert line(gpu_records[:2], "images/s of plain").met == "yes"


@pytest.mark.parametrize(
    ("start", "measured", "met"),
    [
        ("loss terms", "20.0% (u2pl resnet50, the worst of 2)", "no"),
        ("contrastive", "8.0% (u2pl resnet50)", "yes"),
        ("host syncs", "2 (u2pl resnet50, the worst of 2)", "no"),
        ("peak memory", "20.0 GiB (u2pl resnet50, the worst of 2)", "yes"),
        ("inference", "5.00x (deeplabv3plus-r50 512x512)", "yes"),
    ],
)
def test_each_aim_is_held_against_the_worst_figure(
    gpu_records: tuple[Record, ...], start: str, measured: str, met: str
) -> None:
    found = line(gpu_records, start)
    assert (found.measured, found.met) == (measured, met)


def test_figures_of_a_cpu_or_of_a_quick_look_meet_no_aim(gpu_records: tuple[Record, ...]) -> None:
    on_cpu = [
        record.model_copy(update={"inputs": record.inputs.model_copy(update={"device": "cpu"})})
        for record in gpu_records
    ]
    quick = [
        record.model_copy(
            update={
                "inputs": record.inputs.model_copy(
                    update={"options": {**record.inputs.options, "quick": True}}
                )
            }
        )
        for record in gpu_records
    ]
    for records in (on_cpu, quick, []):
        assert {(aim.measured, aim.met) for aim in aims(records)} == {(NOT_MEASURED, NOT_MEASURED)}


def test_an_aim_without_its_figure_is_not_measured(gpu_records: tuple[Record, ...]) -> None:
    only_eln = gpu_records[:2]
    assert line(only_eln, "contrastive").met == NOT_MEASURED
    assert line(only_eln, "inference").met == NOT_MEASURED
    assert line(only_eln, "loss terms").met == "yes"


def test_the_fastest_variant_is_never_the_plain_one(gpu_records: tuple[Record, ...]) -> None:
    assert {step.name: step.variant for step in fastest(steps_of(gpu_records))} == {
        "eln resnet50": "bf16, channels last",
        "u2pl resnet50": "bf16",
    }


def test_a_variant_is_compared_with_the_plain_one_in_the_same_phase(gpu_records: tuple[Record, ...]) -> None:
    over = {(step.variant, step.phase): step.over_plain for step in steps_of(gpu_records[:2])}
    assert over["bf16", "pretrain"] == pytest.approx(3.0)
    assert over["bf16", "semi"] == pytest.approx(2.4)
    assert over["plain fp32", "semi"] == 1


def test_a_variant_that_failed_is_named_with_its_reason(gpu_records: tuple[Record, ...]) -> None:
    assert unmeasured_variants(gpu_records) == ["eln resnet50, bf16, compile: no compiler"]


def test_the_conditions_of_training_are_told(gpu_records: tuple[Record, ...]) -> None:
    assert conditions(gpu_records) == [
        "Peak memory: allocated on the GPU by PyTorch.",
        "Variants in fp32 but the plain one: convolutions in TF32, other products in fp32.",
    ]


def test_a_query_is_held_against_the_roof_by_its_time_on_the_gpu(gpu_records: tuple[Record, ...]) -> None:
    queries = {query.row.name: query for query in queries_of(gpu_records)}
    assert queries.keys() == {"eager", "compile", "ort:fp16"}
    eager, ort = queries["eager"], queries["ort:fp16"]
    assert eager.roof is not None
    assert (eager.roof.bound, eager.roof.peak) == ("compute", "tf32")
    assert eager.over_roof == pytest.approx(0.8 * 40 / 0.2)
    assert ort.over_roof == pytest.approx(0.8 * 8 / 0.1)


def test_without_the_machine_there_is_no_roof(gpu_records: tuple[Record, ...]) -> None:
    assert [query.roof for query in queries_of(gpu_records[1:])] == [None, None, None]
