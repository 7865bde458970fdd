"""What a run would need: lines through measured batches, and how near they come to what is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from zoo import memory
from zoo.errors import RecipeError
from zoo.train.loop.hardware import Hardware
from zoo.train.profile.memory_fit import (
    Curve,
    curve_through,
    fit_sizes,
    fixed_parts,
    largest_batch,
    with_batch,
)
from zoo.train.profile.plan import _error, _whole, plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.method import Batch, Method, Progress
    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

CPU = Hardware("cpu")
CLOSE = 0.05
EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Lets glibc give every tensor's pages back at once: what stays of freed ones is noise of tens of MiB."""
BASE = "program and libraries"


def test_a_line_goes_through_its_points() -> None:
    line = curve_through([(6, 160.0), (2, 120.0)])
    assert line == Curve(fixed=100.0, each=10.0)
    assert line.at(12) == 220
    assert line.images_in(220) == 12


def test_three_points_that_bend_upwards_are_on_a_parabola_others_near_a_line() -> None:
    real = Curve(fixed=100.0, each=10.0, square=0.5)
    found = curve_through([(images, real.at(images)) for images in (2, 6, 9)])
    assert found == pytest.approx(real)
    assert real.images_in(real.at(40)) == pytest.approx(40)
    assert curve_through([(2, 120.0), (4, 150.0), (6, 160.0)]) == Curve(fixed=100.0, each=10.0)


@pytest.mark.parametrize("batch", range(4, 40))
def test_the_batches_of_the_fit_are_smaller_than_the_one_that_is_predicted(batch: int) -> None:
    small, large = fit_sizes(batch)
    assert 2 <= small < large < batch


def test_the_largest_batch_is_that_of_the_hungriest_phase() -> None:
    lines = {"warm": Curve(100, 10), "semi": Curve(200, 10)}
    each = {"warm": 1.0, "semi": 3.0}  # one labeled and two unlabeled images
    assert largest_batch(lines, each, 1000) == 26
    assert lines["semi"].at(3 * 26) <= 1000 < lines["semi"].at(3 * 27)
    assert largest_batch(lines, each, 150) == 0
    assert largest_batch({"warm": Curve(100, 0)}, {"warm": 1.0}, 1000) is None


def test_unlabeled_images_keep_their_proportion(load_tiny: Load) -> None:
    data = with_batch(load_tiny({"data.batch_l": 2, "data.batch_u": 6}), 5).data
    assert (data.batch_l, data.batch_u) == (5, 15)


def test_the_error_is_that_of_the_highest_peak_and_unknown_for_a_batch_of_the_fit() -> None:
    phases = {
        "warm": {"predicted_mib": 90.0, "measured_mib": 100.0},
        "semi": {"predicted_mib": 220.0, "measured_mib": 200.0},
    }
    assert _error(phases, is_new=True)["error"] == pytest.approx(0.1)
    assert _error(phases, is_new=False)["error"] is None
    phases["semi"]["measured_mib"] = None  # type: ignore[assignment]
    assert _error(phases, is_new=True) == {"predicted_mib": 220, "measured_mib": None, "error": None}


@pytest.mark.parametrize(
    ("every", "select_on", "evaluations"), [(0, None, 1), (4, None, 3), (5, None, 2), (4, "1/5", 4)]
)
def test_a_run_takes_its_steps_and_its_evaluations(
    every: int, select_on: str | None, evaluations: int, load_tiny: Load
) -> None:
    phases = {"warm": {"steps": 4, "step_s": 2.0}, "semi": {"steps": 6, "step_s": 3.0}}
    whole = _whole(phases, load_tiny({"validate_every": every, "select_on": select_on}), 7.0)
    assert (whole["evaluations"], whole["seconds"]) == (evaluations, 26 + 7 * evaluations)


def test_weights_gradients_and_moments_are_counted(
    build: Callable[..., Method], batch: Batch, at: Callable[..., Progress]
) -> None:
    method = build("u2pl")
    (optimizer,) = method.optimizers()
    total = sum(method(batch, at("semi")).values())
    total.backward()  # type: ignore[union-attr]
    optimizer.step()
    parts = fixed_parts(method, [optimizer])
    weights = sum(p.numel() for p in method.student.parameters()) * 4 / 2**20  # type: ignore[union-attr]
    assert parts["student"] == pytest.approx(parts["teacher"])
    assert parts["student"] == pytest.approx(weights, rel=0.02)  # and the statistics of BatchNorm
    assert parts["gradients"] == pytest.approx(weights)
    assert parts["optimizers"] in (pytest.approx(weights), pytest.approx(2 * weights, rel=1e-3))


def test_a_limit_of_the_control_group_counts_without_pages_that_can_be_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "GROUPS", [(tmp_path, "max", "used", "inactive_file")])
    assert memory._of_group() is None
    (tmp_path / "max").write_text(f"{100 * 2**20}\n")
    (tmp_path / "used").write_text(f"{70 * 2**20}\n")
    (tmp_path / "memory.stat").write_text(f"active_file 5\ninactive_file {20 * 2**20}\n")
    assert memory._of_group() == 50
    (tmp_path / "max").write_text("max\n")
    assert memory._of_group() is None


def test_several_devices_are_refused(load_tiny: Load) -> None:
    with pytest.raises(RecipeError, match="--plan measures one process, got --devices 2"):
        plan(load_tiny(), Hardware("cpu", 2))


SMALL = (
    "--device cpu --imgsz 80,80 --batch 9 --partition 4 --steps 40 --no-pretrained "
    "--set data.workers=0 --set network.encoder=test_resnet"
)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["supervised", "eln", "u2pl"])
def test_the_predicted_peak_is_near_the_measured_one(method: str, tiny_folder: Path) -> None:
    own = ["--set", "method.filter.encoder=test_resnet"] if method == "eln" else []
    command = [sys.executable, "-m", "zoo", "train", method, "--recipe", f"{method}_shapes", *SMALL.split()]
    command += ["--data", str(tiny_folder), *own, "--plan", "--json"]
    result = subprocess.run(command, env=os.environ | EXACT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    if found["predicted_mib"] is None:
        pytest.skip("this system does not count memory")
    assert found["batch"] not in found["fitted"]
    base = found["memory"][BASE]  # some hundred MiB, beside which any prediction would look good
    grown, predicted = found["measured_mib"] - base, found["predicted_mib"] - base
    assert predicted == pytest.approx(grown, rel=CLOSE)
    assert found["error"] == pytest.approx((predicted - grown) / found["measured_mib"])
    assert found["largest_batch"] >= found["batch"]
    assert all(phase["step_s"] >= phase["fed_step_s"] > 0 for phase in found["phases"].values())
    assert found["loading"]["images_per_s"] > 0
    assert found["loading"]["phase"] in found["phases"]
