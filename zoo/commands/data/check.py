"""`zoo data check`: faults of images and masks, before training."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.console import AsJson, Overwrite, emit, remarks, table
from zoo.progress import Progress

if TYPE_CHECKING:
    from zoo.data.inspect.inspection import Inspection
    from zoo.outputs import Outputs

REPORT = "report.html"
MOST_SHOWN = 3
"""Files or findings of one kind that are shown on the terminal."""


def check(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="A folder, a data.toml, voc:DIR, cityscapes:DIR, ...")
    ],
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Write the proposed data.toml to PATH, replacing an existing file."
        ),
    ] = None,
    no_write: Annotated[
        bool, typer.Option("--no-write", help="Do not write a data.toml into a folder that has none.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a page with pictures, report.html, to DIR.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Check every image and mask of SPEC for faults that would spoil training; exit with 1 if there are any.

    A folder without a data.toml gets a proposed one if its masks allow it.
    """
    from zoo.data.inspect.inspection import inspect
    from zoo.outputs import Outputs

    outputs = None if report is None else Outputs(report, (REPORT,), "--report", overwrite=overwrite)
    with ExitStack() as stack:
        bars: list[Progress] = []

        def on_file(_: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(Progress(total)))
            bars[0].advance()

        inspection = inspect(spec, on_file)
    written = None if no_write and write is None else _write_proposal(inspection, write)
    page = None if outputs is None else _write_report(inspection, outputs)
    value = inspection.as_json() | {
        "written": None if written is None else str(written),
        "report": None if page is None else str(page),
    }
    emit(value, *_shown(inspection, value, page), as_json=as_json)
    if inspection.has_faults:
        raise typer.Exit(1)


def _write_proposal(inspection: Inspection, write: Path | None) -> Path | None:
    """Write the proposed `data.toml` and return its path, or None if it is not wanted or not possible."""
    from zoo.data.inspect.proposal import write_proposal

    path = inspection.toml if write is None else write
    if inspection.meaning.proposal is None:
        if write is not None:
            remarks.print(f"{write} was not written: there is nothing to propose")
        return None
    if write is None and path.exists():
        return None
    try:
        write_proposal(inspection.meaning.proposal, inspection.root, path)
    except OSError as error:
        remarks.print(f"{path} was not written ({error.strerror}): choose another path with --write PATH")
        return None
    return path


def _write_report(inspection: Inspection, outputs: Outputs) -> Path:
    from zoo.bundle.bundle import write_text
    from zoo.data.inspect.page import html

    path = outputs.folder / REPORT
    with outputs.writing():
        write_text(path, html(inspection))
    return path


def _shown(inspection: Inspection, value: dict[str, Any], page: Path | None) -> list[Any]:
    """Return the terminal output."""
    counts = [
        (
            split,
            f"{found['images']:,}",
            f"{found['masks']:,}",
            _first(found["sizes"]),
            _first(found["mask_modes"]),
        )
        for split, found in value["counts"].items()
    ]
    classes = [
        (
            row["name"],
            *(
                text
                for split in ("train", "val")
                for text in (f"{100 * row[f'{split}_share']:.2f}", f"{row[f'{split}_images']:,}")
            ),
        )
        for row in value["classes"]
    ]
    heads = ("class", "train, % of pixels", "images", "val, % of pixels", "images")
    groups = value["findings"]
    columns = ("split", "images", "masks", "sizes", "mask modes")
    is_labeled = any(row["train_images"] or row["val_images"] for row in value["classes"])
    shown: list[Any] = [
        *([f"{inspection.spec}: recognized as {inspection.tool}"] if inspection.tool else []),
        *([table(f"Images of {inspection.spec}", columns, counts)] if inspection.items else []),
        *([table("Classes", heads, classes)] if is_labeled else []),
        *(line for group in groups for line in _group(group)),
        _verdict(groups, len(inspection.items)),
    ]
    if value["written"]:
        shown.append(f"Wrote {value['written']}: rename the classes in it, then check again.")
    elif inspection.meaning.proposal is not None:
        shown.append("zoo proposes a data.toml: --write PATH writes it.")
    if page is not None:
        shown.append(f"See the pictures in {page}.")
    return shown


def _first(counted: dict[str, int]) -> str:
    """Return the most frequent key, and how many more there are."""
    most = next(iter(counted), "")
    return f"{most} and {len(counted) - 1} more" if len(counted) > 1 else most


def _group(group: dict[str, Any]) -> list[str]:
    """Return the lines for one kind of finding: its count, the first findings, and the remedy."""
    lines = [f"{group['severity']}: {group['title']} ({group['count']})"]
    findings = group["findings"]
    lines += [f"    {_line(one)}" for one in findings[:MOST_SHOWN]]
    if len(findings) > MOST_SHOWN:
        lines.append(f"    and {len(findings) - MOST_SHOWN} more")
    return [*lines, f"    -> {group['remedy']}"]


def _line(finding: dict[str, Any]) -> str:
    files = finding["files"]
    more = f" and {len(files) - MOST_SHOWN} more" if len(files) > MOST_SHOWN else ""
    return ": ".join(filter(None, (", ".join(files[:MOST_SHOWN]) + more, finding["detail"])))


def _verdict(groups: list[dict[str, Any]], images: int) -> str:
    faults = sum(group["severity"] == "fault" for group in groups)
    warnings = len(groups) - faults
    if faults:
        kinds = f"{faults} kind{'s' * (faults != 1)} of faults"
        return f"{kinds} that would spoil training, {warnings} of warnings, in {images} images."
    return f"No faults, {warnings or 'no'} kind{'s' * (warnings != 1)} of warnings, in {images} images."
