from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from zoo.classes import IGNORE
from zoo.train.method import Batch, Phase, Progress, progress_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.methods.eln.eln import Eln

    Build = Callable[..., Eln]
    At = Callable[..., Progress]
    TrustAll = Callable[[Eln], Eln]


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [p.grad for p in module.parameters()]


def vector(module: nn.Module) -> Tensor:
    """Return all parameters and buffers in one vector."""
    return torch.cat([value.flatten().double() for value in module.state_dict().values()])


def randomize(module: nn.Module) -> None:
    with torch.no_grad():
        for value in module.state_dict().values():
            value.copy_(torch.rand(value.shape) * 10)


def test_the_teacher_never_gets_a_gradient(
    build_eln: Build, trust_all: TrustAll, batch: Batch, at: At
) -> None:
    method = trust_all(build_eln())
    torch.stack(list(method(batch, at("semi")).values())).sum().backward()
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert all(grad is None for grad in gradients(method.teacher))


def test_the_teacher_starts_the_semi_phase_as_the_student_buffers_included(build_eln: Build, at: At) -> None:
    method = build_eln()
    randomize(method.student)
    for phase in ("pretrain", "localize"):
        method.start_phase(at(phase))
    assert not torch.equal(vector(method.teacher), vector(method.student))
    method.start_phase(at("semi"))
    assert torch.equal(vector(method.teacher), vector(method.student))


@pytest.mark.parametrize("phase_step", [0, 1, 100])
def test_the_teacher_moves_by_the_same_share_from_the_first_step(
    phase_step: int, build_eln: Build, at: At
) -> None:
    method = build_eln()
    randomize(method.student)
    pairs = list(zip(method.teacher.parameters(), method.student.parameters(), strict=True))
    expected = [(0.995 * t + 0.005 * s).detach() for t, s in pairs]
    method.after_step(at("semi", phase_step))
    for got, value in zip(method.teacher.parameters(), expected, strict=True):
        torch.testing.assert_close(got.detach(), value)


@pytest.mark.parametrize("phase", ["pretrain", "localize"])
def test_before_the_semi_phase_a_step_moves_neither_network(phase: str, build_eln: Build, at: At) -> None:
    method = build_eln(reset_every=1)
    randomize(method.student)
    before = vector(method.teacher), vector(method.student)
    method.after_step(at(phase))
    assert torch.equal(vector(method.teacher), before[0])
    assert torch.equal(vector(method.student), before[1])


@pytest.mark.parametrize("period", [0, 1, 3, 4])
def test_the_student_is_put_back_to_the_teacher_before_each_further_whole_period_of_the_run(
    period: int, build_eln: Build
) -> None:
    method = build_eln(reset_every=period)
    phases = (Phase("pretrain", 4), Phase("semi", 6))
    put_back = []
    for step in range(4, 10):
        randomize(method.student)
        method.after_step(progress_at(step, phases))
        if torch.equal(vector(method.student), vector(method.teacher)):
            put_back.append(step)
    assert put_back == {0: [], 1: [4, 5, 6, 7, 8], 3: [6], 4: []}[period]


def test_padding_gets_no_pseudo_label(build_eln: Build, trust_all: TrustAll, batch: Batch) -> None:
    method = trust_all(build_eln())
    image, valid = batch.weak
    valid[0, :, 16:] = False
    _, pseudo_label = method.teach(image, valid)
    assert (pseudo_label[0, :, 4:] == IGNORE).all()
    assert (pseudo_label[0, :, :4] != IGNORE).all()
    assert (pseudo_label[1] != IGNORE).all()


def test_a_pseudo_label_is_the_teachers_class_where_the_filter_trusts_it(
    build_eln: Build, batch: Batch
) -> None:
    method = build_eln(filter={"kind": "confidence", "confidence_threshold": 0.4})
    image, valid = batch.weak
    _, pseudo_label = method.teach(image, valid)
    with torch.no_grad():
        confidence, predicted = method.teacher(image).logits.softmax(dim=1).max(dim=1)
    assert torch.equal(pseudo_label, predicted.where(confidence > 0.4, IGNORE))
    assert 0 < (pseudo_label == IGNORE).sum() < pseudo_label.numel()


def test_without_a_trusted_pixel_the_unlabeled_losses_are_zeros_with_a_gradient(
    build_eln: Build, batch: Batch, at: At
) -> None:
    method = build_eln()
    losses = method(batch._replace(valid_u=torch.zeros(2, 32, 32, dtype=torch.bool)), at("semi"))
    unlabeled = [losses[name] for name in ("pseudo", "pseudo_s", "con", "con_s")]
    torch.stack(unlabeled).sum().backward()
    assert [loss.item() for loss in unlabeled] == [0, 0, 0, 0]
    assert all(grad is None or not grad.any() for grad in gradients(method.student))


def test_in_training_the_teacher_has_no_dropout_but_its_own_batch_statistics(build_eln: Build) -> None:
    method = build_eln()
    layers = list(method.teacher.modules())
    assert not any(m.training for m in layers if isinstance(m, nn.Dropout))
    assert all(m.training for m in layers if isinstance(m, nn.BatchNorm2d))
    assert any(m.training for m in method.student.modules() if isinstance(m, nn.Dropout))


def test_a_semi_step_moves_the_teachers_batch_statistics(build_eln: Build, batch: Batch, at: At) -> None:
    method = build_eln()
    before = vector(method.teacher)
    method(batch, at("semi"))
    assert not torch.equal(vector(method.teacher), before)


def test_pseudo_labels_live_on_the_decoders_grid(
    build_eln: Build, trust_all: TrustAll, batch: Batch, at: At
) -> None:
    # windows of the whole grid: of one class alone the contrast would be 0
    method = trust_all(build_eln(window_size=8))
    image, valid = batch.weak
    with torch.no_grad():  # else one class may have nearly all pixels, and nothing to contrast
        logits = method.teacher(image).logits
        method.teacher.decoder.segment[-1].bias -= logits.mean(dim=(0, 2, 3))
    valid[0, 16:] = False
    embedding, pseudo_label = method.teach(image, valid)
    assert pseudo_label.shape == (2, 8, 8)
    assert embedding is not None
    assert embedding.shape[-2:] == (8, 8)
    assert torch.equal((pseudo_label[0] == IGNORE).any(dim=1), torch.arange(8) >= 4)
    losses = method(batch, at("semi"))
    assert all(losses[name] > 0 for name in ("pseudo", "pseudo_s", "con", "con_s"))


def test_a_teacher_with_averaged_batch_norm_follows_the_students_statistics(
    build_eln: Build, batch: Batch, at: At
) -> None:
    method = build_eln(teacher_batch_norm="ema")
    assert not any(m.training for m in method.teacher.modules())
    before = vector(method.teacher)
    method(batch, at("semi"))
    assert torch.equal(vector(method.teacher), before)  # a pass moves none of them
    randomize(method.student)
    buffers = {name: value for name, value in method.teacher.named_buffers() if value.is_floating_point()}
    students = dict(method.student.named_buffers())
    expected = {name: 0.995 * value + 0.005 * students[name] for name, value in buffers.items()}
    method.after_step(at("semi"))
    for name, value in expected.items():
        torch.testing.assert_close(buffers[name], value)


def test_a_teacher_with_its_own_batch_norm_takes_none_from_the_student(build_eln: Build, at: At) -> None:
    method = build_eln(teacher_batch_norm="own")
    randomize(method.student)
    before = [value.clone() for value in method.teacher.buffers()]
    method.after_step(at("semi"))
    assert all(torch.equal(*pair) for pair in zip(before, method.teacher.buffers(), strict=True))


def test_making_pseudo_labels_keeps_nothing_for_a_backward_pass(build_eln: Build, batch: Batch) -> None:
    method = build_eln()
    judged = []
    method.filter.localizer.register_forward_hook(lambda *call: judged.append(call[-1]))
    image, valid = batch.weak
    embedding, _ = method.teach(image, valid)
    assert len(judged) == 1
    assert not judged[0].requires_grad
    assert embedding is not None
    assert not embedding.requires_grad
