"""`zoo data prepare`: download, check and lay out a published data set."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zoo.commands.console import AsJson, emit, remarks
from zoo.progress import LINE_SECONDS

if TYPE_CHECKING:
    from rich.status import Status

    from zoo.data.prepare.archives import DataSet
    from zoo.data.prepare.prepare import Origin, UnpackedArchive

UPDATE_SECONDS = 0.2


def prepare(
    name: Annotated[
        Literal["voc", "cityscapes", "pascal-context", "ade20k", "coco"], typer.Argument(metavar="DATA")
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the data set; existing files are kept.")
    ],
    origin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL_OR_FOLDER",
            help="A folder, or the address of one, that holds the official archives; default: their official "
            "addresses. Cityscapes requires a login.",
        ),
    ] = None,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Accept the terms of the data set without a prompt.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prepare a published data set in DIR: voc (with the masks of SBD), cityscapes, ade20k, ...

    Finished downloads and files are not repeated: after a failure, run the same command again.
    """
    from zoo.data.prepare.archives import DATA_SETS
    from zoo.data.prepare.prepare import count, todo
    from zoo.data.prepare.prepare import prepare as make

    data_set, source = DATA_SETS[name], _origin(origin)
    archives = todo(data_set, folder, source)
    made: list[UnpackedArchive] = []
    if archives:
        _accept(data_set, accepted=accept_license)
        with remarks.status(f"preparing {name}") as status:
            made = make(archives, folder, source, _Report(status))
    train, val = count(data_set, folder)
    value = {
        "data": f"{data_set.spec}:{folder}",
        "train": train,
        "val": val,
        "archives": [
            {"name": each.name, **each.sums._asdict(), "official": each.is_official} for each in made
        ],
    }
    emit(value, *_shown(value, data_set), as_json=as_json)


class _Report:
    """Progress report on standard error.

    Args:
        status: status line to update in a terminal.
    """

    def __init__(self, status: Status) -> None:
        self._status = status
        self._is_terminal = remarks.console.is_terminal
        self._said = time.monotonic()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._said < (UPDATE_SECONDS if self._is_terminal else LINE_SECONDS):
            return
        self._said = now
        text = f"{what}: {progress(done, total)}"
        if self._is_terminal:
            self._status.update(text)
        else:
            remarks.print(text)


def progress(done: int, total: int | None) -> str:
    """Return the progress as text: bytes of a total, or a number of files.

    Example:
        >>> progress(1_500_000_000, 2_000_000_000)
        '1.500 of 2.000 GB (75%)'
        >>> progress(1_500, None)
        '1,500'
    """
    if total is None:
        return f"{done:,}"
    return f"{done / 1e9:.3f} of {total / 1e9:.3f} GB ({done / max(total, 1):.0%})"


def _origin(text: str | None) -> Origin:
    from zoo.data.prepare.prepare import Origin

    if text is None:
        return Origin()
    if text.startswith(("http://", "https://")):
        return Origin(url=text)
    folder = Path(text)
    if not folder.is_dir():
        raise typer.BadParameter(f"{text!r} is not a folder or an http address", param_hint="--from")
    return Origin(folder=folder)


def _accept(data_set: DataSet, *, accepted: bool) -> None:
    """Show the terms and abort unless they are accepted."""
    remarks.print(data_set.notice)
    if accepted:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(
            "the terms are not accepted, expected --accept-license without a terminal",
            param_hint="--accept-license",
        )
    typer.confirm("Do you accept these terms?", abort=True, err=True)


def _shown(value: dict[str, Any], data_set: DataSet) -> list[str]:
    shown = [
        f"{each['name']}: "
        + (
            f"md5 {each['md5']} matches the official sum"
            if each["official"]
            else f"no official sum is known; sha256 {each['sha256']}"
        )
        for each in value["archives"]
    ]
    shown.append(f"{value['data']}: {value['train']:,} training and {value['val']:,} validation images")
    if (value["train"], value["val"]) != data_set.counts:
        expected = " and ".join(f"{number:,}" for number in data_set.counts)
        shown.append(f"the official numbers are {expected}: results are not comparable with published ones")
    shown.append(f"use it: zoo train eln --data {quote(value['data'])} --partition 1/8")
    return shown
