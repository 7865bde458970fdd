"""`zoo push`: a bundle to the Hub or a shared folder."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.commands.console import AsJson, emit, table
from zoo.resolve import resolve_bundle

COLUMNS = ("file", "MB")


def push(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run or bundle folder.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="owner/name on the Hub, or file:DIR/name.")],
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="Name of this revision, e.g. v1.")] = None,
    license_: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="License of the model; default: the one on its card."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create a private repository (Hub).")] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead (Hub).")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the files, their sizes, and reasons to refuse.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Push weights, ONNX files, card and figures of MODEL, if they pass their checks and state a license."""
    bundle = resolve_bundle(model)

    from zoo.registry.files import our_files
    from zoo.registry.push import PushOptions, staged, target_of
    from zoo.registry.push import push as push_bundle

    options = PushOptions(license=license_, tag=tag, private=private, create_pr=create_pr)
    if not dry_run:
        pushed = push_bundle(bundle, name, options)
        emit(pushed._asdict(), f"{pushed.name} at {pushed.revision[:12]}: {pushed.where}", as_json=as_json)
        return
    target = target_of(name, options)
    with staged(bundle, license_) as folder:
        sizes = {file: path.stat().st_size for file, path in our_files(folder).items()}
    rows = [(file, f"{size / 1e6:.3f}") for file, size in sizes.items()]
    rows.append(("all", f"{sum(sizes.values()) / 1e6:.3f}"))
    shown = table(f"Would be pushed to {target.model}", COLUMNS, rows)
    emit({"name": target.model, "files": sizes}, shown, as_json=as_json)
