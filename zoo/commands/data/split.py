"""`zoo data split`: lists of images to label first, for `--partition`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.console import AsJson, Overwrite, emit, remarks, table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zoo.data.source import Source

DEFAULT_GROUPS = "video"
FAR = 0.1
"""Relative deviation from the requested size up to which a list gets no remark."""

SIZE = re.compile(r"\d+(/\d+)?")


def split(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="shapes, voc:DIR, a folder or a data.toml.")],
    sizes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SIZE]...", help="Sizes of the lists: fractions such as 1/8, or numbers of images."
        ),
    ] = None,
    val: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Choose a new val split from all images with masks instead, for a data.toml."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the lists.")] = Path("splits"),
    overwrite: Overwrite = False,
    seed: Annotated[int, typer.Option(help="Seed; another one draws other images.")] = 0,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Keep images together whose names match in the first group of this expression; `video`: "
            "names that end in a frame number.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Choose which training images of SPEC to label: every class among them, in its share of the images.

    Lists of one seed are nested: 1/16 is part of 1/8. The masks of all images are read. With --val and
    --groups, no video is in both train and val.
    """
    sizes = _check_sizes(sizes or [], val)

    from zoo.bundle.bundle import write_text
    from zoo.data.data_file import DATA_FILE, with_new_val
    from zoo.data.folder import FolderSource
    from zoo.data.open import open_source
    from zoo.data.partition import count_of
    from zoo.data.split import SEQUENCE, make_groups, order_units, take
    from zoo.outputs import Outputs

    names = ["val.txt" if val else f"{size.replace('/', '-')}.txt" for size in sizes]
    source = open_source(spec)
    described = source.toml if val and isinstance(source, FolderSource) else None
    files = [*names, DATA_FILE] if described else names
    outputs = Outputs(out, files, "--out", overwrite=overwrite)
    ids = source.ids("train") + (source.ids("val") if val else ())
    asked = ("--val", "train and val have") if val else ("SIZE", "split train has")
    wanted = [count_of(size, len(ids), *asked) for size in sizes]
    units = make_groups(ids, SEQUENCE if groups == DEFAULT_GROUPS else groups)
    presence = _presence(source, ids)
    order = order_units(presence, units, ids, seed)
    lists = []
    with outputs.writing():
        for size, name, count in zip(sizes, names, wanted, strict=True):
            chosen, path = take(order, units, count), out / name
            how = f"{size} of {source.spec}, seed {seed}" + (f", groups {groups}" if groups else "")
            write_text(path, "\n".join([f"# zoo data split: {how}", *(ids[index] for index in chosen), ""]))
            lists.append(
                {
                    "size": size,
                    "file": str(path),
                    "wanted": count,
                    "images": len(chosen),
                    "classes": _count(source, presence[chosen]),
                    "digest": None if val else _digest(source, path, seed),
                }
            )
        if described:
            write_text(out / DATA_FILE, with_new_val(described, out, names[0]))
    value = {
        "data": source.spec,
        "images": len(ids),
        "units": len(units),
        "groups": groups,
        "seed": seed,
        "classes": _count(source, presence),
        "lists": lists,
        "data_file": str(out / DATA_FILE) if described else None,
    }
    emit(value, *_shown(value, is_val=val is not None), as_json=as_json)


def _check_sizes(sizes: list[str], val: str | None) -> list[str]:
    """Return the sizes of the lists, a single one for --val.

    Raises:
        typer.BadParameter: no size, both sizes and --val, or an invalid size.
    """
    if bool(sizes) == (val is not None):
        raise typer.BadParameter("expected either sizes such as 1/8 or --val SIZE", param_hint="SIZE")
    for size in sizes or [val or ""]:
        if not SIZE.fullmatch(size):
            raise typer.BadParameter(f"{size!r} is not a size, expected e.g. 1/8 or 100", param_hint="SIZE")
    return sizes or [val or ""]


def _count(source: Source, presence: NDArray[np.bool_]) -> dict[str, int]:
    """Return the number of images that show each class."""
    return dict(zip(source.classes.names, presence.sum(axis=0).tolist(), strict=True))


def _digest(source: Source, path: Path, seed: int) -> str:
    """Return the partition digest of a run with this list."""
    from zoo.data.partition import make_partition

    return make_partition(source, str(path), seed).digest


def _shown(value: dict[str, Any], *, is_val: bool) -> list[Any]:
    """Return the terminal output: the number of images with each class, in total and in each list."""
    lists = value["lists"]
    rows = [
        (name, str(count), *(_share(each["classes"][name], count) for each in lists))
        for name, count in value["classes"].items()
    ]
    rows.append(("all", str(value["images"]), *(_share(each["images"], value["images"]) for each in lists)))
    columns = ("images with", "train and val" if is_val else "train", *(each["size"] for each in lists))
    title = f"{'A new val' if is_val else 'Labeled images'} of {value['data']}"
    shown: list[Any] = [table(title, columns, rows)]
    for each in lists:
        missing = [name for name, count in each["classes"].items() if not count and value["classes"][name]]
        if abs(each["images"] - each["wanted"]) > FAR * each["wanted"]:
            shown.append(
                f"{each['file']} has {each['images']} images, not {each['wanted']}: groups are kept whole"
            )
        if missing:
            shown.append(f"{each['file']} shows no {', '.join(missing)}: choose a larger size")
        gone = [name for name, count in each["classes"].items() if count and count == value["classes"][name]]
        if is_val and gone and each["images"] < value["images"]:
            shown.append(f"{each['file']} takes every image with {', '.join(gone)}: none is left to train on")
    if value["groups"]:
        shown.append(f"{value['images']} images in {value['units']} groups, which are never divided")
    if value["data_file"]:
        shown.append(f"use it: zoo train eln --data {quote(value['data_file'])}")
    elif is_val:
        shown.append(f"wrote {lists[0]['file']}; only a folder of your own can be given another val")
    else:
        data, file = quote(value["data"]), quote(lists[-1]["file"])
        shown.append(f"use one: zoo train eln --data {data} --partition {file}")
    return shown


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.0%})" if whole else "0"


def _presence(source: Source, ids: Sequence[str]) -> NDArray[np.bool_]:
    """Return which classes each image shows, (N, K)."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from zoo.data.tags import tags_of_mask

    def read(id_: str) -> NDArray[np.bool_]:
        return tags_of_mask(source.read_mask(id_), len(source.classes))

    found = []
    with remarks.status("reading masks") as status, ThreadPoolExecutor() as pool:
        for number, tags in enumerate(pool.map(read, ids), start=1):
            found.append(tags)
            status.update(f"read {number} of {len(ids)} masks")
    return np.array(found, bool).reshape(len(ids), len(source.classes))
