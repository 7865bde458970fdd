"""A step must not make the host wait for the device (methods.md F5, 12): by operator, on a GPU by CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.train.methods.eln import contrast
from zoo.train.methods.table import METHODS

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


class OneDevice(TorchDispatchMode):
    """Raises at every operator that moves values between host and device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, torch.Tensor)]
        if func is torch.ops.aten._to_copy.default and len({each.device.type for each in tensors}) > 1:
            raise AssertionError(f"{func.name()} moves values between devices")
        return result


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
    method: Method,
    make_batch: Callable[..., Batch],
    at: Callable[..., Progress],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contrast, "_is_fast", lambda *_: False)  # the way of a GPU
    for phase in method.phases(20):
        batch = make_batch(phase.labeled, phase.unlabeled, strong=phase.strong)
        with NoHostSync():
            method.start_phase(at(phase.name))
            torch.stack(list(method(batch, at(phase.name)).values())).sum().backward()
            method.after_step(at(phase.name))


@pytest.mark.parametrize(
    ("move", "error"),
    [
        (lambda value: torch.tensor([0.5, 2.0], device=value.device), AssertionError),
        (lambda value: value.new_tensor([0.5, 2.0]), AssertionError),
        (lambda value: value.cpu(), AssertionError),
        (lambda value: value.sum().item(), DataDependentOutputException),
    ],
)
def test_the_check_notices_values_that_travel(
    move: Callable[[torch.Tensor], object], error: type[Exception]
) -> None:
    with FakeTensorMode(), OneDevice():
        value = torch.ones(3, device="cuda")
        with pytest.raises(error):
            move(value)


@pytest.mark.parametrize(
    "case", [*METHODS, "eln-official", "rrn-official", "u2pl-official", "u2pl-ohem-auxiliary"], indirect=True
)
def test_no_value_travels_between_host_and_gpu_in_a_forward_pass_and_the_hooks(
    method: Method, make_batch: Callable[..., Batch], at: Callable[..., Progress]
) -> None:
    """No GPU takes part: tensors without values say what they would do on one."""
    phases = method.phases(20)
    batches = [make_batch(phase.labeled, phase.unlabeled, strong=phase.strong) for phase in phases]
    with FakeTensorMode():
        _move(method)
        for phase, batch in zip(phases, batches, strict=True):
            moved = {name: _on_gpu(value) for name, value in batch._asdict().items() if value is not None}
            with OneDevice():
                method.start_phase(at(phase.name))
                losses = method(batch._replace(**moved), at(phase.name))
                method.after_step(at(phase.name))
            assert all(loss.device.type == "cuda" for loss in losses.values())


def _on_gpu(value: torch.Tensor) -> torch.Tensor:
    return torch.empty(value.shape, dtype=value.dtype, device="cuda")


def _move(method: Method) -> None:
    """Replace all weights and buffers by tensors without values that seem to be on a GPU."""
    for module in method.modules():
        for name, weight in module.named_parameters(recurse=False):
            module._parameters[name] = torch.nn.Parameter(_on_gpu(weight), requires_grad=weight.requires_grad)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = _on_gpu(buffer)


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
