"""The labels-only baseline: its plain view, and the strong one that is a control of comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zoo.models.decoders.decoder import resize_logits
from zoo.train.blocks.losses import cross_entropy
from zoo.train.blocks.mixing import cutmix, half_area_box

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.method import Batch, Progress


def test_the_strong_view_pastes_a_box_of_the_next_image_with_its_labels(
    build: Callable[..., Any], make_batch: Callable[..., Batch], at: Callable[..., Progress]
) -> None:
    method, batch = build("supervised", view="strong").eval(), make_batch(unlabeled=0)
    draws = batch.labeled_draws
    draws[0, 0], draws[1, 0] = 0.0, 0.9  # the first image gets a box, the second none
    batch = batch._replace(draws_l=(draws * 2**24).int())
    box = half_area_box(draws, (32, 32), 0.5)
    assert box[0].float().mean() > 0.4
    assert not box[1].any()
    image = cutmix(batch.image_l, batch.image_l.flip(0), box)
    label = cutmix(batch.label_l, batch.label_l.flip(0), box)
    expected = cross_entropy(resize_logits(method.student(image).logits, (32, 32)), label)
    assert torch.equal(method(batch, at("train"))["sup"], expected)


def test_only_the_strong_view_asks_for_strong_labeled_images(build: Callable[..., Any]) -> None:
    for view in ("weak", "strong"):
        (phase,) = build("supervised", view=view).phases(5)
        assert phase.strong_labeled == (view == "strong")
        assert phase.unlabeled == 0
