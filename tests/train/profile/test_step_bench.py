"""Measuring a step: every phase in the state in which it costs most, on batches as the loader gives them."""

from __future__ import annotations

import json
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from zoo.data.open import open_source
from zoo.data.partition import make_partition
from zoo.errors import RecipeError
from zoo.train.data.loaders import BatchStream
from zoo.train.loop import compute
from zoo.train.loop.compute import compiled_parts, recompute_activations
from zoo.train.loop.hardware import Hardware
from zoo.train.method import progress_at
from zoo.train.methods.table import METHODS, build_method
from zoo.train.methods.u2pl.memory_bank import MemoryBank
from zoo.train.profile import step_bench
from zoo.train.profile.parts import Passes, Watch
from zoo.train.profile.step_bench import Operations, StepVariant, built_engine, computed_by, measure_step
from zoo.train.profile.synthetic import fill_banks, synthetic_batch
from zoo.train.recipe.read import validate_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.models.config import NetworkConfig
    from zoo.train.method import Batch, Method
    from zoo.train.recipe.schema import Recipe

PLAIN = StepVariant("plain", "fp32", channels_last=False, compile=False, plain=True)
BF16 = StepVariant("bf16", "bf16", channels_last=True, compile=False)
NAMES = list(METHODS)


@pytest.fixture(scope="module")
def tiny(tiny_network: NetworkConfig, tiny_settings: dict[str, Any]) -> Callable[..., Recipe]:
    """Return a builder of tiny recipes: name of the method, then settings at the top."""

    def make(name: str, **changes: Any) -> Recipe:
        tree = {
            "recipe": name,
            "steps": 20,
            "data": {"imgsz": (32, 32), "batch_l": 2, "batch_u": 2},
            "network": tiny_network.model_dump(),
            "method": {"name": name} | tiny_settings[name],
        }
        recipe = validate_recipe(tree | changes)
        return recipe.for_classes(3)

    return make


@pytest.fixture(scope="module")
def measured(tiny: Callable[..., Recipe]) -> Callable[[str], dict[str, Any]]:
    """Return a function that measures a method once."""
    return cache(lambda name: measure_step(tiny(name), "cpu", variant=PLAIN, steps=1, warmup=0))


@pytest.mark.parametrize("name", NAMES)
def test_every_phase_of_a_method_has_its_figures(
    name: str, tiny: Callable[..., Recipe], measured: Callable[[str], dict[str, Any]]
) -> None:
    recipe = tiny(name)
    found = json.loads(json.dumps(measured(name)))
    method = build_method(recipe.method, recipe.network, pretrained=False)
    assert [each["phase"] for each in found["phases"]] == [phase.name for phase in method.phases(20)]
    assert found["tf32"] == {"matmul": False, "conv": False}
    for phase in found["phases"]:
        times = phase["step_ms"]
        assert 0 < times["p10"] <= times["p50"] <= times["p90"]
        assert phase["images_per_s"] == pytest.approx(1000 * phase["images"] / times["p50"])
        assert phase["tflops_per_s"] == pytest.approx(phase["flops_per_step"] / times["p50"] / 1e9)
        assert {"losses", "backward", "optimizer"} <= set(phase["parts"])
        assert 0 < phase["loss_share"] < 1
        assert phase["host_syncs"] is None
        assert (phase["contrast_share"] is not None) == (phase["phase"] == "semi" and name == "u2pl")


def test_operations_grow_with_the_networks_of_a_phase_and_with_the_images(
    tiny: Callable[..., Recipe], measured: Callable[[str], dict[str, Any]]
) -> None:
    phases = {phase["phase"]: phase["flops_per_step"] for phase in measured("eln")["phases"]}
    assert phases["pretrain"] < phases["localize"] < phases["semi"]
    four = tiny("supervised", data={"imgsz": (32, 32), "batch_l": 4})
    found = measure_step(four, "cpu", variant=PLAIN, steps=1, warmup=0)
    (one,), (twice,) = measured("supervised")["phases"], found["phases"]
    assert twice["flops_per_step"] == 2 * one["flops_per_step"]
    assert (one["images"], twice["images"]) == (2, 4)


@pytest.mark.parametrize("name", ["eln", "rrn", "u2pl"])
def test_operations_are_those_of_the_counter_of_pytorch(
    name: str, build: Callable[..., Method], make_batch: Callable[..., Batch]
) -> None:
    method, totals = build(name), []
    phases = method.phases(20)
    batch = make_batch(phases[-1].labeled, phases[-1].unlabeled)
    for counter in (Operations(), FlopCounterMode(display=False)):
        with counter:
            torch.stack(list(method(batch, progress_at(19, phases)).values())).sum().backward()
        totals.append(counter.total if isinstance(counter, Operations) else counter.get_total_flops())
    assert totals[0] == totals[1] > 0


@pytest.mark.parametrize("name", NAMES)
def test_batches_are_as_the_loader_gives_them(
    name: str, tiny: Callable[..., Recipe], tiny_folder: Path
) -> None:
    source = open_source(str(tiny_folder))
    recipe = tiny(name).for_classes(len(source.classes))
    phases = build_method(recipe.method, recipe.network, pretrained=False).phases(20)
    stream = BatchStream(recipe, source, make_partition(source, "4", 0), phases)
    start = 0
    for phase in phases:
        assert _facts(synthetic_batch(recipe, phase, torch.device("cpu"))) == _facts(stream[start])
        start += phase.steps


def test_queues_of_negatives_are_full_of_keys_of_length_one(build: Callable[..., Method]) -> None:
    method = build("u2pl")
    fill_banks(method)
    (bank,) = (module for module in method.modules() if isinstance(module, MemoryBank))
    assert bank.count.tolist() == bank.capacity.tolist() == [40, 30, 30]
    lengths = bank.keys[:-1].float().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-2, rtol=0)


def test_measuring_moves_no_weight_but_takes_whole_steps(tiny: Callable[..., Recipe]) -> None:
    recipe = computed_by(tiny("supervised"), PLAIN)
    engine = built_engine(Hardware("cpu").fabric("fp32"), recipe, PLAIN)
    before = [parameter.clone() for parameter in engine.method.parameters()]
    engine.next_step(iter([synthetic_batch(recipe, engine.phases[0], torch.device("cpu"))]))
    assert all(map(torch.equal, before, engine.method.parameters()))
    assert len(engine.optimizers[0].state) == len(before)


@pytest.mark.parametrize("plain", [True, False])
def test_the_baseline_alone_does_without_fused_optimizers(plain: bool, tiny: Callable[..., Recipe]) -> None:
    variant = PLAIN if plain else StepVariant("fp32", "fp32", channels_last=False, compile=False)
    engine = built_engine(Hardware("cpu").fabric("fp32"), computed_by(tiny("eln"), variant), variant)
    assert all(group["fused"] is not plain for each in engine.optimizers for group in each.param_groups)


def test_a_variant_replaces_what_the_recipe_says_of_computing(tiny: Callable[..., Recipe]) -> None:
    recipe = tiny("eln", precision="fp32", compute={"recompute": True, "channels_last": True})
    plain, bf16 = (computed_by(recipe, variant) for variant in (PLAIN, BF16))
    assert (plain.precision, plain.compute.channels_last, plain.compute.recompute) == ("fp32", False, False)
    assert (bf16.precision, bf16.compute.channels_last, bf16.compute.recompute) == ("bf16", True, True)
    assert not bf16.pretrained


def test_algorithms_of_the_process_are_as_before(
    tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    monkeypatch.setattr(cudnn, "benchmark", False)  # a measurement lets cuDNN try
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    before = matmul.allow_tf32
    found = measure_step(tiny("supervised"), "cpu", variant=PLAIN, steps=1, warmup=0)
    assert found["tf32"] == {"matmul": False, "conv": False}
    assert (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32) == (False, True, before)


@pytest.mark.parametrize(
    ("variant", "device", "steps", "message"),
    [
        (PLAIN, "cpu", 0, "steps is 0 and warmup 0, expected at least 1 and 0"),
        (
            StepVariant("x", "bf16", False, False, plain=True),
            "cpu",
            1,
            "variant x is plain, got precision bf16",
        ),
        (StepVariant("x", "fp16", False, False), "cpu", 1, "fp16 needs a GPU"),
        (StepVariant("x", "fp8", False, False), "cpu", 1, "precision is 'fp8'"),
        (StepVariant("x", "fp32", False, True), "cpu", 1, "got compile and recompute"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    variant: StepVariant, device: str, steps: int, message: str, tiny: Callable[..., Recipe]
) -> None:
    recipe = tiny("supervised", compute={"recompute": True})
    with pytest.raises(RecipeError, match=message):
        measure_step(recipe, device, variant=variant, steps=steps, warmup=0)


def test_a_wait_is_laid_to_the_line_that_caused_it(
    build: Callable[..., Method], batch: Batch, at: Callable[..., Any], recwarn: pytest.WarningsRecorder
) -> None:
    method = build("supervised")

    def wait(*_: Any) -> None:
        warnings.warn(step_bench.MESSAGE, stacklevel=1)  # as PyTorch does on a GPU
        warnings.warn("something else", stacklevel=1)

    with step_bench.collected_warnings() as found:
        wait()
        method.student.decoder.register_forward_hook(wait)  # type: ignore[union-attr]
        method(batch, at("train"))
    outside, inside = found
    assert outside.place.startswith(__file__)
    assert (outside.in_method, inside.in_method) == (False, True)
    assert inside.place.startswith("zoo/models/segmentation.py:")
    assert [str(each.message) for each in recwarn] == ["something else"]


def test_the_contrastive_loss_is_a_part_with_its_gradient(
    build: Callable[..., Method], make_batch: Callable[..., Batch]
) -> None:
    assert _cuts(build("u2pl"), make_batch) == [
        "losses", "teacher", "losses", "teacher", "losses", "student", "losses", "student", "losses",
        "contrast", "losses", "backward", "contrast", "backward",
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["recompute", "compile"])
def test_parts_are_the_same_however_a_step_is_computed(
    change: str, build: Callable[..., Method], make_batch: Callable[..., Batch]
) -> None:
    method, changed = build("eln"), build("eln")
    if change == "recompute":
        recompute_activations(changed.student.encoder.body)  # type: ignore[union-attr, arg-type]
    else:
        for part in compiled_parts(changed):
            part.compile(disable=True)  # called as compiled code is, without the minutes that it takes
    assert _cuts(changed, make_batch) == _cuts(method, make_batch)
    assert not any(each._forward_hooks for each in changed.modules())


@pytest.mark.slow
def test_compiled_steps_have_the_figures_of_eager_ones(
    tiny: Callable[..., Recipe], measured: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "BACKEND", "eager")  # all of torch.compile but the making of kernels
    variant = StepVariant("compiled", "fp32", channels_last=True, compile=True)
    (found,) = measure_step(tiny("supervised"), "cpu", variant=variant, steps=1, warmup=0)["phases"]
    (eager,) = measured("supervised")["phases"]
    assert found["flops_per_step"] == eager["flops_per_step"]
    assert list(found["parts"]) == list(eager["parts"])


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", [PLAIN, BF16], ids=lambda variant: str(variant.name))
def test_no_method_waits_for_a_gpu(name: str, variant: StepVariant, tiny: Callable[..., Recipe]) -> None:
    for phase in measure_step(tiny(name), "cuda", variant=variant, steps=3, warmup=2)["phases"]:
        assert phase["host_syncs"] == 0, phase["sync_places"]
        assert phase["engine_syncs"] >= 1  # whether the gradient is finite: the recorder works
        assert phase["step_ms"]["p10"] > 0
        assert phase["peak_mib"] > 0


def _facts(batch: Batch) -> dict[str, Any]:
    return {
        name: None if value is None else (value.shape, value.dtype) for name, value in batch._asdict().items()
    }


class _Cuts(Watch):
    """Notes which part each cut ends."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.names: list[str] = []

    def cut(self, part: str) -> None:
        self.names.append(part)


def _cuts(method: Method, make_batch: Callable[..., Batch]) -> list[str]:
    """Return the parts of a step of the last phase in their order, up to the end of the backward pass."""
    phases = method.phases(20)
    progress, watch = progress_at(19, phases), _Cuts()
    passes = Passes(method, watch)
    batch = make_batch()
    torch.stack(list(method(batch, progress).values())).sum().backward()
    passes.keep_outermost()
    watch.names.clear()
    losses = torch.stack(list(method(batch, progress).values())).sum()
    watch.cut("losses")
    losses.backward()
    watch.cut("backward")
    passes.remove()
    return watch.names
