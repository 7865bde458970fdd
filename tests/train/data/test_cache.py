"""A cache of decoded images changes how fast batches come, and nothing in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from zoo.classes import Classes
from zoo.data.open import open_source
from zoo.data.partition import make_partition
from zoo.data.source import Source, Split
from zoo.errors import DatasetError
from zoo.train.data.cache import cache_folder
from zoo.train.data.loaders import BatchStream, batches
from zoo.train.method import Batch, Phase

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

PHASES = (Phase("alone", 2, unlabeled=0), Phase("both", 30, strong=1))
AUGMENT = {"scale": [0.5, 2.0], "jitter": [0.4, 0.4, 0.4, 0.1], "blur": 0.5}


class Counted(Source):
    """Ten images of one color, their number, that note which of them are read."""

    def __init__(self) -> None:
        super().__init__("counted", Classes.of(("a", "b")))
        self.read: list[str] = []

    def ids(self, split: Split) -> tuple[str, ...]:
        return tuple(map(str, range(10))) if split == "train" else ()

    def read_image(self, id_: str) -> NDArray[np.uint8]:
        self.read.append(id_)
        return np.full((32, 32, 3), int(id_), np.uint8)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        return np.full((32, 32), int(id_) % 2, np.uint8)


def read(stream: BatchStream, start: int, stop: int, workers: int = 0) -> list[Batch]:
    return list(batches(stream, start, stop, workers=workers, pin_memory=False))


def same(first: Batch, second: Batch) -> bool:
    return all(
        a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_cache_changes_no_batch_whatever_the_workers_and_the_start(
    cache: str, workers: int, load_tiny: Load, tmp_path: Path
) -> None:
    recipe = load_tiny({"data.augment": AUGMENT})
    source = open_source(recipe.data.spec)
    partition = make_partition(source, recipe.data.partition, recipe.seed)
    expected = read(BatchStream(recipe, source, partition, PHASES), 0, 9)
    kept = load_tiny({"data.augment": AUGMENT, "data.cache": cache, "data.cache_dir": str(tmp_path)})
    for start in (0, 5):  # of the disk, the second run finds what the first left
        found = read(BatchStream(kept, source, partition, PHASES), start, 9, workers)
        assert all(same(*pair) for pair in zip(found, expected[start:], strict=True))


def test_a_cache_decodes_each_image_once(load_tiny: Load) -> None:
    source = Counted()
    partition = make_partition(source, "4", 0)
    stream = BatchStream(load_tiny({"data.cache": "memory"}), source, partition, PHASES)
    plain = BatchStream(load_tiny(), Counted(), partition, PHASES)
    assert all(same(stream[step], plain[step]) for step in range(2, 16))
    assert sorted(source.read) == sorted(source.ids("train"))


def test_what_does_not_fit_is_decoded_each_time(load_tiny: Load) -> None:
    source = Counted()
    partition = make_partition(source, "4", 0)
    recipe = load_tiny({"data.cache": "memory", "data.cache_gb": 1e-5})
    stream, plain = (BatchStream(each, source, partition, PHASES) for each in (recipe, load_tiny()))
    assert all(same(stream[step], plain[step]) for step in range(2, 6))
    assert len(source.read) > 10


def test_a_source_without_files_is_not_kept_on_disk(load_tiny: Load, tmp_path: Path) -> None:
    source = Counted()
    recipe = load_tiny({"data.cache": "disk", "data.cache_dir": str(tmp_path)})
    with pytest.raises(DatasetError, match=r"data\.cache disk: got counted"):
        BatchStream(recipe, source, make_partition(source, "4", 0), PHASES)


def test_the_disk_cache_lies_in_the_users_cache_folder_or_where_it_is_told(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(load_tiny().data) == tmp_path / "semiseg-zoo" / "pixels"
    assert cache_folder(load_tiny({"data.cache_dir": "/fast"}).data).as_posix() == "/fast"
