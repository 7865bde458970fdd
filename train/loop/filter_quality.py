"""Quality of a method's filter of pseudo-labels, on unlabeled images whose masks are hidden from training.

The metrics are precision, recall and F1 of the error map, as in ELN's Table 4, over the pixels of all
images. They are compared with those of a plain threshold on the confidence that keeps as many pixels. Metrics
of a class are over the pixels whose true label it is, whatever the prediction.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch

from zoo.classes import IGNORE
from zoo.data.source import evenly_spaced
from zoo.preprocess import channel_statistics
from zoo.train.data.loaders import BatchStream
from zoo.train.loop.step import normalized
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
        self.ids = tuple(evenly_spaced(hidden, IMAGES))
        self.batches: list[tuple[Batch, Tensor]] | None = None
        self.by_class: dict[str, dict[str, float]] | None = None
        """The figures of each class when they were last measured."""

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
        pixels = known_pixels(made)
        self.by_class = class_figures(pixels, self.source.classes.names)
        return {f"{FILTER}{name}": value for name, value in figures(pixels).items()}

    def _batches(self) -> list[tuple[Batch, Tensor]]:
        """Return the batches, loaded once, each with the (B, H, W) masks of its unlabeled images."""
        if self.batches is None:
            phases = (Phase("labeled", len(self.ids), unlabeled=0),)
            data = self.recipe.data.model_copy(
                update={"cache": "none", "labeled_view": "weak", "rare_classes": 0.0}
            )
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
        statistics = channel_statistics(self.recipe.preprocessing, torch.zeros((), device=device))
        moved = {name: value.to(device) for name, value in batch._asdict().items() if value is not None}
        return normalized(batch._replace(**moved), statistics)


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


class Pixels(NamedTuple):
    """The pixels of pseudo-labels whose truth is known, (N,) each."""

    truth: Tensor
    """int64."""
    right: Tensor
    """bool, whether the pseudo-label is true."""
    keep: Tensor
    """bool, whether the filter keeps it."""
    surest: Tensor
    """bool, whether a threshold on the confidence that keeps as many would."""


def known_pixels(made: list[tuple[PseudoLabels, Tensor]]) -> Pixels:
    """Return the pixels whose truth is known of pseudo-labels and (B, H, W) int64 masks."""
    pairs = [(pseudo, truth, truth != IGNORE) for pseudo, truth in made]
    truth = torch.cat([truth[known] for _, truth, known in pairs])
    label = torch.cat([pseudo.label[known] for pseudo, _, known in pairs])
    keep = torch.cat([pseudo.keep[known] for pseudo, _, known in pairs])
    confidence = torch.cat([pseudo.confidence[known] for pseudo, _, known in pairs])
    surest = torch.zeros_like(keep)
    surest[confidence.argsort(descending=True, stable=True)[: int(keep.sum())]] = True
    return Pixels(truth, label == truth, keep, surest)


def figures(pixels: Pixels) -> dict[str, float]:
    """Return the metrics of pseudo-labels compared with their masks.

    Returns:
        `accuracy_of_all` pseudo-labels and the share that is `kept`; for the filter and, as `by_confidence/`,
        for a threshold that keeps as many: `accuracy` of kept pixels, and `precision`, `recall` and `f1` of
        dropped pixels as errors. Undefined metrics are left out.
    """
    if not len(pixels.truth):
        return {}
    found = {"accuracy_of_all": _mean(pixels.right), "kept": _mean(pixels.keep)}
    found |= _of_choice(pixels.right, pixels.keep)
    by_confidence = _of_choice(pixels.right, pixels.surest)
    return found | {f"{BY_CONFIDENCE}{name}": value for name, value in by_confidence.items()}


def class_figures(pixels: Pixels, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Return the figures of the pixels of each class that is there, and the `share` of all pixels it has.

    Args:
        pixels: pixels of all images.
        names: names of the classes.
    """
    found = {}
    for number, name in enumerate(names):
        here = pixels.truth == number
        if not bool(here.any()):
            continue
        _, right, keep, surest = (each[here] for each in pixels)
        found[name] = {"share": _mean(here), "accuracy_of_all": _mean(right)}
        for prefix, choice in (("", keep), (BY_CONFIDENCE, surest)):
            chosen = {"kept": _mean(choice)} | _of_choice(right, choice)
            found[name] |= {f"{prefix}{key}": value for key, value in chosen.items()}
    return found


def _mean(flags: Tensor) -> float:
    return flags.double().mean().item()


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
