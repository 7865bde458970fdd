"""Size, memory, processor time and border differences of `zoo predict --tile`: docs/results/tiles.md.

    python tests/survey/tiles.py MODEL... --side 1025 --side 2049 --height 16385 --out docs/results/tiles.md

A scene is a mosaic of `val` images of `shapes`, written as a TIFF. Each row is a process of its own, whose
peak of memory and processor time the system measures. Where one pass fits, the masks are compared.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import rasterio
from rasterio.windows import Window

from zoo.data.open import open_source
from zoo.predictors.load import load_predictor

if TYPE_CHECKING:
    from zoo.classes import Mask

Size = tuple[int, int]

HEADER = """# Tiles

One pass against `zoo predict --tile`: mosaics of `val` images of `shapes` in TIFF files, one thread of a CPU.
Memory is the peak of the process (PyTorch alone takes {base:.0f} MB). Seconds are processor time, because the
machine was busy. "Other" pixels have another class than in one pass, "wrong" ones another than the truth.

```sh
{command}
```

| trained at | scene, pixels | way | memory, MB | processor s | other | wrong |
|---|--:|---|--:|--:|--:|--:|
"""


class Run(NamedTuple):
    """A prediction that ended."""

    mask: Mask
    memory_mb: float
    seconds: float


def write_scene(path: Path, size: Size) -> Mask:
    """Write a mosaic of images of `shapes` by rows and return its truth, (H, W)."""
    source = open_source("shapes:500")
    ids, random = source.ids("val"), np.random.default_rng(0)
    height, width = size
    truth = np.empty(size, np.uint8)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "compress": "deflate", "tiled": True}
    with rasterio.open(path, "w", height=height, width=width, **profile) as file:
        top = 0
        while top < height:
            chosen = [ids[index] for index in random.integers(len(ids), size=-(-width // 96))]
            rows = np.concatenate([source.read_image(each) for each in chosen], axis=1)
            masks = np.concatenate([source.read_mask(each) for each in chosen], axis=1)
            rows = rows[: height - top, :width]
            truth[top : top + len(rows)] = masks[: len(rows), :width]
            file.write(np.moveaxis(rows, -1, 0), window=Window(0, top, width, len(rows)))
            top += len(rows)
    return truth


def one_pass(model: Path, scene: Path, out: Path) -> None:
    """Write the mask of one forward pass, called in a process of its own."""
    with rasterio.open(scene) as file:
        image = np.ascontiguousarray(np.moveaxis(file.read(), 0, -1))
    np.save(out, load_predictor(model).run(image[None])[0])


def measured(arguments: list[str]) -> tuple[float, float]:
    """Run a command and return its peak of resident memory in MB and its processor time in seconds."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{shlex.join(arguments)} failed")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def whole(model: Path, scene: Path, folder: Path) -> Run:
    """Return the mask of one pass."""
    out = folder / "mask.npy"
    usage = measured([sys.executable, __file__, str(model), "--one-pass", str(scene), str(out)])
    return Run(np.load(out), *usage)


def in_tiles(model: Path, scene: Path, folder: Path, tile: int, overlap: float) -> Run:
    """Return the mask of `zoo predict --tile`."""
    options = ["--tile", str(tile), "--overlap", str(overlap), "--out", str(folder), "--overwrite"]
    usage = measured(["zoo", "predict", str(model), str(scene), *options, "--device", "cpu", "--json"])
    with rasterio.open(folder / "scene.mask.tif") as file:
        return Run(file.read(1), *usage)


def rows_of(model: Path, size: Size, folder: Path, options: argparse.Namespace) -> list[str]:
    """Return the rows of the table for a model and a scene."""
    scene = folder / "scene.tif"
    truth = write_scene(scene, size)
    tiles = in_tiles(model, scene, folder, options.tile, options.overlap)
    runs = {f"--tile {options.tile} --overlap {options.overlap:g}": tiles}
    if size[0] <= options.largest:
        runs = {"one pass": whole(model, scene, folder)} | runs
    sides = "x".join(map(str, load_predictor(model).preprocessing.imgsz))
    rows = []
    for way, run in runs.items():
        is_compared = run is tiles and len(runs) > 1
        other = f"{np.mean(run.mask != runs['one pass'].mask):.2%}" if is_compared else ""
        wrong = f"{np.mean(run.mask != truth):.2%}"
        usage = f"{run.memory_mb:.0f} | {run.seconds:.0f}"
        rows.append(f"| {sides} | {size[1]} x {size[0]} | {way} | {usage} | {other} | {wrong} |")
        sys.stderr.write(f"{rows[-1]}\n")
    return rows


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--side", type=int, action="append", default=[], help="of a square scene")
    parser.add_argument("--height", type=int, action="append", default=[], help="of one as wide as the last")
    parser.add_argument("--largest", type=int, default=2100, help="largest side of one pass")
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--out", type=Path, default=Path("tiles.md"))
    parser.add_argument("--one-pass", nargs=2, type=Path)
    options = parser.parse_args()
    if options.one_pass:
        one_pass(options.models[0], *options.one_pass)
        return
    base, _ = measured([sys.executable, "-c", "import zoo.predictors.eager"])
    rows: list[str] = []
    for model in options.models:
        sizes = [(side, side) for side in options.side] + [
            (height, options.side[-1]) for height in options.height
        ]
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                rows += rows_of(model, size, Path(folder), options)
    command = shlex.join(["python", "tests/survey/tiles.py", *sys.argv[1:]])
    options.out.write_text(HEADER.format(command=command, base=base) + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
