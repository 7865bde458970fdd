"""The labels-only baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zoo.models.decoders.decoder import resize_logits
from zoo.train.blocks.losses import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.method import Batch, Progress


def test_it_is_the_cross_entropy_on_labeled_images_alone(
    build: Callable[..., Any], make_batch: Callable[..., Batch], at: Callable[..., Progress]
) -> None:
    method, batch = build("supervised").eval(), make_batch(unlabeled=0)
    expected = cross_entropy(resize_logits(method.student(batch.image_l).logits, (32, 32)), batch.label_l)
    assert torch.equal(method(batch, at("train"))["sup"], expected)
    (phase,) = method.phases(5)
    assert phase.unlabeled == 0
