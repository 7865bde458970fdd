"""`zoo list` and `zoo info`: available models, and the details of one."""

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
ENCODERS = ("name", "million parameters", "strides", "patch", "image size", "license", "weights here")
NUMBERS = frozenset({"million parameters", "patch", "MB", "mIoU %, paper", "labels only"})
PREFIX = "file:"


def list_models(
    method: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Only this method: unimatch, fixmatch, eln, rrn, u2pl, s4gan, mlmt or supervised.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Only this data set: voc, cityscapes, shapes, ...")
    ] = None,
    registry: Annotated[
        str | None, typer.Option(metavar="file:DIR", help="Also list the models in a shared folder.")
    ] = None,
    encoders: Annotated[
        bool, typer.Option("--encoders", help="List encoders of zoo train instead of models.")
    ] = False,
    match: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="With --encoders: all whose name matches, e.g. 'vit_small*'."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List models on this machine and in registries, and the published rows that can be trained."""
    if match is not None and not encoders:
        raise typer.BadParameter("names are matched among encoders: add --encoders", param_hint="--match")
    if encoders:
        if method or data or registry:
            raise typer.BadParameter("--encoders lists no models: leave the other options out")
        _list_encoders(match, as_json=as_json)
        return
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


def _list_encoders(pattern: str | None, *, as_json: bool) -> None:
    """Print the facts of encoders."""
    from zoo.models.facts import encoder_facts, encoder_names

    found = [encoder_facts(name) for name in encoder_names(pattern)]
    cells = [
        (
            facts.name,
            f"{facts.parameters / 1e6:.1f}",
            ", ".join(map(str, facts.strides)),
            str(facts.patch or "-"),
            "any" if facts.size is None else "one",
            (facts.license or "unknown") if facts.weights else "no weights",
            "yes" if facts.is_here else "no",
        )
        for facts in found
        if facts.parameters is not None
    ]
    shown: list[Any] = [plain_table("Encoders", ENCODERS, cells)] if cells else []
    shown += [f"refused: {facts.refused}" for facts in found if facts.refused]
    if pattern is None:
        shown.append("Others: any model of timm, e.g. zoo list --encoders --match 'vit_small*'.")
    emit({"encoders": [facts._asdict() for facts in found]}, *shown, as_json=as_json)


def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A run or bundle folder, a name in a registry, or an alias from zoo list."
        ),
    ],
    offline: Annotated[
        bool, typer.Option("--offline", help="Use only models that were pulled before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the card and files of MODEL, or the commands that train a published row."""
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
    """Return the item of a bundle; print a remark and return None if it cannot be read."""
    folder, name, where, revision = found
    try:
        return read_item(folder, name, where, revision)
    except ZooError as error:
        remarks.print(f"skipped: {error}")
        return None


def _check_filters(items: Sequence[Item], method: str | None, data: str | None) -> None:
    """Check that the method and the data set exist.

    Raises:
        typer.BadParameter: one of them is unknown.
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
    """Return the terminal output."""
    shown: list[Any] = []
    if items:
        cells = [
            (item.name, item.method, item.data, _measured(item), item.license, f"{item.bytes / 1e6:.1f}")
            for item in items
        ]
        shown.append(
            plain_table(
                "On this machine" if registry is None else f"On this machine and in {registry}", LOCAL, cells
            )
        )
    if rows:
        figures = [(entry.alias, f"{entry.miou:.2f}", _percent(entry.labels_only)) for entry in rows]
        shown.append(plain_table("Reported by the papers, not measured here", PUBLISHED, figures))
        without = sum(entry.bundle is None for entry in rows)
        shown.append(
            f"{without} of these have no weights yet: zoo info NAME prints the commands that train one."
        )
    return shown or ["no model matches: zoo list without options shows all"]


def _measured(item: Item) -> str:
    return "not yet" if item.value is None else f"{item.figure} {100 * item.value:.1f} %"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _entry_lines(entry: Entry) -> list[Any]:
    """Return the terminal output for a published row."""
    network = f"{entry.architecture}, {entry.encoder or 'encoder not stated'}"
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
        f"{entry.alias} has no weights yet. Commands that train it, with DIR the folder of {entry.data}:",
        *(f"  {command}" for command in entry.commands),
    ]


def _details(item: Item, files: dict[str, int], card: str) -> list[Any]:
    """Return the terminal output for a bundle: facts, files, card."""
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
    """Return a card without its metadata, rendered on a terminal and verbatim elsewhere."""
    parts = card.split("---\n", 2)
    body = parts[2] if card.startswith("---\n") and len(parts) == 3 else card
    if not body.strip():
        return ["The bundle has no card."]
    if not sys.stdout.isatty():
        return [body.strip()]
    from rich.markdown import Markdown

    return [Markdown(body)]


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a borderless table that stays readable at 80 columns: only the first column may wrap."""
    from rich import box
    from rich.table import Table

    result = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns)
    )
    is_list = any(columns)
    for index, column in enumerate(columns):
        is_wide = (index == 0) == is_list  # the name in a list, the value among facts
        is_number = column in NUMBERS
        result.add_column(
            column, justify="right" if is_number else "left", no_wrap=not is_wide, overflow="fold"
        )
    for row in rows:
        result.add_row(*row)
    return result
