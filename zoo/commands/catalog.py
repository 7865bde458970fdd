"""`zoo list` and `zoo info`: what there is, and all that is known of one model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.console import AsJson, emit, remarks
from zoo.errors import ZooError
from zoo.listing import CARD_NAME, Item, file_sizes, find_card, local_folders, read_item, registry_folders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from zoo.catalog import Entry

LOCAL = ("name", "method", "data", "measured", "license", "MB")
PUBLISHED = ("name", "mIoU %, paper", "labels only")
NUMBERS = frozenset({"MB", "mIoU %, paper", "labels only"})
PREFIX = "file:"


def list_models(
    method: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="Only unimatch, fixmatch, eln, rrn, u2pl, s4gan, mlmt or supervised."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Only this data set: voc, cityscapes, shapes, ...")
    ] = None,
    registry: Annotated[
        str | None, typer.Option(metavar="file:DIR", help="Also what a shared folder holds.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the models here and in registries, and the rows of the papers that can be trained."""
    from zoo.catalog import entries

    folders = list(local_folders())
    if registry is not None:
        folders += registry_folders(Path(registry.removeprefix(PREFIX)).expanduser())
    found = [item for item in map(_item, folders) if item]
    _check_filters(found, method, data)
    items = [item for item in found if _wanted(item.method, item.data, method, data)]
    rows = [entry for entry in entries() if _wanted(entry.method, entry.data, method, data)]
    value = {
        "models": [item._asdict() for item in items],
        "published": [{**entry._asdict(), "commands": entry.commands} for entry in rows],
    }
    emit(value, *_shown(items, rows, registry), as_json=as_json)


def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A run or bundle folder, a name of a registry, or an alias of zoo list."
        ),
    ],
    offline: Annotated[bool, typer.Option("--offline", help="Use what was pulled before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the card of MODEL and its files; of a row of a paper, how to train it."""
    from zoo.catalog import find_entry

    entry = None if Path(model).exists() else find_entry(model)
    if entry is not None and entry.bundle is None:
        emit({**entry._asdict(), "commands": entry.commands}, *_entry_lines(entry), as_json=as_json)
        return
    folder, revision = find_card(model, offline=offline)
    files = file_sizes(folder)
    item = read_item(folder, model, "folder" if revision is None else "registry", revision)
    item = item._replace(bytes=sum(files.values()))
    card = folder / CARD_NAME
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    emit({**item._asdict(), "files": files, "card": text}, *_details(item, files, text), as_json=as_json)


def _item(found: tuple[Path, str, str, str | None]) -> Item | None:
    """Return what is known of a bundle; of one that cannot be read, only a remark is left."""
    folder, name, where, revision = found
    try:
        return read_item(folder, name, where, revision)
    except ZooError as error:
        remarks.print(f"left out: {error}")
        return None


def _check_filters(items: Sequence[Item], method: str | None, data: str | None) -> None:
    """Raise for a method or a data set that nothing is known of.

    Raises:
        typer.BadParameter: so.
    """
    from zoo.catalog import known_data, known_methods

    methods = known_methods() | {name for item in items for name in item.method.split(" + ")}
    if method is not None and not any(_wanted(name, "", method, None) for name in methods):
        raise _unknown("--method", method, methods)
    sets = known_data() | {item.data for item in items}
    if data is not None and not any(_wanted("", name, None, data) for name in sets):
        raise _unknown("--data", data, sets)


def _unknown(option: str, got: str, known: set[str]) -> typer.BadParameter:
    return typer.BadParameter(
        f"{got!r} is unknown, expected one of {', '.join(sorted(known))}", param_hint=option
    )


def _wanted(method: str, data: str, wanted_method: str | None, wanted_data: str | None) -> bool:
    is_method = wanted_method is None or wanted_method.casefold() in method.split(" + ")
    return is_method and (wanted_data is None or wanted_data.casefold() in data.casefold())


def _shown(items: Sequence[Item], rows: Sequence[Entry], registry: str | None) -> list[Any]:
    """Return what a person sees."""
    shown: list[Any] = []
    if items:
        cells = [
            (item.name, item.method, item.data, _measured(item), item.license, f"{item.bytes / 1e6:.1f}")
            for item in items
        ]
        shown.append(plain_table("Here" if registry is None else f"Here and in {registry}", LOCAL, cells))
    if rows:
        figures = [(entry.alias, f"{entry.miou:.2f}", _percent(entry.labels_only)) for entry in rows]
        shown.append(plain_table("Reported by the papers, not measured here", PUBLISHED, figures))
        without = sum(entry.bundle is None for entry in rows)
        shown.append(f"{without} of these have no weights yet: zoo info NAME prints how to train one.")
    return shown or ["nothing of this kind: zoo list without options shows all"]


def _measured(item: Item) -> str:
    return "not yet" if item.value is None else f"{item.figure} {100 * item.value:.1f} %"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _entry_lines(entry: Entry) -> list[Any]:
    """Return what a person sees of a row of a paper."""
    network = f"{entry.architecture}, {entry.encoder or 'encoder not said'}"
    facts = [
        ("method", entry.method),
        ("data", entry.data),
        ("labeled", f"{entry.partition}, list: {entry.partition_list}"),
        ("network", network),
        ("mIoU %", f"{entry.miou:.2f}, reported by the paper, not measured here"),
        ("labels only", _percent(entry.labels_only)),
        ("protocol", entry.protocol),
        ("source", entry.source),
    ]
    return [
        plain_table(entry.alias, ("", ""), facts),
        f"{entry.alias} has no weights yet. This makes them, DIR being the folder of {entry.data}:",
        *(f"  {command}" for command in entry.commands),
    ]


def _details(item: Item, files: dict[str, int], card: str) -> list[Any]:
    """Return what a person sees of a bundle: facts, files, card."""
    facts = [
        ("folder", item.path),
        *([("revision", item.revision)] if item.revision else []),
        ("measured", _measured(item)),
        ("license", item.license),
        ("size", _size(item.bytes)),
        *((name, _size(size)) for name, size in files.items()),
    ]
    return [plain_table(item.name, ("", ""), facts), *_rendered(card)]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _rendered(card: str) -> list[Any]:
    """Return a card without its metadata, drawn on a terminal and as it is elsewhere."""
    parts = card.split("---\n", 2)
    body = parts[2] if card.startswith("---\n") and len(parts) == 3 else card
    if not body.strip():
        return ["It has no card."]
    if not sys.stdout.isatty():
        return [body.strip()]
    from rich.markdown import Markdown

    return [Markdown(body)]


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table without frame that stays readable at 80 columns: the first column wraps, if any."""
    from rich import box
    from rich.table import Table

    result = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns)
    )
    is_list = any(columns)
    for index, column in enumerate(columns):
        is_wide = (index == 0) == is_list  # of a list the name, of facts what is told
        is_number = column in NUMBERS
        result.add_column(
            column, justify="right" if is_number else "left", no_wrap=not is_wide, overflow="fold"
        )
    for row in rows:
        result.add_row(*row)
    return result
