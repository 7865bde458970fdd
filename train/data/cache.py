"""Choice and size limit of a run's cache of decoded images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.data.cache.cached import GB, CachedSource
from zoo.data.cache.disk import DiskCache
from zoo.errors import RecipeError
from zoo.machine import pixel_cache
from zoo.memory import MIB, free_ram_mib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.data.cache.cached import Cache
    from zoo.data.source import Source
    from zoo.image_format import Dtype
    from zoo.train.recipe.schema import DataConfig

DEFAULT_SHARE = 0.5
"""Default share of the free memory."""


def with_cache(source: Source, ids: Sequence[str], data: DataConfig, world: int) -> Source:
    """Return the source with the cache of a recipe, or the source itself if the recipe has none.

    Args:
        source: source of the images.
        ids: ids of the images to be read.
        data: data settings of the recipe.
        world: number of processes, which share the memory of the machine.

    Raises:
        ZooError: the source or the machine does not support the cache.
    """
    if data.cache == "none":
        return source
    limit = None if data.cache_gb is None else int(data.cache_gb * GB)
    cache = (
        DiskCache(source, cache_folder(data), limit)
        if data.cache == "disk"
        else _memory(ids, limit, world, source.format.dtype)
    )
    return CachedSource(source, cache)


def _memory(ids: Sequence[str], limit: int | None, world: int, dtype: Dtype) -> Cache:
    if sys.platform != "linux":
        raise RecipeError(f"data.cache memory needs Linux, got {sys.platform}: take data.cache=disk")
    from zoo.data.cache.memory import MemoryCache  # imports modules that other systems lack

    return MemoryCache(ids, _free_bytes(world) if limit is None else limit, dtype)


def cache_folder(data: DataConfig) -> Path:
    """Return the folder of decoded images on disk."""
    return pixel_cache() if data.cache_dir is None else Path(data.cache_dir).expanduser()


def _free_bytes(world: int) -> int:
    free = free_ram_mib()
    if free is None:
        raise RecipeError("data.cache memory: this system does not say what is free: give data.cache_gb")
    return int(DEFAULT_SHARE * free * MIB / world)
