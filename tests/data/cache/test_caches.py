"""Decoded pixels that are kept: shared by processes, bounded, never out of date, never broken."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.classes import Classes
from zoo.data.cache.cached import CachedSource
from zoo.data.cache.disk import DiskCache
from zoo.data.cache.memory import MemoryCache
from zoo.data.files import FileSource, Pair
from zoo.data.folder import FolderSource
from zoo.data.labels import LabelMap
from zoo.data.shapes import ShapesSource
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.data.source import Source

ID = "train/3"


@pytest.fixture
def source(tiny_folder: Path) -> FolderSource:
    return FolderSource(str(tiny_folder))


@pytest.fixture
def pair(tmp_path: Path) -> FileSource:
    """Return a source of one image, 10 all over, whose mask is 1."""
    for name, value in (("image", (10, 10, 10)), ("mask", 1)):
        mode = "RGB" if name == "image" else "L"
        Image.new(mode, (8, 6), value).save(tmp_path / f"{name}.png")
    files = {"train": {"a": Pair(tmp_path / "image.png", tmp_path / "mask.png")}}
    return FileSource("pair", Classes.of(("a", "b")), files)  # type: ignore[arg-type]


def both(source: Source, id_: str = ID) -> list[NDArray[np.uint8]]:
    return [source.read_image(id_), source.read_mask(id_)]


def kept(cache: MemoryCache | DiskCache, id_: str = ID) -> list[NDArray[np.uint8] | None]:
    return [cache.get("image", id_), cache.get("mask", id_)]


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_what_is_read_again_is_the_same_and_not_decoded(
    where: str, source: FolderSource, tmp_path: Path
) -> None:
    ids = source.ids("train")
    cache = MemoryCache(ids, 10**6) if where == "memory" else DiskCache(source, tmp_path / "new" / "it", None)
    cached = CachedSource(source, cache)
    first, again = ([both(cached, id_) for id_ in ids] for _ in range(2))
    for id_, before, after in zip(ids, first, again, strict=True):
        for pixels, found, expected in zip(before, after, both(source, id_), strict=True):
            assert np.array_equal(pixels, expected)
            assert np.array_equal(found, expected)
            assert found.dtype == np.uint8
        assert all(found is not None for found in kept(cache, id_))


def read_in_process(source: CachedSource) -> None:
    both(source)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_what_one_process_decodes_is_there_for_the_others(start: str, source: FolderSource) -> None:
    cache = MemoryCache(source.ids("train"), 10**6)
    if start == "fork":
        process = multiprocessing.get_context("fork").Process(
            target=read_in_process, args=(CachedSource(source, cache),)
        )
        process.start()
        process.join()
    else:  # what a spawned process is given
        both(pickle.loads(pickle.dumps(CachedSource(source, cache))))
    for found, expected in zip(kept(cache), both(source), strict=True):
        assert found is not None
        assert np.array_equal(found, expected)


def test_a_process_that_dies_at_work_leaves_no_half_image(source: FolderSource) -> None:
    cache = MemoryCache(source.ids("train"), 10**6)

    def die() -> None:
        row = cache._table[cache._row("image", ID)]
        cache._reserve(row, 100)
        os._exit(1)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert cache.get("image", ID) is None
    cached = CachedSource(source, cache)
    assert np.array_equal(cached.read_image(ID), source.read_image(ID))
    assert cache.get("mask", ID) is None
    cached.read_mask(ID)
    assert cache.get("mask", ID) is not None


def test_memory_takes_no_more_than_its_limit_and_says_so_once(
    source: FolderSource, caplog: pytest.LogCaptureFixture
) -> None:
    ids = source.ids("train")
    image = source.read_image(ids[0]).nbytes
    cache = MemoryCache(ids, 3 * image)
    cached = CachedSource(source, cache)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert all(np.array_equal(cached.read_image(id_), source.read_image(id_)) for id_ in ids)
    assert sum(cache.get("image", id_) is not None for id_ in ids) in (2, 3)  # places are aligned
    assert len(caplog.messages) == 1
    assert "data.cache memory is full" in caplog.text


def test_two_processes_fill_one_folder(source: FolderSource, tmp_path: Path) -> None:
    ids = source.ids("train")

    def read_all() -> None:
        cached = CachedSource(source, DiskCache(source, tmp_path / "cache", None))
        for id_ in ids:
            both(cached, id_)

    processes = [multiprocessing.get_context("fork").Process(target=read_all) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 2 * len(ids)  # and no temporary one
    cache = DiskCache(source, tmp_path / "cache", None)
    for id_ in ids:
        for found, expected in zip(kept(cache, id_), both(source, id_), strict=True):
            assert found is not None
            assert np.array_equal(found, expected)


def test_an_original_that_changed_is_decoded_again(pair: FileSource, tmp_path: Path) -> None:
    cached = CachedSource(pair, DiskCache(pair, tmp_path / "cache", None))
    assert cached.read_image("a").max() == 10
    file = pair.files["a"].image
    before = file.stat()
    Image.new("RGB", (8, 6), (20, 20, 20)).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert cached.read_image("a").max() == 20


def test_another_meaning_of_the_masks_is_another_entry(pair: FileSource, tmp_path: Path) -> None:
    cached = CachedSource(pair, DiskCache(pair, tmp_path / "cache", None))
    assert cached.read_mask("a").max() == 1
    other = FileSource("pair", pair.classes, {"train": pair.files}, LabelMap(((1, 0),)))
    assert CachedSource(other, DiskCache(other, tmp_path / "cache", None)).read_mask("a").max() == 0


@pytest.mark.parametrize("damage", ["empty", "cut", "other", "flipped"])
def test_a_broken_file_is_removed_and_made_anew(
    damage: str, pair: FileSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    CachedSource(pair, DiskCache(pair, tmp_path / "cache", None)).read_image("a")
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "cut": content[:-1],
            "other": b"x" * len(content),
            "flipped": content[:-1] + bytes([content[-1] ^ 1]),
        }[damage]
    )
    cached = CachedSource(pair, DiskCache(pair, tmp_path / "cache", None))
    assert np.array_equal(cached.read_image("a"), pair.read_image("a"))
    assert "is damaged: removed" in caplog.text
    assert file.read_bytes() == content


def test_the_disk_keeps_its_spare_room(
    source: FolderSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiskCache(source, tmp_path / "cache", 0)
    cached = CachedSource(source, cache)
    for _ in range(2):
        assert np.array_equal(cached.read_image(ID), source.read_image(ID))
    assert list((tmp_path / "cache").iterdir()) == []
    assert sum("no more is kept" in message for message in caplog.messages) == 1


def test_a_disk_that_cannot_be_written_to_ends_no_run(
    source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiskCache(source, tmp_path / "cache", None)
    monkeypatch.setattr("zoo.data.cache.disk.SUFFIX", "/no/such/folder")
    assert np.array_equal(CachedSource(source, cache).read_image(ID), source.read_image(ID))
    assert "No such file or directory" in caplog.text


def test_what_is_drawn_is_not_kept_on_disk(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"got shapes, whose images are drawn, .* data.cache=memory"):
        DiskCache(ShapesSource(), tmp_path, None)


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(source: FolderSource, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file/cache: got no folder .* data.cache_dir=DIR"):
        DiskCache(source, tmp_path / "file" / "cache", None)


def test_a_cached_source_is_the_source_in_all_else(source: FolderSource) -> None:
    cached = CachedSource(source, MemoryCache(source.ids("train"), 10**6))
    assert (cached.spec, cached.classes) == (source.spec, source.classes)
    assert cached.ids("val") == source.ids("val")
    assert cached.precise_ids() == source.precise_ids()
