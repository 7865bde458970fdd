"""Data that need no files: batches of noise, and queues of negatives as full as late in a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from zoo.classes import IGNORE
from zoo.train.method import DRAW_RANGE, DRAWS, Batch
from zoo.train.methods.u2pl.memory_bank import MemoryBank

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.train.method import Method, Phase
    from zoo.train.recipe.schema import Recipe

SQUARES = 8
"""Of the labels of an image, each way."""
ROWS = 2**16
"""Keys that are drawn at a time."""


@torch.no_grad()
def fill_banks(method: Method) -> None:
    """Fill all queues of a method with random keys of length 1."""
    for bank in method.modules():
        if isinstance(bank, MemoryBank):
            for keys in bank.keys[:-1].split(ROWS):  # the last row is no key
                keys.copy_(F.normalize(torch.randn(keys.shape, device=keys.device), dim=1))
            bank.count.copy_(bank.capacity)


def synthetic_batch(recipe: Recipe, phase: Phase, device: torch.device) -> Batch:
    """Return what the loader would give for a phase, on a device: images of noise, labels in squares.

    A border of the labels is void; no image has padding.
    """
    images_l, images_u = phase.labeled * recipe.data.batch_l, phase.unlabeled * recipe.data.batch_u
    size, classes = recipe.data.imgsz, recipe.network.num_classes

    def noise(count: int) -> Tensor:
        return torch.randint(256, (count, 3, *size), dtype=torch.uint8, device=device)

    squares = torch.randint(classes, (images_l, 1, SQUARES, SQUARES), device=device).float()
    label = F.interpolate(squares, size).squeeze(1).long()
    label[..., : size[1] // SQUARES] = IGNORE
    batch = Batch(noise(images_l), label, torch.ones_like(label, dtype=torch.bool))
    if phase.unlabeled:
        valid = torch.ones(images_u, *size, dtype=torch.bool, device=device)
        draws = torch.randint(DRAW_RANGE, (images_u, DRAWS), dtype=torch.int32, device=device)
        batch = batch._replace(image_u=noise(images_u), valid_u=valid, draws_u=draws)
    if phase.strong:
        batch = batch._replace(image_u_s=noise(images_u))
    if phase.tags:
        tags = torch.stack([(label == k).flatten(1).any(dim=1) for k in range(classes)], dim=1)
        batch = batch._replace(tags_l=tags)
    return batch
