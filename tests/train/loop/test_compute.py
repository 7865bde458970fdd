"""Switches of how steps are computed: none changes the steps beyond rounding."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, distributed, nn

from zoo.models.encoder import TimmEncoder, build_encoder
from zoo.train.blocks.ema import set_dropout
from zoo.train.loop import compute
from zoo.train.loop.compute import CpuSyncBatchNorm, prepare, synchronize_batch_norm
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.table import METHODS
from zoo.train.recipe.schema import ComputeConfig
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zoo.train.method import Batch, Method, Progress
    from zoo.train.recipe.schema import Recipe

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _usual_algorithms() -> Iterator[None]:
    yield
    prepare(nn.Identity(), ComputeConfig(), CPU, 1)


def step(method: Method, batch: Batch, progress: Progress) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the losses and the gradients of a step, from a known random state."""
    torch.manual_seed(1)
    losses = method(batch, progress)
    torch.stack(list(losses.values())).sum().backward()
    return losses, {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def assert_same_step(
    build_method: Callable[[], Method],
    config: ComputeConfig,
    make_batch: Callable[..., Batch],
    at: Callable[..., Progress],
    *,
    dropout: bool = True,
    **near: float,
) -> None:
    """Compare a step of each phase of a method that is prepared with that of one that is not."""
    changed, plain = build_method(), build_method()
    changed.load_state_dict(plain.state_dict())
    for method in (changed, plain):
        set_dropout(method, active=dropout)
        for value in (*method.parameters(), *method.buffers()):
            value.data = value.double() if value.dtype == torch.float32 else value
    parameters = list(changed.parameters())
    prepare(changed, config, CPU, 1)
    assert all(one is other for one, other in zip(parameters, changed.parameters(), strict=True))
    for phase in plain.phases(20):
        batch = make_batch(phase.labeled, phase.unlabeled, strong=phase.strong)
        images = {
            name: value.double()
            for name, value in batch._asdict().items()
            if name.startswith("image_") and value is not None
        }
        batch, found = batch._replace(**images), []
        for method in (changed, plain):
            torch.manual_seed(2)
            method.start_phase(at(phase.name))
            method.zero_grad()
            found.append((step(method, batch, at(phase.name)), dict(method.named_buffers())))
        ((losses, gradients), buffers), ((plain_losses, plain_gradients), plain_buffers) = found
        assert gradients.keys() == plain_gradients.keys()
        for got, expected in ((losses, plain_losses), (gradients, plain_gradients), (buffers, plain_buffers)):
            for name, value in expected.items():
                torch.testing.assert_close(
                    got[name], value, **near, msg=lambda text, name=name: f"{name}: {text}"
                )


@pytest.mark.parametrize("name", METHODS)
def test_a_step_in_channels_last_is_the_same_step(name: str, build: Any, make_batch: Any, at: Any) -> None:
    config = ComputeConfig(channels_last=True)
    # dropout draws its numbers in the order of the memory; U2PL keeps its keys in half precision
    assert_same_step(partial(build, name), config, make_batch, at, dropout=False, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_that_computes_activations_again_is_the_same_bit_for_bit(
    name: str, build: Any, make_batch: Any, at: Any
) -> None:
    assert_same_step(partial(build, name), ComputeConfig(recompute=True), make_batch, at, rtol=0, atol=0)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "supervised" else pytest.mark.slow) for name in METHODS]
)
def test_a_compiled_step_is_the_same_step(
    name: str, build: Any, make_batch: Any, at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "BACKEND", "eager")  # it traces all, and generates no code
    assert_same_step(partial(build, name), ComputeConfig(compile=True), make_batch, at, rtol=1e-6, atol=1e-9)


def test_what_is_compiled_has_no_breaks(tiny_network: Any) -> None:
    encoder = build_encoder(tiny_network.encoder)
    prepare(encoder, ComputeConfig(compile=True), CPU, 1)
    explained = torch._dynamo.explain(encoder.body.forward)(torch.zeros(2, 3, 32, 32))
    assert (explained.graph_break_count, explained.graph_count) == (0, 1)


def kept_bytes(encoder: TimmEncoder) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, parameters aside."""
    kept = {}
    own = {p.data_ptr() for p in encoder.parameters()}

    def pack(value: Tensor) -> Tensor:
        if value.data_ptr() not in own:
            kept[value.data_ptr()] = value.nbytes
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        held = encoder(torch.randn(2, 3, 64, 64))
    del held
    return sum(kept.values())


@pytest.mark.parametrize("name", ["resnet18", "test_vit2", "eva02_tiny_patch14_224"])
def test_activations_that_are_computed_again_are_not_kept(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name).train()
    before = kept_bytes(encoder)
    prepare(encoder, ComputeConfig(recompute=True), CPU, 1)
    assert kept_bytes(encoder) < before / 2


@pytest.mark.parametrize("name", ["test_vit2", "eva02_tiny_patch14_224", "xcit_nano_12_p16_224"])
def test_blocks_of_a_plain_transformer_that_are_computed_again_change_nothing(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name).train()
    changed = copy.deepcopy(encoder)
    prepare(changed, ComputeConfig(recompute=True), CPU, 1)
    images = torch.randn(2, 3, 48, 64)
    for each in (encoder, changed):
        torch.manual_seed(1)
        torch.stack([features.square().mean() for features in each(images)]).sum().backward()
    for (key, expected), found in zip(encoder.named_parameters(), changed.parameters(), strict=True):
        assert torch.equal(found.grad, expected.grad), key
    assert all(torch.equal(*pair) for pair in zip(encoder.buffers(), changed.buffers(), strict=True))


def test_repeatable_algorithms_are_asked_for_and_given_back() -> None:
    prepare(nn.Identity(), ComputeConfig(deterministic=True), CPU, 1)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    prepare(nn.Identity(), ComputeConfig(), CPU, 1)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


def test_compiling_and_recomputing_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="got compile and recompute, expected one of them"):
        ComputeConfig(compile=True, recompute=True)


def test_the_layout_is_the_one_of_the_device_unless_it_is_named() -> None:
    assert ComputeConfig().layout(torch.device("cuda")) == torch.channels_last
    assert ComputeConfig().layout(CPU) == torch.contiguous_format
    assert ComputeConfig(channels_last=False).layout(torch.device("cuda")) == torch.contiguous_format


@pytest.mark.parametrize("changes", [{"compute.channels_last": True}, {"compute.recompute": True}])
def test_a_run_in_another_layout_is_resumed_bit_for_bit(
    load_tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr("zoo.train.session.write_curves", lambda *_: None)
    recipe = load_tiny(changes | {"checkpoint_every": 6})
    start(recipe, tmp_path / "whole", Hardware("cpu"))
    whole = (tmp_path / "whole/bundle/model.safetensors").read_bytes()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("zoo.train.session.score", stop)
        patch.setattr("zoo.train.loop.validation.score", stop)
        with pytest.raises(KeyboardInterrupt):
            start(recipe, tmp_path / "broken", Hardware("cpu"))
    resume(tmp_path / "broken", "eln", Hardware("cpu"))
    assert (tmp_path / "broken/bundle/model.safetensors").read_bytes() == whole


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """Be one process of one."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_of_one_process_is_batch_norm(momentum: float | None, affine: bool) -> None:
    plain = nn.BatchNorm2d(3, momentum=momentum, affine=affine).double()
    synchronized = CpuSyncBatchNorm(nn.BatchNorm2d(3, momentum=momentum, affine=affine).double())
    for _ in range(3):
        image = 5 + 2 * torch.randn(4, 3, 5, 6, dtype=torch.float64)
        ways = [image.clone().requires_grad_() for _ in range(2)]
        outputs = [norm(way) for norm, way in zip((plain, synchronized), ways, strict=True)]
        torch.testing.assert_close(outputs[1], outputs[0])
        for output in outputs:
            (output**3).sum().backward()
        torch.testing.assert_close(ways[1].grad, ways[0].grad)
    torch.testing.assert_close(dict(synchronized.state_dict()), dict(plain.state_dict()))
    torch.testing.assert_close(synchronized.eval()(image), plain.eval()(image))


@pytest.mark.usefixtures("group")
def test_batch_norm_of_one_process_counts_in_float32_where_features_are_halves() -> None:
    plain, synchronized = nn.BatchNorm2d(3), CpuSyncBatchNorm(nn.BatchNorm2d(3))
    image = (5 + 2 * torch.randn(4, 3, 25, 31)).bfloat16()  # 3,100 pixels, which bfloat16 cannot count
    output = synchronized(image)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, plain(image.float()).bfloat16())
    torch.testing.assert_close(dict(synchronized.state_dict()), dict(plain.state_dict()))


@pytest.mark.parametrize(("device", "kind"), [("cpu", CpuSyncBatchNorm), ("cuda", nn.SyncBatchNorm)])
def test_synchronizing_keeps_names_parameters_and_activations(
    tiny_network: Any, device: str, kind: type[nn.Module]
) -> None:
    encoder = build_encoder(tiny_network.encoder).eval()
    image, names = torch.randn(1, 3, 32, 32), list(encoder.state_dict())
    parameters = list(encoder.parameters())
    before = encoder(image)
    synchronize_batch_norm(encoder, torch.device(device))
    assert sum(isinstance(m, kind) for m in encoder.modules()) > 10
    assert list(encoder.state_dict()) == names
    assert all(one is other for one, other in zip(parameters, encoder.parameters(), strict=True))
    torch.testing.assert_close(encoder(image), before, rtol=0, atol=0)
