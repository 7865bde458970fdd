from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from zoo.classes import IGNORE
from zoo.train.blocks.losses import balanced_binary_cross_entropy, cross_entropy
from zoo.train.methods.eln.filters import FILTERS, ConfidenceFilter, ErrorLocalizationFilter, FilterConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.models.config import NetworkConfig

    Build = Callable[..., ErrorLocalizationFilter]


@pytest.fixture
def build(tiny_network: NetworkConfig) -> Callable[..., nn.Module]:
    def make(**settings: Any) -> nn.Module:
        config = FilterConfig(encoder=tiny_network.encoder, **settings)
        return FILTERS[config.kind](config, tiny_network, pretrained=False).train()

    return make


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 32, 32)


def with_constant_logit(localization: ErrorLocalizationFilter, logit: float) -> ErrorLocalizationFilter:
    head = localization.localizer.decoder.segment[-1]
    assert isinstance(head, nn.Conv2d)
    assert head.bias is not None
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, logit)
    return localization


def everywhere(*shape: int) -> Tensor:
    """Return that no pixel is padding."""
    return torch.ones(shape, dtype=torch.bool)


def running_statistics(module: nn.Module) -> Tensor:
    means = [m.running_mean for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    return torch.cat([mean for mean in means if mean is not None]).clone()


@pytest.mark.parametrize(("logit", "trusted"), [(-1e-3, False), (0.0, False), (1e-3, True)])
def test_a_pixel_is_trusted_above_one_half_and_not_at_it(
    logit: float, trusted: bool, build: Build, image: Tensor
) -> None:
    judgment = with_constant_logit(build(), logit).trusted(image, torch.randn(2, 3, 8, 8))
    assert judgment.dtype == torch.bool
    assert judgment.shape == (2, 8, 8)
    assert (judgment == trusted).all()


@pytest.mark.parametrize(("threshold", "trusted"), [(0.7, True), (0.75, False)])
def test_the_threshold_is_one_of_the_probability(
    threshold: float, trusted: bool, build: Build, image: Tensor
) -> None:
    localization = with_constant_logit(build(threshold=threshold), 1.0)  # a probability of 0.731
    assert (localization.trusted(image, torch.randn(2, 3, 8, 8)) == trusted).all()


def test_the_judgment_comes_on_the_grid_of_the_prediction(build: Build, image: Tensor) -> None:
    assert build().trusted(image, torch.randn(2, 3, 2, 3)).shape == (2, 2, 3)


@pytest.mark.parametrize("kind", ["eln", "s-ecn"])
def test_the_loss_trains_the_localizer_and_nothing_else(kind: str, build: Build, image: Tensor) -> None:
    localization = build(kind=kind)
    predictions = [torch.randn(2, 3, 32, 32, requires_grad=True) for _ in range(3)]
    localization.loss(
        image.requires_grad_(), predictions, torch.randint(3, (2, 32, 32)), everywhere(2, 32, 32)
    ).backward()
    assert all(p.grad is not None for p in localization.localizer.parameters())
    assert all(prediction.grad is None for prediction in predictions)


def test_the_loss_is_eq_6_over_all_predictions(build: Build, image: Tensor) -> None:
    localization = with_constant_logit(build(), 0.7)
    predictions = [torch.randn(2, 3, 32, 32) for _ in range(3)]
    label = torch.randint(3, (2, 32, 32))
    counted = everywhere(2, 32, 32)
    judged = torch.full((2, 32, 32), 0.7)
    terms = [balanced_binary_cross_entropy(judged, p.argmax(dim=1) == label, counted) for p in predictions]
    torch.testing.assert_close(
        localization.loss(image, predictions, label, everywhere(*label.shape)), torch.stack(terms).mean()
    )


def test_the_sum_of_the_authors_code_is_the_mean_times_the_number_of_predictions(
    build: Build, image: Tensor
) -> None:
    predictions, label = [torch.randn(2, 3, 32, 32)] * 3, torch.randint(3, (2, 32, 32))
    losses = []
    for reduction in ("mean", "sum"):
        torch.manual_seed(1)  # the same weights and dropout
        losses.append(build(reduction=reduction).loss(image, predictions, label, everywhere(*label.shape)))
    torch.testing.assert_close(losses[1], 3 * losses[0])


def test_a_void_pixel_counts_as_an_error_of_the_prediction(build: Build) -> None:
    judged = torch.tensor([[[[2.0, 2.0, 2.0]]]], requires_grad=True)
    predicted, label = torch.tensor([[[1, 1, 0]]]), torch.tensor([[[1, 1, IGNORE]]])
    build().term(judged, predicted, label, everywhere(*label.shape)).backward()
    right, wrong = torch.tensor([-2.0, 2.0]).sigmoid().tolist()
    expected = torch.tensor([[[[-right, -right, 2 * wrong]]]]) / 3  # two right pixels, one wrong one
    torch.testing.assert_close(judged.grad, expected)


def test_padding_is_neither_an_error_nor_in_the_balance(build: Build) -> None:
    judged = torch.randn(1, 1, 4, 9, requires_grad=True)
    predicted, label = torch.randint(2, (1, 4, 9)), torch.randint(2, (1, 4, 9))
    label[..., 6:] = IGNORE
    valid = label != IGNORE
    label[..., 0] = IGNORE  # void, which is no padding
    localization = build()
    term = localization.term(judged, predicted, label, valid)
    inside = [value[..., :6] for value in (judged, predicted, label, valid)]
    torch.testing.assert_close(term, localization.term(*inside))
    term.backward()
    assert judged.grad is not None
    assert not judged.grad[..., 6:].any()
    assert judged.grad[..., 0].any()


def test_the_localizer_is_trained_without_the_padding_of_labeled_images(build: Build, image: Tensor) -> None:
    localization = with_constant_logit(build(), 0.7)
    predictions = [torch.randn(2, 3, 32, 32) for _ in range(2)]
    label = torch.randint(3, (2, 32, 32))
    label[:, 20:] = IGNORE
    judged = torch.full((2, 32, 32), 0.7)
    terms = [
        balanced_binary_cross_entropy(judged, p.argmax(dim=1) == label, label != IGNORE) for p in predictions
    ]
    loss = localization.loss(image, predictions, label, label != IGNORE)
    torch.testing.assert_close(loss, torch.stack(terms).mean())


@pytest.mark.parametrize(("scores", "alike"), [("probabilities", True), ("logits", False)])
def test_probabilities_hide_a_shift_of_all_logits(
    scores: str, alike: bool, build: Build, image: Tensor
) -> None:
    localization, logits = build(scores=scores).eval(), torch.randn(2, 3, 32, 32)
    first, second = localization.judge(image, logits), localization.judge(image, logits + 1)
    assert torch.allclose(first, second, atol=1e-5) == alike


def test_judging_in_evaluation_mode_leaves_the_running_statistics(build: Build, image: Tensor) -> None:
    localization = build(batch_norm="eval")
    before = running_statistics(localization)
    localization.trusted(image, torch.randn(2, 3, 8, 8))
    assert torch.equal(running_statistics(localization), before)


def test_judging_in_training_mode_moves_the_running_statistics(build: Build, image: Tensor) -> None:
    localization = build(batch_norm="train")
    before = running_statistics(localization)
    localization.trusted(image, torch.randn(2, 3, 8, 8))
    assert not torch.equal(running_statistics(localization), before)


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_judging_uses_no_dropout_and_leaves_the_modes(batch_norm: str, build: Build, image: Tensor) -> None:
    localization, logits = build(batch_norm=batch_norm), torch.randn(2, 3, 8, 8)
    seen = []
    localization.localizer.register_forward_hook(lambda *call: seen.append(call[-1]))
    for _ in range(2):
        localization.trusted(image, logits)
    assert torch.equal(*seen)
    assert all(module.training for module in localization.modules())


def test_s_ecn_learns_the_labels_and_leaves_void_pixels_out(build: Build) -> None:
    judged, label = torch.randn(1, 3, 4, 4), torch.randint(3, (1, 4, 4))
    label[0, 0] = IGNORE
    term = build(kind="s-ecn").term(judged, torch.zeros(1, 4, 4), label, everywhere(1, 4, 4))
    torch.testing.assert_close(term, cross_entropy(judged, label))


def test_s_ecn_trusts_the_pixels_it_would_not_correct(build: Build) -> None:
    corrected = torch.eye(3)[[0, 1, 2]].T.view(1, 3, 1, 3)
    predicted = torch.eye(3)[[0, 2, 2]].T.view(1, 3, 1, 3)
    assert build(kind="s-ecn").believes(corrected, predicted).tolist() == [[[True, False, True]]]


def test_s_ecn_has_one_output_for_each_class(build: Build, image: Tensor) -> None:
    assert build(kind="s-ecn").judge(image, torch.randn(2, 3, 32, 32)).shape == (2, 3, 8, 8)


def test_the_confidence_rule_needs_more_than_its_threshold(tiny_network: NetworkConfig) -> None:
    rule = ConfidenceFilter(FilterConfig(confidence_threshold=0.5), tiny_network, pretrained=False)
    logits = torch.tensor([[0.0, 0.0], [0.1, 0.0], [-9.0, 9.0]]).T.view(1, 2, 1, 3)
    assert rule.trusted(torch.empty(1, 3, 4, 12), logits).tolist() == [[[False, True, True]]]
    assert not list(rule.parameters())


@pytest.mark.parametrize("settings", [{"threshold": 1}, {"confidence_threshold": 0}, {"kind": "none"}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        FilterConfig(**settings)
