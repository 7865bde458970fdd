"""A step must not make the host wait for the device (methods.md F5, 12): by operator, on a GPU by CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoo.train.method import Batch, Method, Progress

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "bincount"}


class NoHostSync(TorchDispatchMode):
    """Raises at every operator whose result the host has to know before it can go on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        by_mask = name in {"index", "index_put", "index_put_", "_index_put_impl_"} and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITING or by_mask:
            raise AssertionError(f"{name} makes the host wait")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "wait",
    [
        lambda value: value.sum().item(),
        lambda value: bool(value.any()),
        lambda value: value[value > 0],
        lambda value: value.nonzero(),
        lambda value: torch.equal(value, value),
        lambda value: value.unique(),
    ],
)
def test_the_check_notices_a_wait(wait: Callable[[torch.Tensor], object]) -> None:
    with NoHostSync(), pytest.raises(AssertionError, match="makes the host wait"):
        wait(torch.ones(3))


def test_the_check_notices_a_wait_in_the_backward_pass() -> None:
    value = torch.ones(3, requires_grad=True)
    value.register_hook(lambda gradient: gradient * gradient.sum().item())
    with NoHostSync(), pytest.raises(AssertionError, match="makes the host wait"):
        value.sum().backward()


def test_no_step_of_a_method_makes_the_host_wait(
    method: Method, make_batch: Callable[..., Batch], at: Callable[..., Progress]
) -> None:
    for phase in method.phases(20):
        batch = make_batch(phase.labeled, phase.unlabeled, strong=phase.strong)
        with NoHostSync():
            method.start_phase(at(phase.name))
            torch.stack(list(method(batch, at(phase.name)).values())).sum().backward()
            method.after_step(at(phase.name))


@pytest.mark.gpu
def test_no_step_on_a_gpu_in_bf16_waits_for_it(
    method: Method, make_batch: Callable[..., Batch], at: Callable[..., Progress]
) -> None:
    method.cuda()
    for phase in method.phases(20):
        batch = make_batch(phase.labeled, phase.unlabeled, strong=phase.strong)
        batch = batch._replace(
            **{name: value.cuda() for name, value in batch._asdict().items() if value is not None}
        )
        method.start_phase(at(phase.name))
        for _ in range(2):  # the first step sets libraries up
            with torch.autocast("cuda", torch.bfloat16):
                losses = torch.stack(list(method(batch, at(phase.name)).values()))
            losses.sum().backward()
            method.after_step(at(phase.name))
            torch.cuda.set_sync_debug_mode("error")
        torch.cuda.set_sync_debug_mode("default")
        assert losses.isfinite().all()


@pytest.fixture(autouse=True)
def _usual_sync() -> Iterator[None]:
    yield
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")
