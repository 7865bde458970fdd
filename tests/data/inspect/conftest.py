"""A folder of images and masks under construction."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 64, 48
RANDOM = np.random.default_rng(0)


def scene(width=WIDTH, height=HEIGHT):
    """Return an image unlike any other."""
    cells = RANDOM.integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def labels(width=WIDTH, height=HEIGHT, values=(0, 1, 2, 255)):
    return np.resize(np.repeat(np.array(values, np.uint8), 5), (height, width))


class Folder:
    """A folder under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.planted: set[tuple[str, tuple[str, ...]]] = set()

    scene = staticmethod(scene)
    labels = staticmethod(labels)

    def path(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def save(self, name: str, pixels, **options) -> str:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(self.path(name), **options)
        return name

    def pair(self, name: str, image=None, mask=None, split="train") -> None:
        self.save(f"{split}/images/{name}.png", scene() if image is None else image)
        self.save(f"{split}/masks/{name}.png", labels() if mask is None else mask)

    def plant(self, kind: str, *names: str) -> None:
        self.planted.add((kind, names))

    def cut(self, name: str) -> None:
        path = self.root / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def folder(tmp_path):
    """Return a folder in which nothing is yet."""
    return Folder(tmp_path / "data")


@pytest.fixture
def good(folder):
    """Return a folder whose only finding is that `val` shows no bike."""
    for number in range(3):
        folder.pair(f"good{number}", mask=labels(values=(0, 1, 2, 3, 255)))
        folder.pair(f"good{number}", split="val")
    folder.path("data.toml").write_text('names = ["sky", "road", "car", "bike"]\n')
    return folder
