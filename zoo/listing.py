"""Available models: runs, copies, pulled bundles and those of a shared folder, without loading them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import BundleError, ZooError
from zoo.resolve import RUNS, is_name, resolve_model

if TYPE_CHECKING:
    from collections.abc import Iterator

COPIES = Path("pulled")
CONFIG_NAME, CARD_NAME = "config.json", "README.md"


class Item(NamedTuple):
    """A bundle on this machine, or one that can be pulled from a shared folder."""

    name: str
    """Its MODEL argument on the command line."""
    where: str
    """`run`, `copy`, `cache` or `registry`."""
    path: str
    revision: str | None
    method: str
    data: str
    figure: str
    """Name of its main metric: `mIoU`, or `F1` for a classifier."""
    value: float | None
    """Its main metric on `val`, 0..1; None if it was not measured."""
    license: str
    bytes: int


def read_item(folder: Path, name: str, where: str, revision: str | None = None) -> Item:
    """Return the entry of a bundle, read from its configuration and card.

    Args:
        folder: folder of the bundle.
        name: its MODEL argument on the command line.
        where: `run`, `copy`, `cache` or `registry`.
        revision: its revision in a registry.

    Raises:
        ZooError: a configuration or card that cannot be read.
    """
    from zoo.card.licenses import UNKNOWN, data_name, stated_license
    from zoo.evaluation.figures import TAGS, figures_of

    config = read_config(folder)
    val: dict[str, Any] = config.get("metrics", {}).get("val") or {}
    figures = TAGS if config["deployable"].get("kind") == "classifier" else figures_of(val or {"miou": None})
    files = [path for path in folder.rglob("*") if path.is_file()]
    return Item(
        name=name,
        where=where,
        path=str(folder),
        revision=revision,
        method=config["method"],
        data=data_name(config.get("recipe", {}).get("data", {}).get("spec")),
        figure=figures.overall[figures.main],
        value=val.get(figures.main),
        license=stated_license(folder / CARD_NAME).get("license", UNKNOWN),
        bytes=sum(path.stat().st_size for path in files),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed `config.json` of a bundle, not validated.

    Raises:
        ZooError: the file cannot be read, or is not that of a bundle.
    """
    path = folder / CONFIG_NAME
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
        if isinstance(config["method"], str) and isinstance(config["deployable"], dict):
            return config
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ZooError(f"{path} is not the configuration of a bundle: strip or export the run again")


def local_folders() -> Iterator[tuple[Path, str, str, str | None]]:
    """Yield folder, name, place and revision of each local bundle: runs, copies, then pulled bundles."""
    from zoo.registry.local import cached

    for config in sorted(RUNS.glob(f"**/bundle*/{CONFIG_NAME}")):
        folder = config.parent
        yield folder, str(folder.parent if folder.name == "bundle" else folder), "run", None
    for config in sorted(COPIES.glob(f"*/{CONFIG_NAME}")):
        yield config.parent, str(config.parent), "copy", None
    for bundle in cached():
        yield bundle.path, bundle.name, "cache", bundle.revision


def registry_folders(root: Path) -> Iterator[tuple[Path, str, str, str | None]]:
    """Yield folder, name, place and revision of each model in a folder registry.

    Raises:
        ZooError: the folder does not exist.
    """
    from zoo.registry.folder import find, listed
    from zoo.registry.names import FOLDER_PREFIX, parse_name

    if not root.is_dir():
        raise ZooError(f"{root} is not a folder, expected a registry, made by zoo push MODEL file:DIR/NAME")
    for name in listed(root):
        text = f"{FOLDER_PREFIX}{(root / name).as_posix()}"
        folder, revision = find(parse_name(text))
        yield folder, text, "registry", revision


def find_model(text: str, *, offline: bool = False) -> Path:
    """Return the bundle folder or artifact that a text names; a registry name is pulled.

    Args:
        text: a run or bundle folder, an artifact, a name in a registry or an alias of the catalog; a name in
            `zoo.lock` is pulled at the locked revision.
        offline: whether to use only models that were pulled before.

    Raises:
        ZooError: the model does not exist.
    """
    path = Path(text).expanduser()
    if path.exists():
        return resolve_model(str(path))
    _check_name(text)
    from zoo.registry.lock import LOCK_NAME, read_lock
    from zoo.registry.pull import pull

    return pull(text, offline=offline, locked=text in read_lock(Path(LOCK_NAME)).models)


def find_card(text: str, *, offline: bool = False) -> tuple[Path, str | None]:
    """Return the folder that holds the card and configuration of a bundle, and its revision in a registry.

    Args:
        text: a model, as for `find_model`.
        offline: whether to use only models that were pulled before.

    Raises:
        ZooError: the model does not exist, or is an artifact outside a bundle.
    """
    from zoo.bundle.bundle import find_bundle
    from zoo.registry.pull import look

    path = Path(text).expanduser()
    if not path.exists():
        _check_name(text)
        return look(text, offline=offline)
    folder = find_bundle(resolve_model(str(path)))
    if folder is None:
        raise BundleError(f"{path} is not in a bundle, expected one: its card and configuration are there")
    return folder, None


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file of a bundle by path, including files that were not pulled."""
    from zoo.bundle.manifest import read_manifest

    listed = {name: entry.bytes for name, entry in read_manifest(folder).files.items()}
    paths = [path for path in folder.rglob("*") if path.is_file()]
    present = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    return dict(sorted({**listed, **present}.items()))


def _check_name(text: str) -> None:
    """Raise unless a text is a name in a registry or an alias; the error suggests what it may mean."""
    from zoo.catalog import entries, nearest, recipe_names

    if is_name(text):
        return
    if text in recipe_names():
        rows = [entry.alias for entry in entries() if entry.recipe == text]
        told = f", zoo info {rows[0]} tells what its paper reports" if rows else ""
        raise BundleError(
            f"{text} is a recipe, expected a model, which zoo list shows: zoo train "
            f"{text.partition('_')[0]} --recipe {text} trains one{told}"
        )
    near = nearest(text)
    hint = f"; nearest in zoo list: {', '.join(near)}" if near else ""
    raise BundleError(
        f"{text} is neither a path that exists nor a name such as owner/name or file:DIR/name{hint}"
    )
