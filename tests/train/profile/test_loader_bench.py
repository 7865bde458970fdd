"""The loader's speed is measured on the real loader, and the advice follows from it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from zoo.commands.data.bench import advice_lines
from zoo.commands.train import loading_line
from zoo.data.folder import FolderSource
from zoo.data.partition import make_partition
from zoo.errors import RecipeError
from zoo.train.data.loaders import BatchStream
from zoo.train.data.streams import TrainingData
from zoo.train.method import Phase
from zoo.train.profile import loading
from zoo.train.profile.loader_bench import advise, bench
from zoo.train.profile.loading import endless_stream, part_seconds, plan_loading, rate_of, widest_phase
from zoo.train.profile.plan import _step_seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

ROWS = [
    {"workers": workers, "cache": cache, "images_per_s": speed}
    for (workers, cache), speed in {
        (0, "none"): 20.0,
        (2, "none"): 40.0,
        (4, "none"): 78.0,
        (2, "memory"): 85.0,
        (2, "disk"): 80.0,
        (4, "disk"): 81.0,
    }.items()
]


def settings(need: float | None, *, memory_holds_all: bool = True) -> tuple[int, str, bool | None]:
    advice = advise(ROWS, need, memory_holds_all=memory_holds_all)
    return advice["workers"], advice["cache"], advice["feeds"]


def test_the_simplest_settings_that_are_fast_enough_are_advised() -> None:
    assert settings(None) == (4, "none", None)  # within a tenth of the best
    assert settings(30) == (2, "none", True)
    assert settings(36.5) == (4, "none", True)  # 40 would be too close
    assert settings(75) == (2, "memory", True)
    assert settings(73, memory_holds_all=False) == (4, "disk", True)


def test_what_feeds_nothing_is_said_with_the_nearest_settings() -> None:
    assert settings(100) == (2, "memory", False)
    lines = advice_lines(advise(ROWS, 170.0, memory_holds_all=True), 0.5)
    assert lines[-1] == (
        "No measured setting keeps up with the step. Nearest: --set data.workers=2 --set data.cache=memory "
        "(85 images/s, the step needs 170): the step would wait 50% of its time."
    )
    assert "which is too close" in advice_lines(advise(ROWS, 84.0, memory_holds_all=True), 0.5)[-1]


def test_memory_that_is_too_small_is_not_advised() -> None:
    lines = advice_lines(advise(ROWS, None, memory_holds_all=False), 80.0)
    assert lines[:2] == [
        "All images decoded: 80.00 GB.",
        "They do not fit in half of the free memory: the memory cache is not recommended.",
    ]


def test_the_widest_phase_is_the_one_with_the_most_views(load_tiny: Load) -> None:
    phase = widest_phase(load_tiny())
    assert (phase.name, phase.unlabeled, phase.strong) == ("semi", 1, 1)
    assert phase.steps == loading.ENDLESS


@pytest.mark.parametrize("workers", [0, 1])
def test_the_rate_counts_the_images_of_whole_batches(workers: int, load_tiny: Load) -> None:
    recipe = load_tiny()
    source = FolderSource(recipe.data.spec)
    stream = endless_stream(recipe, source, make_partition(source, "4", 0), widest_phase(recipe))
    rate = rate_of(stream, workers, 0.05)
    assert rate.images >= 2 * 4
    assert rate.images % 4 == 0
    assert rate.seconds >= 0.05
    assert rate.idle is None or 0 <= rate.idle <= 1


def test_the_parts_are_those_of_a_batch_and_none_is_counted_twice(
    load_tiny: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by one whenever it is read: each call of a part takes one."""
    recipe = load_tiny()
    source = FolderSource(recipe.data.spec)
    stream = endless_stream(recipe, source, make_partition(source, "4", 0), widest_phase(recipe))
    ticks = iter(range(10**6))
    monkeypatch.setattr(loading.time, "process_time", lambda: next(ticks))
    parts = part_seconds(stream, 3)
    assert parts["read and decode"] == parts["weak view"] == 1.0  # of every image
    assert parts["strong view"] == 0.5  # of the unlabeled ones
    assert parts["share"] == 0.25  # of a batch of four
    reads = 2 * (4 + 4 + 2)  # of the clock, within a batch
    assert parts["join"] == pytest.approx((reads + 1 - 10) / 4)


def test_the_idle_share_is_of_what_passed() -> None:
    before, after = [100, 0, 100, 800, 0], [150, 0, 150, 870, 30]
    assert loading._idle_share(before, after) == pytest.approx(0.5)
    assert loading._idle_share(None, after) is None


def test_variants_take_turns_and_leave_nothing(load_tiny: Load, tmp_path: Path) -> None:
    recipe = load_tiny({"data.cache_dir": str(tmp_path / "pixels"), "data.imgsz": [32, 32]})
    source = FolderSource(recipe.data.spec)
    seen: list[tuple[int, int]] = []
    found = bench(
        recipe,
        source,
        [0],
        seconds=0.03,
        step_ms=1e6,
        on_round=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(number, 9) for number in range(1, 10)]
    assert [(row["workers"], row["cache"]) for row in found["variants"]] == [
        (0, "none"), (0, "memory"), (0, "disk"),
    ]  # fmt: skip
    assert all(len(row["each_round"]) == 3 and min(row["each_round"]) > 0 for row in found["variants"])
    assert found["variants"][0]["ratio"] == 1.0
    assert found["parts"]["none"]["read and decode"] > 0
    # ten training images, of which four have their masks read
    assert found["decoded_gb"] == pytest.approx((10 * 3 + 4) * 36 * 40 / 1e9)
    assert found["advice"]["feeds"] is True
    assert list((tmp_path / "pixels").iterdir()) == []
    assert json.dumps(found)


def test_a_plan_compares_the_loader_with_the_steps(load_tiny: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_tiny({"data.workers": 0, "accumulate": 2})
    source = FolderSource(recipe.data.spec)
    data = TrainingData(recipe, source, make_partition(source, "4", 0))
    monkeypatch.setattr("zoo.train.profile.loading.SECONDS", 0.05)
    slow = plan_loading(data, {"pretrain": 1.0, "semi": 1e4})
    assert (slow["phase"], slow["workers"], slow["feeds"]) == ("semi", 0, True)
    assert slow["need"] == pytest.approx(2 * (2 + 2) / 1e4)
    assert slow["workers_needed"] == 1
    fast = plan_loading(data, {"pretrain": 1.0, "semi": 1e-4})
    assert fast["feeds"] is False
    assert fast["workers_needed"] >= fast["need"] * fast["cpu_ms"] / 1000


def test_what_a_step_would_take_without_the_wait_for_its_batch_is_planned_with() -> None:
    figures = {"semi": {"uncut_step_ms": 800.0, "parts": {"data": {"share": 0.25}}}}
    phase = Phase("semi", 9)
    assert _step_seconds(phase, figures, {}, 4) == {"step_s": 0.8, "fed_step_s": pytest.approx(0.6)}
    assert _step_seconds(phase, None, {2: figures}, 4)["fed_step_s"] == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("device", "figures", "expected"),
    [
        ("cuda:0", {"feeds": True}, "Loader: 50 images/s by 2 workers, 40 are taken by semi."),
        ("cuda:0", {"workers_needed": 7}, "20.0 ms of a core an image: take --set data.workers=7."),
        ("cuda:0", {"workers_needed": 9}, "would take 9 workers, more than the 8 cores here: keep decoded"),
        ("cpu", {"workers_needed": 7}, "beside the steps on the same 8 cores: try --set data.cache=memory."),
    ],
)
def test_a_plan_says_how_many_workers_would_feed_the_steps(
    device: str, figures: dict[str, Any], expected: str
) -> None:
    loading = {
        "phase": "semi", "workers": 2, "images_per_s": 50.0, "need": 40.0, "feeds": False, "cpu_ms": 20.0,
        "workers_needed": 3, "cores": 8,
    }  # fmt: skip
    assert expected in loading_line(loading | figures, device)


def test_a_partition_without_the_images_of_the_method_is_an_error_of_one_line(load_tiny: Load) -> None:
    recipe = load_tiny({"data.partition": "10"})
    with pytest.raises(RecipeError, match="all 10 images are labeled and eln needs others"):
        bench(recipe, FolderSource(recipe.data.spec), [0], seconds=0.1)


def test_measuring_leaves_the_random_state_alone(load_tiny: Load) -> None:
    recipe = load_tiny()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    widest_phase(recipe)
    source = FolderSource(recipe.data.spec)
    stream = endless_stream(recipe, source, make_partition(source, "4", 0), widest_phase(recipe))
    assert isinstance(stream, BatchStream)
    part_seconds(stream, 1)
    assert torch.equal(torch.get_rng_state(), before)
