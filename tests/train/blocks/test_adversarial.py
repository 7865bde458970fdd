from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from zoo.classes import IGNORE
from zoo.models.discriminator import Discriminator, DiscriminatorConfig
from zoo.preprocess import Preprocessing, normalize
from zoo.train.blocks.adversarial import (
    DiscriminatorOptimizerConfig,
    adversarial_loss,
    discriminator_loss,
    feature_matching,
    frozen,
    one_hot,
    self_training,
    unit_range,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    AssertSame = Callable[..., None]


EVERYWHERE = torch.ones(1, 1, 1, dtype=torch.bool)


@pytest.fixture
def discriminator() -> Discriminator:
    """Return a discriminator of four regions, in double precision, without dropout."""
    config = DiscriminatorConfig(level="patch", width=2, cell=1)
    return Discriminator(2, config).double().eval()


def pairs(count: int) -> Tensor:
    return torch.rand(count, 5, 32, 32, dtype=torch.float64)


def literal_feature_matching(real: Tensor, fake: Tensor) -> Tensor:
    """s4GAN Eq. 2, one feature at a time: the distance of two means, averaged over the features."""
    distances = []
    for k in range(real.shape[1]):
        mean_real = sum(row[k] for row in real) / len(real)
        mean_fake = sum(row[k] for row in fake) / len(fake)
        distances.append((mean_real - mean_fake).abs())
    return torch.stack(distances).sum() / real.shape[1]


def literal_discriminator_loss(discriminator: Discriminator, real: Tensor, fake: Tensor) -> Tensor:
    """s4GAN Eq. 5, negative and halved: one pair and one region at a time."""
    total = real.new_zeros(())
    for kind, is_real in ((real, True), (fake.detach(), False)):
        for each in kind:
            regions = discriminator(each.unsqueeze(0)).score.flatten()
            for score in regions:
                prob = 1 / (1 + (-score).exp())
                term = prob.log() if is_real else (1 - prob).log()
                total = total - term / len(regions) / len(kind) / 2
    return total


def literal_self_training(logits: Tensor, weight: Tensor) -> Tensor:
    """RRN Eq. 3 per weighted pixel: the weight of a pixel times -log of its own largest probability."""
    total, count = logits.new_zeros(()), 0
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in weight.shape)).tolist():
        if weight[b, y, x] > 0:
            prob = logits[b, :, y, x].exp() / logits[b, :, y, x].exp().sum()
            total = total - weight[b, y, x] * prob[int(prob.argmax())].log()
            count += 1
    return total / count


def test_feature_matching_is_its_formula(assert_same: AssertSame) -> None:
    real, fake = torch.randn(3, 7, dtype=torch.float64), torch.randn(2, 7, dtype=torch.float64)
    assert_same(feature_matching, literal_feature_matching, real, fake)


def test_features_with_the_same_mean_match() -> None:
    real = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert feature_matching(real, torch.tensor([[2.0, 4.0]])).item() == 0
    assert feature_matching(real, torch.tensor([[0.0, 5.0]])).item() == 1.5


def test_the_discriminators_loss_is_its_formula_for_its_weights(discriminator: Discriminator) -> None:
    real, fake = pairs(3), pairs(2)
    results = []
    for loss in (discriminator_loss, literal_discriminator_loss):
        discriminator.zero_grad()
        value = loss(discriminator, real, fake)
        value.backward()
        results.append([value.detach(), *(p.grad.clone() for p in discriminator.parameters())])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


def test_regions_of_padding_are_not_learned(discriminator: Discriminator) -> None:
    valid = torch.ones(3, 32, 32, dtype=torch.bool)
    valid[:, :, 16:] = False  # the regions on the right
    judged = discriminator(torch.cat([real := pairs(2), fake := pairs(1)]), valid).score[..., 0]
    expected = (-judged[:2].sigmoid().log().mean() - (1 - judged[2:].sigmoid()).log().mean()) / 2
    torch.testing.assert_close(discriminator_loss(discriminator, real, fake, valid), expected)


def test_the_range_of_the_batch_is_not_that_of_padding() -> None:
    images, valid = torch.tensor([-9.0, 0.0, 2.0, 9.0]).expand(1, 3, 1, 4), torch.tensor([0, 1, 1, 0]).bool()
    assert unit_range(images, "batch_minmax", None, valid.view(1, 1, 4))[0, 0, 0, 1:3].tolist() == [0, 1]


def test_predictions_get_no_gradient_from_the_discriminators_loss(discriminator: Discriminator) -> None:
    fake = pairs(2).requires_grad_()
    discriminator_loss(discriminator, pairs(2), fake).backward()
    assert fake.grad is None


def test_a_discriminator_that_cannot_tell_has_a_loss_of_log_two(discriminator: Discriminator) -> None:
    nn.init.zeros_(discriminator.head.weight)
    nn.init.zeros_(discriminator.head.bias)
    assert discriminator_loss(discriminator, pairs(1), pairs(4)).item() == pytest.approx(0.693147, abs=1e-6)


def test_the_generators_loss_is_minus_the_log_of_being_real(assert_same: AssertSame) -> None:
    def literal(score: Tensor) -> Tensor:
        return torch.stack([-(1 / (1 + (-each).exp())).log() for each in score.flatten()]).mean()

    assert_same(adversarial_loss, literal, torch.randn(2, 3, 3, dtype=torch.float64))


def test_scores_of_any_size_give_finite_losses() -> None:
    score = torch.tensor([-1e4, 0.0, 1e4], requires_grad=True)
    loss = adversarial_loss(score)
    loss.backward()
    assert loss.isfinite()
    assert score.grad is not None
    assert score.grad.isfinite().all()


def test_self_training_is_its_formula(assert_same: AssertSame) -> None:
    logits = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    weight = torch.randint(3, (2, 3, 5))
    assert_same(partial(self_training, weight=weight), partial(literal_self_training, weight=weight), logits)


def test_self_training_of_nothing_is_an_exact_zero_with_a_gradient() -> None:
    logits = torch.randn(2, 4, 3, 5, requires_grad=True)
    loss = self_training(logits, torch.zeros(2, 1, 1))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_weight_for_each_image_is_one_for_each_of_its_pixels() -> None:
    logits = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    by_image = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1)
    expected = self_training(logits[[0, 2]], torch.ones(2, 2, 2))
    torch.testing.assert_close(self_training(logits, by_image), expected)


def test_one_hot_marks_the_class_and_leaves_unknown_pixels_empty() -> None:
    label = torch.tensor([[[0, IGNORE], [1, 2]]])
    expected = [[[[1, 0], [0, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 1]]]]
    assert one_hot(label, 3).tolist() == expected
    assert one_hot(label, 3, torch.bfloat16).dtype == torch.bfloat16


def test_the_fixed_range_is_that_of_the_pixels() -> None:
    raw = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    encoder = SimpleNamespace(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    images = normalize(raw, Preprocessing(imgsz=(4, 4), mean=encoder.mean, std=encoder.std))
    seen = unit_range(images, "fixed", encoder, EVERYWHERE.expand(2, 4, 4))
    torch.testing.assert_close(seen, raw.float() / 255, atol=1e-6, rtol=0)


def test_the_range_of_the_batch_maps_its_extremes_to_0_and_1() -> None:
    images = torch.tensor([-2.0, 0.0, 2.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert unit_range(images, "batch_minmax", None, EVERYWHERE.expand(3, 2, 2))[:, 0, 0, 0].tolist() == [
        0,
        0.5,
        1,
    ]
    assert unit_range(torch.ones(1, 3, 2, 2), "batch_minmax", None, EVERYWHERE).isfinite().all()


def test_a_frozen_module_passes_gradients_to_its_input_and_takes_none(discriminator: Discriminator) -> None:
    fake = pairs(1).requires_grad_()
    with frozen(discriminator):
        score = discriminator(fake).score.sum()
    score.backward()
    assert fake.grad is not None
    assert fake.grad.any()
    assert all(p.grad is None for p in discriminator.parameters())
    assert all(p.requires_grad for p in discriminator.parameters())


def test_parameters_that_were_frozen_before_stay_so_after_an_error(discriminator: Discriminator) -> None:
    discriminator.head.requires_grad_(False)
    with pytest.raises(KeyError), frozen(discriminator):
        raise KeyError
    assert not any(p.requires_grad for p in discriminator.head.parameters())
    assert all(p.requires_grad for p in discriminator.body.parameters())


def test_a_discriminator_learns_as_in_the_papers() -> None:
    (group,) = DiscriminatorOptimizerConfig().build([(nn.Linear(2, 2), 1.0)]).param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.99), 0)
