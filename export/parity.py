"""Parity of an artifact's outputs with those of the eager fp32 model, at several shapes, on real images."""

from __future__ import annotations

import math
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field

from zoo.errors import BundleError, InvalidImageError, ParityError
from zoo.export.accuracy import Accuracy
from zoo.export.tolerance import Tolerance
from zoo.frozen import Frozen
from zoo.models.deployable import REMOVED
from zoo.predictors.artifact import Shape
from zoo.predictors.outputs import LOGITS, MASK
from zoo.preprocess import resize_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zoo.predictors.base import Predictor
    from zoo.predictors.eager import EagerPredictor


MIN_PIXELS = 65_536
"""Minimum number of pixels per shape, enough to resolve a share of 1e-4."""

NEAR_TIE = 0.01
"""Of the logits' range: a class that leads by less is hardly chosen at all."""


DOMINANT = 0.9
"""Share of pixels of one class from which on masks are examined for whether they prove anything."""


class Difference(Frozen):
    """Difference of the outputs of two models at one shape.

    Args:
        shape: batch, height, width.
        batches: how many of this shape were compared.
        agreement: share of pixels of the same class.
        differing: number of pixels of another class.
        margin: the largest lead, among differing pixels, of the reference's class over the class that the
            artifact chose, relative to the range of the reference's logits; 0 if no pixel differs.
        near_ties: number of differing pixels with a margin below `NEAR_TIE`.
        counts: number of pixels of each of the reference's classes.
        errors: mean absolute error of each output except the mask, relative to its range, by name.
        error: error of the artifact at this shape; empty if it ran.
    """

    shape: Shape
    batches: int = 1
    agreement: float
    differing: int
    margin: float
    near_ties: int = 0
    counts: tuple[int, ...] = Field(default=(), exclude=True)
    errors: dict[str, float] = Field(default_factory=dict)
    error: str = ""

    def passes(self, gate: Tolerance) -> bool:
        """Return whether the difference is within the tolerance."""
        masks = not self.error and gate.allows(self.agreement, self.margin)
        return masks and all(error <= gate.max_error for error in self.errors.values())


class Parity(Frozen):
    """The comparison of one artifact with the eager fp32 model.

    Args:
        gate: tolerance of the artifact.
        images: description of the images.
        runtime: description of the runtime that ran the artifact.
        differences: difference at each shape.
        accuracy: accuracy on labeled images; None without any, or if the masks differ too much.
        departure: first layer of a failed file that differs from the model's; empty if none was found.
        weakness: why the agreement proves nothing, e.g. masks of one class alone; empty if it does.
    """

    gate: Tolerance
    images: str
    runtime: str
    differences: tuple[Difference, ...]
    accuracy: Accuracy | None = None
    departure: str = ""
    weakness: str = ""

    @property
    def agreement(self) -> float:
        """Return the agreement at the worst shape."""
        return min(difference.agreement for difference in self.differences)

    @property
    def differing(self) -> int:
        """Return the number of differing pixels over all shapes."""
        return sum(difference.differing for difference in self.differences)

    @property
    def margin(self) -> float:
        """Return the largest margin over all shapes."""
        return max(difference.margin for difference in self.differences)

    @property
    def near_ties(self) -> float | None:
        """Return which share of the differing pixels are near ties, None if no pixel differs."""
        return sum(each.near_ties for each in self.differences) / self.differing if self.differing else None

    @property
    def errors(self) -> dict[str, float]:
        """Return the largest error of each output other than the mask over all shapes, by name."""
        names = dict.fromkeys(name for each in self.differences for name in each.errors)
        return {name: max(each.errors.get(name, 0.0) for each in self.differences) for name in names}

    @property
    def dominant(self) -> tuple[int, float]:
        """Return the class that the reference predicts most often, and its share of the pixels."""
        counts = np.sum([each.counts for each in self.differences], axis=0)  # (K,)
        label = int(counts.argmax())
        return label, float(counts[label] / counts.sum())

    @property
    def agrees(self) -> bool:
        """Return whether the outputs are within the tolerance at every shape."""
        return all(difference.passes(self.gate) for difference in self.differences)

    @property
    def passed(self) -> bool:
        """Return whether the gate holds."""
        return self.agrees and self.gate.allows_drop(self.accuracy)


class Images(NamedTuple):
    """Real images to compare on."""

    images: tuple[NDArray[Any], ...]
    """Images, each (H, W, 3) uint8 RGB, of any size."""
    origin: str
    """Description of their source, for the report."""


def parity_shapes(imgsz: tuple[int, int], max_batch: int) -> tuple[Shape, ...]:
    """Return the shapes to compare at, at most `imgsz`: full, portrait, landscape, odd, full batch."""
    height, width = imgsz
    short = min(imgsz) * 3 // 4
    odd = (height * 4 // 5) | 1, (width * 9 // 10) | 1
    return (1, height, width), (1, height, short), (1, short, width), (1, *odd), (max_batch, height, width)


def compare(
    artifact: Predictor, reference: EagerPredictor, images: Images, shapes: Sequence[Shape], gate: Tolerance
) -> Parity:
    """Return the parity of an artifact with the reference.

    Args:
        artifact: exported model.
        reference: the eager fp32 model of the bundle.
        images: images, cycled through and resized to each shape until `MIN_PIXELS` are compared; none is used
            twice at a shape whose batch they fill.
        shapes: shapes to compare at, see `parity_shapes`.
        gate: tolerance of the artifact.
    """
    turn = cycle(images.images)
    differences = []
    for shape in shapes:
        enough = math.ceil(MIN_PIXELS / math.prod(shape))
        batches = min(enough, max(1, len(images.images) // shape[0]))
        differences.append(
            _merge([_compare_at(artifact, reference, next_batch(turn, shape)) for _ in range(batches)])
        )
    return Parity(
        gate=gate, images=images.origin, runtime=artifact.description, differences=tuple(differences)
    )


def weakness(parity: Parity, names: Sequence[str]) -> str:
    """Return why the agreement of an artifact proves nothing; empty if it does.

    Args:
        parity: parity within its tolerance at every shape.
        names: names of the classes.
    """
    label, share = parity.dominant
    if len(names) == 1 or share < max(parity.gate.min_agreement, DOMINANT):
        return ""
    if share == 1:
        return f"the model predicts {names[label]!r} at every compared pixel"
    if parity.accuracy is not None:
        return ""
    return f"{share:.2%} of the compared pixels are {names[label]!r}, a file without other classes would pass"


def compare_masks(logits: NDArray[np.float32], mask: NDArray[np.integer]) -> Difference:
    """Return how a mask differs from the arg-max of a reference's logits.

    Args:
        logits: (B, K, H, W) float32 logits of the reference.
        mask: (B, H, W) integer masks of the artifact.
    """
    shape = mask.shape[0], mask.shape[1], mask.shape[2]
    expected = logits.argmax(axis=1)
    batch, rows, columns = np.nonzero(expected != mask)
    differing = len(batch)
    margin, near_ties = 0.0, 0
    if differing:
        pixels = logits[batch, :, rows, columns]  # (N, K)
        chosen = mask[batch, rows, columns].astype(np.int64).clip(0, logits.shape[1] - 1)
        lead = pixels.max(axis=1) - pixels[np.arange(differing), chosen]
        span = np.ptp(logits[logits > REMOVED / 2])  # without logits that a gate removed
        margins = np.where(np.isfinite(lead), lead / span, np.inf)
        margin, near_ties = float(margins.max()), int((margins < NEAR_TIE).sum())
    agreement = 1 - differing / mask.size
    return Difference(
        shape=shape,
        agreement=agreement,
        differing=differing,
        margin=margin,
        near_ties=near_ties,
        counts=tuple(np.bincount(expected.ravel(), minlength=logits.shape[1]).tolist()),
    )


def output_error(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the mean absolute error of an output, relative to its range.

    Args:
        expected: output of the reference, of any shape: uint8 with the range 0..255, or float.
        found: output of the artifact, of the same shape.
    """
    first, second = (values.astype(np.float64) for values in (expected, found))
    kept = first[first > REMOVED / 2]  # a gate's mark is no logit
    if not kept.size:
        return 0.0
    low, high = (0, 255) if expected.dtype == np.uint8 else (kept.min(), kept.max())
    error = np.abs(first.clip(low, high) - second.clip(low, high)).mean() / max(high - low, 1e-9)
    return float(error) if np.isfinite(error) else np.inf


def check_parity(parities: dict[str, Parity]) -> None:
    """Raise unless every artifact passed.

    Args:
        parities: parities by artifact name.

    Raises:
        ParityError: an artifact failed; the message has a table of the differences.
    """
    failed = {name: parity for name, parity in parities.items() if not parity.passed}
    if not failed:
        return
    gates = ", ".join(f"{name} {parity.gate}" for name, parity in failed.items())
    details = [line for name, parity in failed.items() for line in _details(name, parity)]
    raise ParityError(
        f"{', '.join(failed)} differs from the eager model by more than the tolerance (agreement {gates}) "
        f"and was not kept: see where below; --min-agreement X and --max-drop X set other tolerances\n"
        + "\n".join([_table(failed), *details])
    )


def _merge(parts: Sequence[Difference]) -> Difference:
    """Return the difference over several batches of one shape."""
    names = dict.fromkeys(name for part in parts for name in part.errors)
    return Difference(
        shape=parts[0].shape,
        batches=len(parts),
        agreement=sum(part.agreement for part in parts) / len(parts),
        differing=sum(part.differing for part in parts),
        margin=max(part.margin for part in parts),
        near_ties=sum(part.near_ties for part in parts),
        counts=tuple(map(sum, zip(*(part.counts for part in parts if part.counts), strict=True))),
        errors={name: max(part.errors[name] for part in parts if name in part.errors) for name in names},
        error=next((part.error for part in parts if part.error), ""),
    )


def next_batch(turn: cycle[NDArray[Any]], shape: Shape) -> NDArray[Any]:
    """Return the next images of the turn as (B, H, W, 3) uint8."""
    return np.stack([resize_image(image, shape[1:]) for image in islice(turn, shape[0])])


def _compare_at(artifact: Predictor, reference: EagerPredictor, batch: NDArray[Any]) -> Difference:
    names = [name for name in artifact.available if name != MASK]
    try:
        found = artifact.infer(batch, (MASK, *names))
    except (BundleError, InvalidImageError) as error:
        shape = batch.shape[0], batch.shape[1], batch.shape[2]
        pixels = int(np.prod(shape))
        return Difference(shape=shape, agreement=0, differing=pixels, margin=1, error=str(error))
    expected = reference.infer(batch, tuple({LOGITS: None, **dict.fromkeys(names)}))
    errors = {name: output_error(expected[name], found[name]) for name in names}
    return compare_masks(expected[LOGITS], found[MASK]).model_copy(update={"errors": errors})


def _table(parities: dict[str, Parity]) -> str:
    header = ("artifact", "batches", "agreement", "differing px", "margin", "")
    rows = [header, *(row for name, parity in parities.items() for row in _rows(name, parity))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _rows(name: str, parity: Parity) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{difference.batches} of {'x'.join(map(str, difference.shape))}",
            f"{difference.agreement:.6f}",
            str(difference.differing),
            f"{difference.margin:.2g}",
            difference.error or ("ok" if difference.passes(parity.gate) else "FAILED"),
        )
        for difference in parity.differences
    ]


def _details(name: str, parity: Parity) -> list[str]:
    """Return what else is known of a failed artifact, a line each."""
    lines = []
    lines += [
        f"{name}: {output} is off by {error:.2g} of its range, expected at most {parity.gate.max_error:g}"
        for output, error in parity.errors.items()
        if error > parity.gate.max_error
    ]
    if parity.near_ties is not None:
        lines.append(f"{name}: {parity.near_ties:.1%} of the differing pixels are near ties")
    if parity.accuracy is not None:
        lines.append(f"{name}: {describe(parity.accuracy)}")
    if parity.departure:
        lines.append(f"{name}: {parity.departure}")
    return lines


def describe(accuracy: Accuracy) -> str:
    """Return one line with the change of mIoU and the classes that lost significantly."""
    worse = ", ".join(f"{each.name} {each}" for each in accuracy.worse)
    return f"mIoU {accuracy.miou} points on {accuracy.data}" + (f"; lost: {worse}" if worse else "")
