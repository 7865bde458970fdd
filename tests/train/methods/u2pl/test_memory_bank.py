from __future__ import annotations

import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from zoo.train.blocks.gather import gathered
from zoo.train.methods.u2pl.contrast import ClassContrastConfig
from zoo.train.methods.u2pl.memory_bank import MemoryBank

if TYPE_CHECKING:
    from pathlib import Path

CAPACITIES = (7, 4, 5)


def held(bank: MemoryBank, label: int) -> list[list[float]]:
    """Return the keys of a class, oldest first."""
    start, capacity = int(bank.start[label]), int(bank.capacity[label])
    count, pointer = int(bank.count[label]), int(bank.pointer[label])
    rows = [start + (pointer - count + index) % capacity for index in range(count)]
    keys: list[list[float]] = bank.keys[rows].float().tolist()
    return keys


def unit(features: Tensor) -> Tensor:
    return F.normalize(features, dim=-1).half().float()


def test_each_queue_holds_the_newest_keys_of_its_class_in_order() -> None:
    bank = MemoryBank(CAPACITIES, 3)
    expected: list[deque[list[float]]] = [deque(maxlen=size) for size in CAPACITIES]
    for _ in range(30):
        features, valid = torch.randn(3, 4, 3), torch.rand(3, 4) > 0.4
        bank.push(features, valid)
        for label in range(3):
            expected[label].extend(unit(features[label][valid[label]]).tolist())
            assert held(bank, label) == list(expected[label])
    assert bank.count.tolist() == list(CAPACITIES)


def test_of_more_keys_than_a_queue_holds_the_last_stay() -> None:
    bank = MemoryBank(CAPACITIES, 3)
    bank.push(torch.randn(3, 3, 3), torch.ones(3, 3, dtype=torch.bool))
    features, valid = torch.randn(3, 20, 3), torch.rand(3, 20) > 0.2
    bank.push(features, valid)
    for label, size in enumerate(CAPACITIES):
        assert held(bank, label) == unit(features[label][valid[label]][-size:]).tolist()


def test_keys_have_length_one_in_half_precision() -> None:
    bank = MemoryBank(CAPACITIES, 16)
    bank.push(1e4 * torch.randn(3, 4, 16), torch.ones(3, 4, dtype=torch.bool))
    keys, _ = bank.sample(10)
    assert keys.dtype == torch.half
    torch.testing.assert_close(keys.float().norm(dim=2), torch.ones(3, 10), atol=1e-3, rtol=0)


@pytest.mark.parametrize("broken", [0.0, float("nan"), float("inf")])
def test_a_feature_without_direction_is_left_out(broken: float) -> None:
    bank = MemoryBank(CAPACITIES, 3)
    features = torch.randn(3, 4, 3)
    features[1, 2] = broken
    bank.push(features, torch.ones(3, 4, dtype=torch.bool))
    assert bank.count.tolist() == [4, 3, 4]
    assert bank.keys.isfinite().all()


def test_samples_are_keys_of_their_class_each_equally_often() -> None:
    bank = MemoryBank(CAPACITIES, 3)
    features = torch.randn(3, 3, 3)
    bank.push(features, torch.tensor([[True] * 3, [True, False, True], [False] * 3]))
    keys, filled = bank.sample(9000)
    assert filled.tolist() == [True, True, False]
    same = (keys.float().unsqueeze(2) == unit(features).unsqueeze(1)).all(dim=3).float().mean(dim=1)
    expected = torch.tensor([[1 / 3] * 3, [1 / 2, 0, 1 / 2], [0] * 3])
    torch.testing.assert_close(same, expected, atol=0.02, rtol=0)


def test_an_empty_queue_gives_zeros_and_says_so() -> None:
    keys, filled = MemoryBank(CAPACITIES, 3).sample(2)
    assert not filled.any()
    assert not keys.any()


def test_a_cleared_bank_is_empty_and_fills_again() -> None:
    bank = MemoryBank(CAPACITIES, 3)
    bank.push(torch.randn(3, 4, 3), torch.ones(3, 4, dtype=torch.bool))
    bank.clear()
    assert not bank.sample(1)[1].any()
    features = torch.randn(3, 2, 3)
    bank.push(features, torch.ones(3, 2, dtype=torch.bool))
    assert held(bank, 1) == unit(features[1]).tolist()


def test_a_saved_bank_goes_on_as_the_original() -> None:
    bank, restored = MemoryBank(CAPACITIES, 3), MemoryBank(CAPACITIES, 3)
    everything = torch.ones(3, 3, dtype=torch.bool)
    bank.push(torch.randn(3, 3, 3), everything)
    restored.load_state_dict(bank.state_dict())
    features = torch.randn(3, 3, 3)
    for each in (bank, restored):
        each.push(features, everything)
    assert restored.state_dict().keys() == bank.state_dict().keys() == {"keys", "count", "pointer"}
    assert all(torch.equal(value, restored.state_dict()[name]) for name, value in bank.state_dict().items())


def test_the_bank_keeps_no_graph() -> None:
    bank = MemoryBank(CAPACITIES, 3)
    bank.push(torch.randn(3, 3, 3, requires_grad=True), torch.ones(3, 3, dtype=torch.bool))
    assert not bank.sample(2)[0].requires_grad


@pytest.mark.parametrize(("num_classes", "megabytes"), [(21, 333), (19, 302)])
def test_the_bank_of_the_papers_data_sets_fits_its_budget(num_classes: int, megabytes: int) -> None:
    with torch.device("meta"):  # nothing is allocated
        bank = ClassContrastConfig().build_bank(num_classes)
    size = sum(buffer.numel() * buffer.element_size() for buffer in bank.buffers())
    assert round(size / 1e6) == megabytes
    assert size <= 350e6


def test_a_process_of_its_own_gathers_its_own_value() -> None:
    assert torch.equal(gathered(torch.arange(3)), torch.arange(3).unsqueeze(0))


def test_a_group_of_one_process_gathers_the_same(tmp_path: Path) -> None:
    value = torch.randn(3, 4).T
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert torch.equal(gathered(value), value.unsqueeze(0))
    finally:
        distributed.destroy_process_group()


SCRIPT = """
import sys
from pathlib import Path

import torch
from torch import distributed

from zoo.train.methods.u2pl.memory_bank import MemoryBank

out, rank = Path(sys.argv[1]), int(sys.argv[2])
distributed.init_process_group("gloo", init_method=f"file://{out}/group", rank=rank, world_size=2)
torch.manual_seed(rank)
bank = MemoryBank((7, 4, 5), 3)
for _ in range(3):
    bank.push(torch.randn(3, 2, 3), torch.rand(3, 2) > 0.3)
torch.save(bank.state_dict(), out / f"{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_all_processes_hold_the_same_bank_of_all_their_keys(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    commands = [[sys.executable, str(script), str(tmp_path), str(rank)] for rank in (0, 1)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())

    alone = MemoryBank(CAPACITIES, 3)
    streams = []
    for rank in (0, 1):
        torch.manual_seed(rank)
        streams.append([(torch.randn(3, 2, 3), torch.rand(3, 2) > 0.3) for _ in range(3)])
    for step in zip(*streams, strict=True):
        alone.push(*(torch.cat(parts, dim=1) for parts in zip(*step, strict=True)))
    assert all(torch.equal(value, first[name]) for name, value in alone.state_dict().items())
