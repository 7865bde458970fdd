"""`zoo pull`: bundles from the Hub, a shared folder or a tar file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.catalog import resolve_alias
from zoo.commands.console import AsJson, emit, remarks
from zoo.registry.names import parse_name

if TYPE_CHECKING:
    from zoo.registry.pull import Pulled

LOCK = Path("zoo.lock")
SUFFIX = ".tar"


def pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="owner/name[@revision], file:DIR/name[@revision] or a .tar; with --locked, default: all in "
            "zoo.lock.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Copy the bundle to a new, writable folder."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.tar", help="Write the bundle to a tar file, for a machine without a network."
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use only bundles that were pulled before.")
    ] = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="Refuse anything that differs from zoo.lock.")
    ] = False,
    artifacts: Annotated[
        bool, typer.Option("--artifacts/--no-artifacts", help="Also pull exported files and figures.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Pull bundles, check them, and record their revisions and hashes in zoo.lock."""
    if locked and not names:
        names = _locked_names()
    names = _check(names or [], is_one=out is not None or bundle is not None)

    from zoo.outputs import MOVE, exists, refusal
    from zoo.registry.archive import is_archive, write_archive
    from zoo.registry.pull import copy_to, fetch, unpack

    if bundle is not None and exists(bundle) and not is_archive(bundle):
        raise refusal(bundle.parent, [bundle.name], "--bundle", MOVE)
    _set_up_bars()
    results: list[dict[str, Any]] = []
    for name in names:
        if name.endswith(SUFFIX):
            pulled = unpack(Path(name), out, locked=locked, lock=LOCK)
        else:
            pulled = fetch(
                name, offline=offline, locked=locked, lock=LOCK, artifacts=artifacts, say=remarks.print
            )
            if out is not None:
                pulled = pulled._replace(folder=copy_to(pulled, out))
        if bundle is not None:
            write_archive(bundle, pulled.name, pulled.locked, pulled.folder)
        results.append(_result(pulled, bundle))
    emit(results, *(_line(result) for result in results), as_json=as_json)


def _check(names: list[str], *, is_one: bool) -> list[str]:
    """Return the names, checked before PyTorch is loaded."""
    if not names:
        raise typer.BadParameter(
            "got no model, expected owner/name, file:DIR/name or a .tar", param_hint="NAME"
        )
    if is_one and len(names) > 1:
        raise typer.BadParameter(
            f"got {len(names)} models, expected one with --out or --bundle", param_hint="NAME"
        )
    for name in names:
        if not name.endswith(SUFFIX):
            parse_name(resolve_alias(name))
    return names


def _locked_names() -> list[str]:
    """Return the models in zoo.lock.

    Raises:
        typer.BadParameter: there are none.
    """
    from zoo.registry.lock import read_lock

    names = list(read_lock(LOCK).models)
    if not names:
        raise typer.BadParameter(
            f"{LOCK} is empty, expected models: zoo pull NAME without --locked adds one",
            param_hint="--locked",
        )
    return names


def _result(pulled: Pulled, bundle: Path | None) -> dict[str, Any]:
    return {
        "name": pulled.name,
        "revision": pulled.locked.revision,
        "folder": str(pulled.folder),
        "bundle": None if bundle is None else str(bundle),
        "files": pulled.locked.files,
    }


def _line(result: dict[str, Any]) -> str:
    where = result["bundle"] or result["folder"]
    return f"{result['name']} at {result['revision'][:12]}, {len(result['files'])} files checked: {where}"


def _set_up_bars() -> None:
    """Disable the progress bars of the Hub's client in files and pipes."""
    if remarks.console.is_terminal:
        return
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
