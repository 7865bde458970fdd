"""Quality of a method's filter of pseudo-labels, on unlabeled images whose masks are hidden from training.

The metrics are precision, recall and F1 of the error map, as in ELN's Table 4, over the pixels of all images.
They are compared with those of a plain threshold on the confidence that keeps as many pixels.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from zoo.classes import IGNORE
from zoo.preprocess import channel_statistics
from zoo.train.data.loaders import BatchStream
from zoo.train.method import Batch, Phase
from zoo.train.runs.log import BY_CONFIDENCE, FILTER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from zoo.data.partition import Partition
    from zoo.data.source import Source
    from zoo.train.method import Method, Progress, PseudoLabels
    from zoo.train.recipe.schema import Recipe

IMAGES = 32
"""Number of images used, evenly spaced among the unlabeled images with masks."""
KEPT_STATE = ("running_mean", "running_var", "num_batches_tracked")


class FilterQuality:
    """Measures the pseudo-labels of a method in training mode, without changing its state.

    Args:
        recipe: recipe with sizes and weak view, whose seed determines the crops.
        source: source of the images.
        partition: partition whose unlabeled images with masks are used.
    """

    def __init__(self, recipe: Recipe, source: Source, partition: Partition) -> None:
        self.recipe, self.source, self.partition = recipe, source, partition
        masked = set(source.ids("train"))
        hidden = [id_ for id_ in partition.unlabeled if id_ in masked]
        count = min(IMAGES, len(hidden))
        self.ids = tuple(hidden[number * len(hidden) // count] for number in range(count))
        self.batches: list[tuple[Batch, Tensor]] | None = None

    def __call__(self, method: Method, progress: Progress) -> dict[str, float]:
        """Return the metrics of the pseudo-labels by name; empty without masks or without pseudo-labels."""
        if not self.ids:
            return {}
        device = next(method.parameters()).device
        method.train()
        made = []
        with torch.no_grad(), _leaving_no_trace(method, device):
            for batch, truth in self._batches():
                pseudo_labels = method.pseudo_labels(self._prepared(batch, device), progress)
                if pseudo_labels is None:
                    return {}
                made.append((pseudo_labels, truth.to(device)))
        return {f"{FILTER}{name}": value for name, value in figures(made).items()}

    def _batches(self) -> list[tuple[Batch, Tensor]]:
        """Return the batches, loaded once, each with the (B, H, W) masks of its unlabeled images."""
        if self.batches is None:
            phases = (Phase("labeled", len(self.ids), unlabeled=0),)
            data = self.recipe.data.model_copy(update={"cache": "none"})
            recipe = self.recipe.model_copy(update={"data": data, "accumulate": 1})
            as_labeled = data.model_copy(update={"batch_l": min(data.batch_u, len(self.ids))})
            known = BatchStream(recipe, self.source, self.partition, phases)
            hidden = BatchStream(
                recipe.model_copy(update={"data": as_labeled}),
                self.source,
                type(self.partition)(self.partition.spec, self.partition.seed, self.ids, ()),
                phases,
            )
            numbers = range(len(self.ids) // as_labeled.batch_l)
            self.batches = [_joined(known[number], hidden[number]) for number in numbers]
        return self.batches

    def _prepared(self, batch: Batch, device: torch.device) -> Batch:
        """Return the batch on the device, with normalized images."""
        mean, std = channel_statistics(self.recipe.preprocessing, torch.zeros((), device=device))
        moved = {name: value.to(device) for name, value in batch._asdict().items() if value is not None}
        images = {n: (v.float() - mean) / std for n, v in moved.items() if n.startswith("image")}
        return batch._replace(**moved | images)


def _joined(known: Batch, hidden: Batch) -> tuple[Batch, Tensor]:
    """Return a batch whose unlabeled images are the labeled ones of `hidden`, and their masks."""
    batch = known._replace(image_u=hidden.image_l, valid_u=hidden.valid_l, tags_l=None)
    return batch, hidden.label_l


@contextmanager
def _leaving_no_trace(method: Method, device: torch.device) -> Iterator[None]:
    """Restore running statistics and random states after the block, so that training is not affected."""
    buffers = [value for name, value in method.named_buffers() if name.rpartition(".")[2] in KEPT_STATE]
    before = [value.clone() for value in buffers]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
    for value, kept in zip(buffers, before, strict=True):
        value.copy_(kept)


def figures(made: list[tuple[PseudoLabels, Tensor]]) -> dict[str, float]:
    """Return the metrics of pseudo-labels compared with their masks.

    Args:
        made: pseudo-labels and (B, H, W) int64 masks, `IGNORE` where unknown.

    Returns:
        `accuracy_of_all` pseudo-labels and the share that is `kept`; for the filter and, as `by_confidence/`,
        for a threshold that keeps as many: `accuracy` of kept pixels, and `precision`, `recall` and `f1` of
        dropped pixels as errors. Undefined metrics are left out.
    """
    counted = [truth != IGNORE for _, truth in made]
    pairs = list(zip(made, counted, strict=True))
    right = torch.cat([(pseudo.label == truth)[known] for (pseudo, truth), known in pairs])
    keep = torch.cat([pseudo.keep[known] for (pseudo, _), known in pairs])
    confidence = torch.cat([pseudo.confidence[known] for (pseudo, _), known in pairs])
    if not len(right):
        return {}
    surest = torch.zeros_like(keep)
    surest[confidence.argsort(descending=True, stable=True)[: int(keep.sum())]] = True
    found = {"accuracy_of_all": right.double().mean().item(), "kept": keep.double().mean().item()}
    found |= _of_choice(right, keep)
    return found | {f"{BY_CONFIDENCE}{name}": value for name, value in _of_choice(right, surest).items()}


def _of_choice(right: Tensor, keep: Tensor) -> dict[str, float]:
    """Return the metrics of one filter, from the correctness and selection of pixels, both (N,) bool."""
    caught = int((~right & ~keep).sum())
    kept, dropped, wrong = int(keep.sum()), int((~keep).sum()), int((~right).sum())
    shares = {
        "accuracy": (int((right & keep).sum()), kept),
        "precision": (caught, dropped),
        "recall": (caught, wrong),
        "f1": (2 * caught, dropped + wrong),
    }
    return {name: above / below for name, (above, below) in shares.items() if below}
