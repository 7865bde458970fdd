from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from zoo.machine import gpu_precision
from zoo.train.loop import precision
from zoo.train.loop.hardware import Hardware
from zoo.train.loop.precision import of_seconds, step_seconds, with_precision_of_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"),
    [(1.8, 1.0, "bf16"), (1.1, 1.0, "bf16"), (1.09, 1.0, "fp32"), (1.0, 3.0, "fp32")],
)
def test_a_cpu_takes_bf16_where_it_is_clearly_faster(fp32: float, bf16: float, chosen: str) -> None:
    assert of_seconds(fp32, bf16).precision == chosen


@pytest.mark.parametrize(
    ("capability", "chosen"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((6, 1), "fp32")]
)
def test_a_gpu_takes_what_its_tensor_cores_have(capability: tuple[int, int], chosen: str) -> None:
    assert gpu_precision(capability)[0] == chosen


def test_a_cpu_without_the_instructions_is_not_measured(
    load_tiny: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "has_bf16_instructions", lambda: False)
    monkeypatch.setattr(precision, "step_seconds", None)
    with caplog.at_level("INFO", "zoo"):
        recipe = with_precision_of_machine(load_tiny({"precision": "bf16"}), Hardware("cpu"))
    assert recipe.precision == "fp32"
    assert caplog.messages == ["precision auto: fp32, as the processor has no bf16 instructions"]


def test_a_cpu_with_the_instructions_is_measured_and_what_is_chosen_is_told(
    load_tiny: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "has_bf16_instructions", lambda: True)
    with caplog.at_level("INFO", "zoo"):
        recipe = with_precision_of_machine(load_tiny(), Hardware("cpu"))
    found = re.fullmatch(
        r"precision auto: (fp32|bf16), as a step of the network takes (\S+) s in fp32 and (\S+) s in bf16",
        caplog.messages[-1],
    )
    assert found is not None
    assert found[1] == recipe.precision
    assert float(found[2]) > 0 < float(found[3])


def test_other_processes_take_what_the_first_one_chose(
    load_tiny: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(precision.TOLD, "bf16")
    assert with_precision_of_machine(load_tiny(), Hardware("cpu", 2)).precision == "bf16"


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_step_is_timed_in_each_layout(load_tiny: Load, name: str) -> None:
    for channels_last in (False, True):
        assert step_seconds(load_tiny({"compute.channels_last": channels_last}), name) > 0
