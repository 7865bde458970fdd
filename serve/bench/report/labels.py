"""Where the labels of a plot go so that all can be read, however wide the plot is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTHS = (260.0, 480.0, 1080.0)
"""Of a plot in pixels, on a phone, a tablet and a screen: at these labels must not touch."""

HEIGHT = 320.0
"""Of a plot in pixels, everywhere."""

CHARACTER, LINE = 6.7, 15.0
"""Size of text in pixels, on average."""

RADIUS, GAP = 6.0, 9.0
"""Of a point, and from its middle to a label beside it."""

DISTANCES = (0, -16, 16, -32, 32, -48, 48, -64, 64, -80, 80, -96, 96)
"""Of a label from its point, in pixels, in the order they are tried."""

Box = tuple[float, float, float, float]


def place_labels(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float]]:
    """Return where each label begins, in pixels from its point, so that none covers another or a point.

    Args:
        points: place of each between 0 and 1, to the right and down, and its label.
    """
    taken: list[list[Box]] = [[_around(x * width, y * HEIGHT) for x, y, _ in points] for width in WIDTHS]
    found: list[tuple[float, float]] = []
    for x, y, label in points:
        length = len(label) * CHARACTER
        places = [(dx, dy) for dy in DISTANCES for dx in (GAP, -GAP - length)]

        def boxes(
            place: tuple[float, float], x: float = x, y: float = y, length: float = length
        ) -> list[Box]:
            return [_label_box(x * width, y * HEIGHT, place, length) for width in WIDTHS]

        best = min(places, key=lambda place: _cost(boxes(place), taken))
        for box, others in zip(boxes(best), taken, strict=True):
            others.append(box)
        found.append(best)
    return found


def _cost(boxes: Sequence[Box], taken: Sequence[Sequence[Box]]) -> float:
    """Return by how much a label covers others or leaves the plot, over all widths."""
    return sum(
        sum(_overlap(box, other) for other in others) + 10 * _outside(box, width)
        for box, others, width in zip(boxes, taken, WIDTHS, strict=True)
    )


def _around(x: float, y: float) -> Box:
    return x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS


def _label_box(x: float, y: float, place: tuple[float, float], length: float) -> Box:
    left, middle = x + place[0], y + place[1]
    return left, middle - LINE / 2, left + length, middle + LINE / 2


def _overlap(box: Box, other: Box) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _outside(box: Box, width: float) -> float:
    """Return the pixels by which a box leaves a plot of this width and its margin."""
    margin = 10
    beyond = (-margin - box[0], box[2] - width - margin, -box[1], box[3] - HEIGHT)
    return sum(max(0.0, pixels) for pixels in beyond)


def spread(places: Sequence[float]) -> list[float]:
    """Return how far each label moves down, in pixels, so that all are a line apart and move little.

    Example:
        >>> spread([100.0, 101.0, 200.0])
        [-7.0, 7.0, 0.0]
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while (
            len(groups) > 1
            and _middle(groups[-1], places) - _middle(groups[-2], places)
            < LINE * (len(groups[-1]) + len(groups[-2])) / 2
        ):
            last = groups.pop()
            groups[-1] += last
    shifts = [0.0] * len(places)
    for group in groups:
        top = _middle(group, places) - LINE * (len(group) - 1) / 2
        for line, index in enumerate(group):
            shifts[index] = top + LINE * line - places[index]
    return shifts


def _middle(group: Sequence[int], places: Sequence[float]) -> float:
    return sum(places[index] for index in group) / len(group)
