from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from zoo.classes import IGNORE
from zoo.train.methods.u2pl.contrast import (
    ClassContrast,
    ClassContrastConfig,
    TeacherTargets,
    binary,
    info_nce,
)

if TYPE_CHECKING:
    from collections.abc import Callable

K, D = 5, 6


def build(num_classes: int = K, **settings: Any) -> ClassContrast:
    tiny = {"embedding_channels": D, "anchors_per_class": 8, "negatives_per_class": 5, "bank_sizes": (50, 50)}
    return ClassContrast(ClassContrastConfig.model_validate(tiny | settings), num_classes)


def teach(num_classes: int = K, size: int = 8) -> TeacherTargets:
    """Return two labeled and two unlabeled images at random, unlabeled pixels reliable or not."""
    prob = (3 * torch.randn(4, num_classes, size, size)).softmax(dim=1)
    uncertain = torch.rand(2, size, size) < 0.4
    label = torch.randint(num_classes, (2, size, size))
    label[0, :2] = IGNORE
    pseudo_label = prob[2:].argmax(dim=1).where(~uncertain, IGNORE)
    return TeacherTargets(torch.randn(4, D, size, size), prob, torch.cat([label, pseudo_label]), uncertain)


def literal_similarities(anchor: Tensor, positive: Tensor, negatives: Tensor) -> tuple[Tensor, list[Tensor]]:
    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum() / (a * a).sum().sqrt() / (b * b).sum().sqrt()

    return cosine(anchor, positive), [cosine(anchor, negative) for negative in negatives]


def literal_info_nce(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Eq. (4) for each class, one anchor at a time."""
    classes = []
    for c in range(len(anchors)):
        total = anchors.new_zeros(())
        for anchor in anchors[c]:
            positive, others = literal_similarities(anchor, positives[c], negatives[c])
            near = (positive / temperature).exp()
            total = total - (near / (near + sum((each / temperature).exp() for each in others))).log()
        classes.append(total / anchors.shape[1])
    return torch.stack(classes)


def literal_binary(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Eq. (A1) for each class, one anchor and negative at a time."""
    classes = []
    for c in range(len(anchors)):
        total = anchors.new_zeros(())
        for anchor in anchors[c]:
            positive, others = literal_similarities(anchor, positives[c], negatives[c])
            near = (positive / temperature).exp()
            for other in others:
                total = total - (near / (near + (other / temperature).exp())).log()
        classes.append(total / anchors.shape[1] / negatives.shape[1])
    return torch.stack(classes)


@pytest.mark.parametrize(("loss", "literal"), [(info_nce, literal_info_nce), (binary, literal_binary)])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_losses_equal_their_formulas(
    loss: Any, literal: Any, temperature: float, assert_same: Callable[..., None]
) -> None:
    shapes = ((3, 4, D), (3, D), (3, 5, D))
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    weight = torch.randn(3, dtype=torch.float64)
    fast, slow = (partial(each, temperature=temperature) for each in (loss, literal))
    assert_same(lambda *x: (weight * fast(*x)).sum(), lambda *x: (weight * slow(*x)).sum(), *tensors)


def literal_negatives(taught: TeacherTargets, ranks: tuple[int, int]) -> Tensor:
    """Eq. (13) to (15), one pixel and class at a time; void labels are no negatives."""
    result = torch.zeros_like(taught.prob, dtype=torch.bool)
    count = len(taught.prob) - len(taught.uncertain)
    for b, c, y, x in torch.cartesian_prod(*map(torch.arange, result.shape)).tolist():
        prob = taught.prob[b, :, y, x]
        rank = int((prob > prob[c]).sum())
        if b < count:
            label = int(taught.label[b, y, x])
            result[b, c, y, x] = label not in (c, IGNORE) and rank < ranks[0]
        else:
            result[b, c, y, x] = bool(taught.uncertain[b - count, y, x]) and ranks[0] <= rank < ranks[1]
    return result


@pytest.mark.parametrize(
    ("num_classes", "ranks", "clipped"),
    [
        (23, (3, 20), (3, 20)),
        (5, (3, 20), (3, 20)),
        (5, (1, 3), (1, 3)),
        (3, (3, 20), (2, 20)),
        (2, (3, 20), (1, 20)),
    ],
)
def test_negatives_are_those_of_the_paper(
    num_classes: int, ranks: tuple[int, int], clipped: tuple[int, int]
) -> None:
    taught = teach(num_classes, size=6)
    got = build(num_classes, ranks=ranks).is_negative(taught)
    assert torch.equal(got, literal_negatives(taught, clipped))
    assert got.any(dim=(0, 2, 3)).all()


def test_without_the_rank_threshold_a_pixel_is_a_negative_of_all_classes_but_its_own() -> None:
    taught = teach()
    labeled, unlabeled = build(rank_threshold=False).is_negative(taught).tensor_split(2)
    known = taught.label[:2] != IGNORE
    assert torch.equal(labeled.sum(dim=1), (K - 1) * known)
    assert torch.equal(unlabeled.sum(dim=1), (K - 1) * taught.uncertain)
    assert not unlabeled.gather(1, taught.prob[2:].argmax(dim=1, keepdim=True)).any()


def test_only_negatives_of_a_class_enter_its_queue() -> None:
    contrast, taught = build(pushes=1000, bank_sizes=(1000, 1000)), teach()
    contrast(torch.randn(4, D, 8, 8), taught)
    pixels = F.normalize(taught.embedding, dim=1).half().movedim(1, 3)
    for c, member in enumerate(contrast.is_negative(taught).unbind(dim=1)):
        start, count = int(contrast.bank.start[c]), int(contrast.bank.count[c])
        queued = contrast.bank.keys[start : start + count]
        assert sorted(queued.tolist()) == sorted(pixels[member].tolist())


def test_no_more_than_the_limit_enter_a_queue_in_a_step() -> None:
    contrast = build(pushes=7)
    for step in (1, 2):
        contrast(torch.randn(4, D, 8, 8), teach())
        assert contrast.bank.count.tolist() == [7 * step] * K


def test_without_the_bank_there_are_only_the_negatives_of_the_step() -> None:
    contrast = build(pushes=7, memory_bank=False)
    for _ in range(3):
        contrast(torch.randn(4, D, 8, 8), teach())
        assert contrast.bank.count.tolist() == [7] * K


def literal_contrast(
    student: Tensor, taught: TeacherTargets, contrast: ClassContrast, threshold: float
) -> Tensor:
    """Eq. (4), (9) to (12) where all keys of a queue are alike, over all anchors, so that no draw matters."""
    losses = []
    for c in range(contrast.num_classes):
        places = [(b, y, x) for b, y, x in (taught.label == c).nonzero().tolist()]
        places = [(b, y, x) for b, y, x in places if taught.prob[b, c, y, x] > threshold]
        if not places or not contrast.bank.count[c]:
            continue
        positive = torch.stack([taught.embedding[b, :, y, x] for b, y, x in places]).mean(dim=0)
        anchors = torch.stack([student[b, :, y, x] for b, y, x in places])
        negatives = contrast.bank.keys[contrast.bank.start[c]].float().expand(5, -1)
        losses.append(literal_info_nce(anchors[None], positive[None], negatives[None], 0.5)[0])
    return torch.stack(losses).mean()


def drawless(present: tuple[int, ...] = (0, 2, 4)) -> tuple[Tensor, TeacherTargets]:
    """Return pixels such that every draw gives the same loss: one negative a class, alike anchors of a class.

    The classes present are not the first ones, and class 1 has negatives but no anchors.
    """
    generator = torch.Generator().manual_seed(3)
    label = torch.tensor(present)[torch.randint(len(present), (4, 4, 4), generator=generator)]
    label[2:, 0], label[:2] = IGNORE, IGNORE  # labeled images would add negatives
    of_class = torch.randn(K, D, generator=generator)
    student = of_class[label.clamp(max=K - 1)].movedim(3, 1)
    prob = torch.full((4, K, 4, 4), 0.05)
    prob.scatter_(
        1, label.clamp(max=K - 1).unsqueeze(1), 0.8
    )  # labeled pixels have rank 0: no negatives of them
    uncertain = torch.zeros(2, 4, 4, dtype=torch.bool)
    for c, x in ((0, 0), (1, 1), (2, 2), (4, 3)):  # one uncertain pixel a class, whose last rank is the class
        uncertain[0, 0, x] = True
        others = [each for each in range(K) if each != c]
        prob[2, [*others, c], 0, x] = torch.tensor([0.4, 0.3, 0.2, 0.08, 0.02])
    return student, TeacherTargets(torch.randn(4, D, 4, 4, generator=generator), prob, label, uncertain)


def test_the_loss_equals_its_formula() -> None:
    student, taught = drawless()
    contrast = build(ranks=(4, 20))
    assert contrast.is_negative(taught).sum(dim=(0, 2, 3)).tolist() == [1, 1, 1, 0, 1]
    loss = contrast(student, taught)
    torch.testing.assert_close(loss, literal_contrast(student, taught, contrast, 0.3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", [(4, 3, 2, 1, 0), (1, 2, 3, 4, 0), (2, 0, 4, 3, 1)])
def test_the_loss_does_not_depend_on_the_order_of_the_classes(order: tuple[int, ...]) -> None:
    student, taught = drawless()
    new_id = torch.tensor(order)
    permuted = taught._replace(
        prob=taught.prob[:, new_id.argsort()],
        label=torch.where(taught.label == IGNORE, IGNORE, new_id[taught.label.clamp(max=K - 1)]),
    )
    losses = [build(ranks=(4, 20))(student, each) for each in (taught, permuted)]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=0)
    assert losses[0] > 0.1


def test_anchors_are_confident_pixels_of_known_class() -> None:
    contrast, taught = build(anchor_threshold=0.5), teach()
    student = torch.randn(4, D, 8, 8, requires_grad=True)
    for _ in range(20):
        contrast(student, taught).backward()
    assert student.grad is not None
    own = taught.prob.gather(1, taught.label.clamp(max=K - 1).unsqueeze(1)).squeeze(1)
    allowed = (taught.label != IGNORE) & (own > 0.5)
    touched = student.grad.any(dim=1)
    assert not touched[~allowed].any()
    assert touched[allowed].float().mean() > 0.8


def test_the_positive_may_be_the_mean_of_the_whole_class() -> None:
    student, taught = drawless()
    doubtful = taught.prob.clone()
    doubtful[3, :, 3] = 1 / K  # these pixels are no anchors
    taught = taught._replace(prob=doubtful)
    of_anchors, of_class = (
        build(ranks=(4, 20), positive=each)(student, taught) for each in ("anchors", "class")
    )
    assert (of_anchors - of_class).abs() > 1e-4


@pytest.mark.parametrize("missing", ["anchors", "negatives"])
def test_without_anchors_or_negatives_the_loss_is_a_zero_with_a_gradient(missing: str) -> None:
    taught = teach()
    if missing == "anchors":
        taught = taught._replace(label=torch.full_like(taught.label, IGNORE))
    else:
        taught = taught._replace(uncertain=torch.zeros_like(taught.uncertain))
        taught.label[:2] = IGNORE
    student = torch.randn(4, D, 8, 8, requires_grad=True)
    loss = build()(student, taught)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_few_classes_have_negatives_and_a_loss(num_classes: int) -> None:
    contrast = build(num_classes)
    assert contrast(torch.randn(4, D, 8, 8), teach(num_classes)) > 0.1
    assert (contrast.bank.count > 0).all()


def test_the_loss_is_smaller_where_anchors_are_nearer_their_positive() -> None:
    contrast, taught = build(), teach()
    near = torch.eye(K, D)[taught.label.clamp(max=K - 1)].movedim(3, 1)
    taught = taught._replace(embedding=near)
    assert contrast(near, taught) < contrast(torch.randn(4, D, 8, 8), taught) - 0.1


def test_the_teachers_features_receive_no_gradient_from_the_queue() -> None:
    taught = teach()
    teacher = taught.embedding.clone().requires_grad_()
    student = torch.randn(4, D, 8, 8, requires_grad=True)
    contrast = build()
    contrast(student, taught._replace(embedding=teacher)).backward()
    assert not contrast.bank.keys.requires_grad
    assert student.grad is not None
    assert student.grad.any()


def test_under_autocast_similarities_are_in_single_precision() -> None:
    student, taught = drawless()
    plain = build(ranks=(4, 20))(student, taught)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = build(ranks=(4, 20))(student, taught)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ranks": (20, 3)}, "two rising ranks"),
        ({"ranks": (0, 3)}, "two rising ranks"),
        ({"bank_sizes": (50, 0)}, "two numbers from 1 on"),
        ({"negatives": "some"}, "unreliable"),
    ],
)
def test_a_wrong_setting_is_an_error(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClassContrastConfig.model_validate(setting)
