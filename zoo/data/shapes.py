"""Built-in data set: textured shapes on textured backgrounds, drawn on demand.

Three pairs of similar classes share a range of colors: disc and ring, square and cross, triangle and star.
The outline determines the class; color and texture mostly match it, but 5% of the shapes have a random color,
and 5% a random texture. Size, rotation, squash, occlusion, background, clutter, light, blur and noise are
independent of the class.

An image is a function of (seed, split, number) alone and the same on every machine: pixels are computed by
exactly rounded operations (+ - * and floor, no sine of an array) and by Pillow's integer operations.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from zoo.classes import Classes
from zoo.data.source import Source, Split
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Points = NDArray[np.float64]

NAMES = ("background", "disc", "ring", "square", "cross", "triangle", "star")
COUNTS: dict[Split, int] = {"train": 480, "unlabeled": 0, "val": 96}

SUPERSAMPLING = 4
"""Outlines are filled on a grid finer by this factor; a pixel belongs to a shape that covers half of it."""

TILT = 0.3
"""Largest rotation of a shape, in radians."""

PAIR_COLORS = ((230.0, 110.0, 60.0), (80.0, 170.0, 90.0), (80.0, 100.0, 210.0))
"""Mean RGB color of each pair of similar classes."""
COLOR_SPREAD = 35.0
"""Largest deviation from the mean color in each channel."""
ODD = 0.05
"""Share of the shapes with a random color, and of those with a random texture."""

GROUND_CONTRAST = 35.0
"""Largest difference between the two colors of a background in each channel."""

SHADOW = np.float32(0.4)
"""Strength of the shadow around a shape, 0..1."""

GEOMETRY, PAINT = 0, 1
"""Streams of random numbers; a mask needs only the first."""


class Shape(NamedTuple):
    """One shape of a scene; later shapes occlude earlier ones."""

    label: int
    outline: Points  # (N, 2) x and y in pixels
    hole: Points | None


class ShapesSource(Source):
    """Shapes drawn on the fly: 480 training and 96 validation images, background and six classes.

    Args:
        size: height and width of the images, in pixels.
        seed: seed of all images; each seed is a different data set.
        val: number of validation images; the first 96 are the same for every number.
    """

    def __init__(self, size: tuple[int, int] = (96, 96), seed: int = 0, val: int = COUNTS["val"]) -> None:
        super().__init__("shapes", Classes.of(NAMES))
        self.size = size
        self.seed = seed
        self.counts = COUNTS | {"val": val}

    @classmethod
    def of(cls, spec: str) -> ShapesSource:
        """Return the source of `shapes` or `shapes:VAL`, VAL being the number of validation images.

        Raises:
            DatasetError: VAL is not a whole number from 1 to 10,000.
        """
        _, colon, val = spec.partition(":")
        if not colon:
            return cls()
        if not (val.isascii() and val.isdigit() and 1 <= int(val[:6]) <= 10_000):
            raise DatasetError(
                f"{spec}: got {val!r}, expected a number of validation images from 1 to 10000, "
                f"e.g. shapes:500"
            )
        return cls(val=int(val))

    def ids(self, split: Split) -> tuple[str, ...]:
        return tuple(f"{split}/{number:04d}" for number in range(self.counts[split]))

    def read_image(self, id_: str) -> NDArray[np.uint8]:
        shapes = draw_scene(self._random(id_, GEOMETRY), self.size)
        return paint(self._random(id_, PAINT), shapes, self.size)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        mask = np.zeros(self.size, np.uint8)
        for shape in draw_scene(self._random(id_, GEOMETRY), self.size):
            mask[coverage(shape, self.size) >= 128] = shape.label
        return mask

    def _random(self, id_: str, stream: int) -> Generator:
        split, number = id_.split("/")
        return np.random.default_rng([self.seed, list(COUNTS).index(split), int(number), stream])  # type: ignore[arg-type]


# --- outlines: (N, 2) corners about the unit circle ---


def _circle(radius: float = 1.0) -> Points:
    return _corners([radius] * 40)


def _corners(radii: list[float]) -> Points:
    """Return corners at equal angles, one for each radius."""
    count = len(radii)
    first = -math.pi / 2 - (
        math.pi / count if count == 4 else 0
    )  # a square stands on a side, others on a tip
    turns = [first + 2 * math.pi * number / count for number in range(count)]
    return np.array([(r * math.cos(turn), r * math.sin(turn)) for r, turn in zip(radii, turns, strict=True)])


def _cross(arm: float) -> Points:
    """Return a plus sign whose arms are 2 * `arm` wide."""
    corner = [(1.0, arm), (arm, arm), (arm, 1.0)]
    quarter = np.array(corner)
    turns = [quarter]
    for _ in range(3):
        turns.append(turns[-1] @ np.array([[0.0, 1.0], [-1.0, 0.0]]))
    return np.concatenate(turns)


def _outline(label: int, random: Generator) -> tuple[Points, Points | None]:
    """Return the outline of a class, and its hole if it is a ring; all classes are about equally large."""
    name = NAMES[label]
    part = random.uniform()  # relative width of a ring, an arm or a ray
    if name == "ring":
        return _circle(), _circle(0.45 + 0.2 * part)
    if name == "star":
        return _corners([1.2, 0.55 + 0.15 * part] * 5), None
    if name == "cross":
        return _cross(0.32 + 0.12 * part), None
    return {"disc": _circle(0.9), "square": _corners([1.1] * 4), "triangle": _corners([1.25] * 3)}[name], None


def draw_scene(random: Generator, size: tuple[int, int]) -> list[Shape]:
    """Return up to five shapes, front-most last."""
    unit = min(size)
    placed: list[tuple[float, float, float]] = []
    shapes = []
    for _ in range(random.integers(2, 6)):
        radius = unit * random.uniform(0.18, 0.3)
        x, y = (random.uniform(0.1, 0.9, 2) * size[::-1]).tolist()
        label = int(random.integers(1, len(NAMES)))
        outline, hole = _outline(label, random)
        turn, squash = random.uniform(-TILT, TILT), random.uniform(0.8, 1.0)
        # a shape may hide about a third of another
        if any(math.hypot(x - x2, y - y2) < 0.75 * (radius + r2) for x2, y2, r2 in placed):
            continue
        placed.append((x, y, radius))
        cos, sin = math.cos(turn), math.sin(turn)
        turned = radius * np.array([[cos, sin], [-squash * sin, squash * cos]])
        shapes.append(
            Shape(label, outline @ turned + (x, y), None if hole is None else hole @ turned + (x, y))
        )
    return shapes


def coverage(shape: Shape, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the coverage of each pixel by a shape, (H, W) uint8, where 255 is full coverage."""
    height, width = size
    canvas = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    draw.polygon((shape.outline * SUPERSAMPLING).ravel().tolist(), fill=255)
    if shape.hole is not None:
        draw.polygon((shape.hole * SUPERSAMPLING).ravel().tolist(), fill=0)
    return np.asarray(canvas.reduce(SUPERSAMPLING))


# --- textures: (H, W) float32 in [0, 1], weight of the second color ---


def _plane(turn: float, period: float, start: float, size: tuple[int, int]) -> Floats:
    """Return a plane over the image that increases by one every `period` pixels in the direction `turn`."""
    y = np.arange(size[0], dtype=np.float32)[:, None] * np.float32(math.sin(turn) / period)
    x = np.arange(size[1], dtype=np.float32) * np.float32(math.cos(turn) / period)
    return x + y + np.float32(start)


def _ramp(random: Generator, size: tuple[int, int], period: float) -> Floats:
    return _plane(random.uniform(0, 2 * math.pi), period, random.uniform(), size)


def _lattice(random: Generator, size: tuple[int, int], period: float) -> tuple[Floats, Floats]:
    """Return two orthogonal ramps."""
    turn = random.uniform(0, 2 * math.pi)
    return (
        _plane(turn, period, random.uniform(), size),
        _plane(turn + math.pi / 2, period, random.uniform(), size),
    )


def _fraction(plane: Floats) -> Floats:
    return plane - np.floor(plane)


def _plain(random: Generator, size: tuple[int, int], period: float) -> Floats:  # noqa: ARG001 - one signature
    return np.zeros(size, np.float32)


def _gradient(random: Generator, size: tuple[int, int], period: float) -> Floats:  # noqa: ARG001 - one signature
    return np.abs(2 * _fraction(_ramp(random, size, 1.2 * max(size))) - 1)


def _stripes(random: Generator, size: tuple[int, int], period: float) -> Floats:
    wave = np.abs(2 * _fraction(_ramp(random, size, period)) - 1)  # a triangle wave
    return np.clip(period * (wave - 0.5) + 0.5, 0, 1)


def _checks(random: Generator, size: tuple[int, int], period: float) -> Floats:
    u, v = _lattice(random, size, period)
    return 2 * _fraction((np.floor(u) + np.floor(v)) * np.float32(0.5))


def _dots(random: Generator, size: tuple[int, int], period: float) -> Floats:
    u, v = (_fraction(axis) - 0.5 for axis in _lattice(random, size, period))
    return np.clip(8 * (0.1 - u * u - v * v) + 0.5, 0, 1)


def _clouds(random: Generator, size: tuple[int, int], period: float) -> Floats:
    cells = random.integers(0, 256, [2 + int(side / period) for side in size], np.uint8)
    smooth = Image.fromarray(cells).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32) * np.float32(1 / 255)


TEXTURES: tuple[Callable[[Generator, tuple[int, int], float], Floats], ...] = (
    _plain, _gradient, _stripes, _checks, _dots, _clouds,
)  # fmt: skip


FAVORITES = (_stripes, _dots, _checks, _plain, _clouds, _stripes)
"""Usual texture of each class except the background."""


def _ground(random: Generator, size: tuple[int, int]) -> Floats:
    """Return a background of muted colors and random texture, (3, H, W)."""
    color = random.uniform(70, 190) + random.uniform(-25, 25, (3, 1, 1))
    texture = TEXTURES[random.integers(len(TEXTURES))](random, size, random.uniform(0.06, 0.14) * min(size))
    difference = random.uniform(-GROUND_CONTRAST, GROUND_CONTRAST, (3, 1, 1))
    return color.astype(np.float32) + texture * difference.astype(np.float32)


def _coat(random: Generator, size: tuple[int, int], label: int) -> Floats:
    """Return the surface of a shape of this class, (3, H, W)."""
    is_odd_color, is_odd_texture = random.uniform(size=2) < ODD
    center = random.uniform(50, 220, 3) if is_odd_color else np.array(PAIR_COLORS[(label - 1) // 2])
    color = (center + random.uniform(-COLOR_SPREAD, COLOR_SPREAD, 3)).astype(np.float32)[:, None, None]
    draw = TEXTURES[random.integers(len(TEXTURES))] if is_odd_texture else FAVORITES[label - 1]
    texture = draw(random, size, random.uniform(0.06, 0.12) * min(size))
    return color + texture * np.float32(random.choice([-1, 1]) * random.uniform(50, 90))


# --- images: (3, H, W) float32 until the last step ---


def paint(random: Generator, shapes: list[Shape], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the image of a scene, (H, W, 3) uint8."""
    canvas = _ground(random, size)
    canvas += _strokes(random, size)
    for shape in shapes:
        alpha = coverage(shape, size)
        canvas *= 1 - SHADOW / 255 * np.asarray(
            Image.fromarray(alpha).filter(ImageFilter.BoxBlur(2)), np.float32
        )
        canvas += np.float32(1 / 255) * alpha * (_coat(random, size, shape.label) - canvas)
    light = 2 * _ramp(random, size, 2.0 * max(size)) - 1
    canvas *= 1 + np.float32(random.uniform(0, 0.35)) * light
    return _photograph(random, canvas)


def _strokes(random: Generator, size: tuple[int, int]) -> Floats:
    """Return clutter that belongs to no class: a few lines and arcs to add to the background, (H, W)."""
    height, width = size
    picture = Image.new("L", (width, height), 128)
    draw = ImageDraw.Draw(picture)
    for _ in range(random.integers(0, 4)):
        x1, y1, x2, y2 = (random.uniform(-0.2, 1.2, 4) * [width, height, width, height]).tolist()
        shade, thickness = int(random.integers(0, 256)), int(random.integers(1, 4))
        if random.uniform() < 0.5:
            draw.line((x1, y1, x2, y2), shade, thickness)
        else:
            start = random.uniform(0, 360)
            box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
            draw.arc(box, start, start + random.uniform(40, 150), shade, thickness)
    return np.asarray(picture, np.float32) - 128


def _photograph(random: Generator, canvas: Floats) -> NDArray[np.uint8]:
    """Return an image with the slight blur and the noise of a cheap camera."""
    pixels = np.clip(canvas, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(random.uniform(0, 0.6)))
    noise = random.integers(-128, 128, (2, *pixels.shape), np.int8)
    strength = np.float32(random.uniform(0.02, 0.06))
    noisy = np.asarray(blurred, np.float32) + strength * (noise[0].astype(np.float32) + noise[1])
    result: NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return result
