"""The parts of a step: each moment belongs to one, and measuring changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning_fabric import Fabric

from zoo.errors import RecipeError
from zoo.train.loop import compute
from zoo.train.loop.compute import compiled_parts, recompute_activations
from zoo.train.loop.hardware import Hardware
from zoo.train.loop.step import TrainingStep
from zoo.train.method import DRAWS, Batch, progress_at
from zoo.train.methods.table import build_method
from zoo.train.profile import parts as module
from zoo.train.profile.parts import PartTimer, Passes
from zoo.train.profile.profile import ProfiledStep, profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.method import Method
    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

CPU = Hardware("cpu")
STEPS = 2
SHARED = ["data", "student", "losses", "backward", "optimizer", "update"]


class Clock:
    """A clock that goes on by what happens."""

    def __init__(self) -> None:
        self.time = 0.0

    def perf_counter(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def watch(clock: Clock) -> PartTimer:  # noqa: ARG001
    watch = PartTimer(torch.device("cpu"))
    watch.running = True
    watch.begin()
    return watch


@pytest.fixture(scope="module")
def found(load_tiny: Load, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the profile of a tiny ELN."""
    return profile(load_tiny(), tmp_path_factory.mktemp("runs") / "run", CPU, steps=STEPS)


def test_every_stretch_of_time_belongs_to_the_part_that_ends_it(clock: Clock, watch: PartTimer) -> None:
    for seconds, part in (
        (1.0, "data"),
        (2.0, "student"),
        (0.5, "losses"),
        (3.0, "student"),
        (1.5, "update"),
    ):
        clock.time += seconds
        watch.cut(part)
    parts = watch.parts(steps=2)
    assert {name: part["ms"] for name, part in parts.items()} == {
        "data": 500,
        "student": 2500,
        "losses": 250,
        "update": 750,
    }
    assert sum(part["share"] or 0 for part in parts.values()) == pytest.approx(1)


def test_a_watch_that_does_not_run_counts_nothing(clock: Clock, watch: PartTimer) -> None:
    watch.running = False
    clock.time += 1
    watch.cut("data")
    assert watch.seconds == {}


def test_every_phase_has_its_parts_in_the_order_of_a_step(found: dict[str, Any]) -> None:
    networks = {
        "pretrain": [],
        "localize": ["auxiliary", "filter"],
        "semi": ["auxiliary", "filter", "teacher"],
    }
    assert {name: list(phase["parts"]) for name, phase in found["phases"].items()} == {
        name: [*SHARED[:2], *others, *SHARED[2:]] for name, others in networks.items()
    }


def test_the_parts_add_up_to_the_step(found: dict[str, Any]) -> None:
    for phase in found["phases"].values():
        parts = phase["parts"].values()
        assert sum(part["ms"] for part in parts) == pytest.approx(phase["step_ms"])
        assert sum(part["share"] for part in parts) == pytest.approx(1)
        assert all(part["ms"] > 0 for part in parts)


def test_the_cut_steps_take_about_as_long_as_whole_ones(found: dict[str, Any]) -> None:
    cut, uncut = (
        sum(phase[key] for phase in found["phases"].values()) for key in ("step_ms", "uncut_step_ms")
    )
    assert 1 / 3 < cut / uncut < 3  # a part counted twice, or a pass left out, is more on an idle machine


def test_a_profile_is_all_that_is_left(found: dict[str, Any]) -> None:
    (left,) = Path(found["run"]).iterdir()
    assert left.name == "profile.json"
    assert found == json.loads(left.read_text()) | {"run": found["run"]}


def test_several_devices_are_refused(load_tiny: Load, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="got --devices 2: leave it out"):
        profile(load_tiny(), tmp_path / "run", Hardware("cpu", 2))


def test_a_run_is_not_overwritten(load_tiny: Load, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").touch()
    with pytest.raises(RecipeError, match="holds a run already"):
        profile(load_tiny(), tmp_path, CPU)


def test_the_outermost_calls_are_the_passes_and_hooks_can_be_removed(
    method: Method, make_batch: Callable[..., Batch], watch: PartTimer
) -> None:
    phase, progress = method.phases(20)[-1], progress_at(19, method.phases(20))
    batch = make_batch(phase.labeled, phase.unlabeled, strong=phase.strong)
    passes = Passes(method, watch)
    seen = []
    for _ in range(2):
        passes.outermost.clear()
        method(batch, progress)
        seen.append(set(passes.outermost))
        passes.keep_outermost()
    assert seen[0] == seen[1] != set()
    assert passes.depth == 0
    passes.remove()
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in method.modules())


def test_the_contrastive_loss_is_a_part_with_its_gradient(
    build: Callable[..., Method], make_batch: Callable[..., Batch]
) -> None:
    assert cuts(build("u2pl"), make_batch) == [
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
    assert cuts(changed, make_batch) == cuts(method, make_batch)
    assert not any(each._forward_hooks for each in changed.modules())


@pytest.mark.slow
def test_compiled_steps_have_the_parts_of_eager_ones(
    load_tiny: Load, found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "BACKEND", "eager")  # all of torch.compile but the making of kernels
    compiled = profile(load_tiny({"compute.compile": True}), tmp_path / "run", CPU, steps=STEPS)
    assert compiled["recipe"]["compute"]["compile"]
    for name, phase in found["phases"].items():
        assert list(compiled["phases"][name]["parts"]) == list(phase["parts"])


@pytest.mark.gpu
def test_the_parts_of_a_step_on_a_gpu_have_their_peaks(load_tiny: Load, tmp_path: Path) -> None:
    recipe = load_tiny({"precision": "bf16"})
    for phase in profile(recipe, tmp_path / "run", Hardware("cuda"), steps=STEPS)["phases"].values():
        assert phase["uncut_step_ms"] > 0
        assert all(part["peak_mib"] > 0 for part in phase["parts"].values())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_measuring_changes_no_weight(
    accumulate: int, load_tiny: Load, make_uint8_batch: Callable[[], Batch]
) -> None:
    recipe = load_tiny({"accumulate": accumulate}).for_classes(3)
    parts = [make_uint8_batch() for _ in range(accumulate)]
    weights = []
    for kind in (TrainingStep, ProfiledStep):
        torch.manual_seed(0)
        method = build_method(recipe.method, recipe.network, pretrained=False).train()
        train_step = kind(Fabric(accelerator="cpu", devices=1), method, recipe)
        if isinstance(train_step, ProfiledStep):
            train_step.watch.running = True
            train_step.watch.begin()
            Passes(method, train_step.watch)
        train_step(parts, progress_at(recipe.steps - 1, method.phases(recipe.steps)))
        weights.append(method.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.fixture
def make_uint8_batch() -> Callable[[], Batch]:
    """Return a builder of two images of each kind, as a loader gives them."""

    def make() -> Batch:
        images = torch.randint(256, (3, 2, 3, 32, 32), dtype=torch.uint8)
        label = torch.randint(3, (2, 32, 32))
        valid = torch.ones(2, 32, 32, dtype=torch.bool)
        return Batch(images[0], label, valid, images[1], valid, images[2], torch.rand(2, DRAWS))

    return make


class Cuts(PartTimer):
    """Notes which part each cut ends."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.names: list[str] = []

    def cut(self, part: str) -> None:
        self.names.append(part)


def cuts(method: Method, make_batch: Callable[..., Batch]) -> list[str]:
    """Return the parts of a step of the last phase in their order, up to the end of the backward pass."""
    phases = method.phases(20)
    progress, watch = progress_at(19, phases), Cuts()
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
