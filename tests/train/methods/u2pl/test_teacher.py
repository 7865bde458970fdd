from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from zoo.models.decoders.decoder import entropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.models.config import NetworkConfig
    from zoo.train.method import Batch, Progress
    from zoo.train.methods.u2pl.u2pl import U2pl

    Build = Callable[..., U2pl]
    At = Callable[..., Progress]


@pytest.fixture
def build_u2pl(build: Callable[..., Any]) -> Build:
    """Return a builder of tiny methods in training mode; keyword arguments change the settings."""
    return partial(build, "u2pl")


def calls(module: nn.Module) -> list[bool]:
    """Return a list that grows with each forward pass of a module by whether it was in training mode."""
    seen: list[bool] = []
    module.register_forward_hook(lambda module, args, output: seen.append(module.training))  # noqa: ARG005
    return seen


def batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]


def equal_states(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("alpha", [0.2, 0.05])
@pytest.mark.parametrize("quantile", ["global", "local"])
def test_the_share_that_is_kept_is_one_minus_alpha_of_the_pixels_that_are_no_padding(
    quantile: str, alpha: float, build_u2pl: Build, batch: Batch
) -> None:
    assert batch.valid_u is not None
    batch.valid_u[0, :, 20:] = False
    output = build_u2pl(quantile=quantile).teach(batch, alpha)
    count = output.valid.sum()
    assert output.reliable.sum() / count == pytest.approx(1 - alpha, abs=2 / count.item())
    assert output.lowest.sum() / count == pytest.approx(alpha, abs=2 / count.item())
    assert not (output.reliable & ~output.valid).any()
    assert not (output.lowest & ~output.reliable).any()


def test_reliable_pixels_are_those_of_low_entropy(
    build_u2pl: Build, batch: Batch, tiny_network: NetworkConfig
) -> None:
    method = build_u2pl(teacher_batch_norm="ema")
    output = method.teach(batch, 0.3)
    logits = method.teacher(output.images[2:]).logits
    doubt = entropy(nn.functional.interpolate(logits, size=(32, 32), mode="bilinear", align_corners=True))
    doubt = doubt.squeeze(1)
    assert doubt[output.reliable].max() < doubt[~output.reliable].min()
    assert doubt[output.lowest].max() <= doubt[~output.lowest].min()
    torch.testing.assert_close(
        output.prob, method.teacher(output.images).logits.softmax(dim=1), atol=1e-5, rtol=0
    )
    assert output.prob.shape[1] == tiny_network.num_classes


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0.0), (1.0, 0.5)])
def test_images_padding_and_pseudo_labels_are_mixed_by_the_same_boxes(
    probability: float, expected: float, build_u2pl: Build, batch: Batch
) -> None:
    assert batch.image_u is not None
    assert batch.valid_u is not None
    batch.valid_u[0] = False  # so that validity says which image a pixel is from
    method = build_u2pl(cutmix_probability=probability, teacher_batch_norm="ema").eval()
    output = method.teach(batch, 0.2)
    assert torch.equal(output.images[:2], batch.image_l)
    own = output.valid == torch.tensor([False, True]).view(2, 1, 1)
    image, other = batch.image_u, batch.image_u.flip(0)
    assert torch.equal(output.images[2:], torch.where(own.unsqueeze(1), image, other))
    whole = method.teacher(image).logits
    whole = nn.functional.interpolate(whole, size=(32, 32), mode="bilinear", align_corners=True).argmax(dim=1)
    assert torch.equal(output.label, torch.where(own, whole, whole.flip(0)))
    assert (~own).float().mean() == pytest.approx(expected, abs=0.04)


def test_a_step_takes_one_pass_of_the_student_and_two_of_the_teacher(
    build_u2pl: Build, batch: Batch, at: At
) -> None:
    method = build_u2pl()
    student, teacher = calls(method.student.encoder.body), calls(method.teacher)
    method(batch, at("semi"))
    assert student == [True]
    assert teacher == [False, True]
    assert all(module.training for module in method.modules())


def test_the_teacher_starts_as_the_student_in_weights_and_statistics(build_u2pl: Build, at: At) -> None:
    method = build_u2pl()
    for parameter in method.student.parameters():
        nn.init.uniform_(parameter)
    for norm in batch_norms(method.student):
        nn.init.uniform_(norm.running_mean)
    method.start_phase(at("sup"))
    assert not equal_states(method.student, method.teacher)
    method.start_phase(at("semi"))
    assert equal_states(method.student, method.teacher)


def test_the_teacher_follows_by_a_decay_that_ramps_up(build_u2pl: Build, at: At) -> None:
    method = build_u2pl(ema_decay=0.9)
    student, teacher = (next(each.parameters()) for each in (method.student, method.teacher))
    with torch.no_grad():
        teacher.zero_()
        for step, value in enumerate((1.0, 2.0, 3.0)):
            student.fill_(value)
            method.after_step(at("semi", step))
    # decays 0, 1/2, 2/3: the mean of what was seen
    torch.testing.assert_close(teacher, torch.full_like(teacher, 2.0))


def test_the_decay_ends_its_ramp_at_its_value(build_u2pl: Build, at: At) -> None:
    method = build_u2pl(ema_decay=0.9)
    student, teacher = (next(each.parameters()) for each in (method.student, method.teacher))
    with torch.no_grad():
        teacher.zero_()
        student.fill_(1.0)
    method.after_step(at("semi", 500))
    torch.testing.assert_close(teacher, torch.full_like(teacher, 0.1))


def test_the_teacher_rests_during_the_warm_start(build_u2pl: Build, at: At) -> None:
    method = build_u2pl()
    before = [value.clone() for value in method.teacher.state_dict().values()]
    nn.init.uniform_(next(method.student.parameters()))
    method.after_step(at("sup"))
    assert all(map(torch.equal, before, method.teacher.state_dict().values()))


@pytest.mark.parametrize("mode", ["own", "ema"])
def test_the_teachers_statistics_are_its_own_or_averages(
    mode: str, build_u2pl: Build, batch: Batch, at: At
) -> None:
    method = build_u2pl(teacher_batch_norm=mode, ema_decay=0.5)
    own, other = (batch_norms(each)[0].running_mean for each in (method.teacher, method.student))
    before = own.clone()
    method(batch, at("semi"))
    assert torch.equal(own, before) == (mode == "ema")
    seen = own.clone()
    method.after_step(at("semi", 50))  # after the ramp
    torch.testing.assert_close(own, seen if mode == "own" else (seen + other) / 2)
