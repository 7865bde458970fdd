from __future__ import annotations

import pytest
import torch

from zoo.train.blocks.class_confidence import DECAY, ClassConfidence


def test_the_means_are_those_of_the_valid_pixels_of_each_predicted_class() -> None:
    each = ClassConfidence(3)
    label = torch.tensor([[[0, 0, 1, 1]]])
    valid = torch.tensor([[[True, True, True, False]]])
    each.update(torch.tensor([[[0.9, 0.7, 0.5, 1.0]]]), label, valid)
    assert each.mean.tolist() == pytest.approx([0.8, 0.5, 0.0])
    each.update(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), torch.zeros_like(label), valid)
    assert each.mean.tolist() == pytest.approx([DECAY * 0.8 + (1 - DECAY) * 2 / 3, 0.5, 0.0])


def test_an_overflow_counts_for_no_class() -> None:
    each, clean = ClassConfidence(2), ClassConfidence(2)
    label, valid = torch.tensor([[[0, 0, 1, 1]]]), torch.ones(1, 1, 4, dtype=torch.bool)
    each.update(torch.tensor([[[torch.nan, 0.8, torch.inf, torch.nan]]]), label, valid)
    clean.update(torch.tensor([[[0.0, 0.8, 0.0, 0.0]]]), label, torch.tensor([[[False, True, False, False]]]))
    assert torch.equal(each.mean, clean.mean)
    assert each.thresholds(label, 0.9).isfinite().all()


def test_a_less_sure_class_has_a_lower_threshold_and_one_never_predicted_the_whole() -> None:
    each = ClassConfidence(3)
    label = torch.tensor([[[0, 1, 2]]])
    assert each.thresholds(label, 0.9).flatten().tolist() == pytest.approx([0.9] * 3)
    each.mean.copy_(torch.tensor([0.8, 0.4, 0.0]))
    assert each.thresholds(label, 0.9).flatten().tolist() == pytest.approx([0.9, 0.45, 0.9])
