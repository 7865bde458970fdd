"""Pushing of bundles to registries: only permitted files, only after parity, only with a license."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub import metadata_load, metadata_save

from zoo.bundle.bundle import write_json
from zoo.bundle.manifest import FileEntry, Manifest, read_manifest
from zoo.card.licenses import UNKNOWN, check_license, stated_license
from zoo.errors import RegistryError
from zoo.registry import folder as folder_registry
from zoo.registry import hub
from zoo.registry.checks import BrokenBundleError, changes, check_bundle
from zoo.registry.explain import explained
from zoo.registry.files import CARD, MANIFEST, WEIGHTS, our_files
from zoo.registry.names import parse_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo.registry.names import Name


PART = r"""[^\s"'`,;:()/\\]+"""
PATH = re.compile(
    rf"""(?:^|(?<=[\s"'`=:(,]))(?:~?(?:/{PART}){{2,}}|[A-Za-z]:(?:[/\\]{PART})+)[/\\]?""", re.ASCII
)
"""Absolute path in a text: it follows a space, a quote or a sign, which excludes URLs and fractions."""

WHOLE = re.compile(r"(?P<scheme>[a-z][a-z0-9-]+:)?(?P<path>~?/.*|[A-Za-z]:[/\\].*)", re.DOTALL)
"""Text that consists of a path, which may contain spaces, with an optional prefix such as `voc:`."""


class PushOptions(NamedTuple):
    """Options of `push`."""

    license: str | None = None
    """License to write into the model card; None for the one in the card."""
    tag: str | None = None
    private: bool = False
    """Hub only."""
    create_pr: bool = False
    """Hub only."""


class Pushed(NamedTuple):
    """A pushed bundle."""

    name: str
    revision: str
    where: str
    """URL or folder."""


def push(bundle: Path, name: str, options: PushOptions) -> Pushed:
    """Push a bundle to a registry and return its location.

    Args:
        bundle: folder of the bundle, which is not changed.
        name: `owner/name` or `file:DIR/name`.
        options: license, tag and visibility.

    Raises:
        RegistryError: a bundle that must not be pushed, no permission, no network, or no space.
        BundleError: the bundle is broken.
    """
    parsed = target_of(name, options)
    if parsed.registry == "hub":
        with staged(bundle, options.license) as folder:
            commit, address = hub.upload(
                parsed, folder, tag=options.tag, private=options.private, create_pr=options.create_pr
            )
        return Pushed(parsed.model, commit, address)
    with explained(parsed), folder_registry.incoming(parsed) as folder:
        stage(bundle, folder, options.license)
        revision = folder_registry.keep(parsed, folder, options.tag)
    path, _ = folder_registry.find(parsed._replace(revision=revision))
    return Pushed(parsed.model, revision, str(path))


def target_of(name: str, options: PushOptions) -> Name:
    """Return the parsed name of the target.

    Raises:
        RegistryError: an invalid name, or options that its registry does not support.
    """
    parsed = parse_name(name)
    if parsed.revision is not None:
        raise RegistryError(f"{name} has a revision, which the registry assigns: name a push with --tag")
    if parsed.registry == "file" and (options.private or options.create_pr):
        raise RegistryError(f"--private and --create-pr are for the Hub, {name} is a folder: leave them out")
    if options.tag is not None:
        if options.create_pr:
            raise RegistryError("got --tag with --create-pr: tag the model when the pull request is merged")
        folder_registry.check_tag(parsed, options.tag)
    return parsed


@contextmanager
def staged(bundle: Path, license_: str | None = None) -> Iterator[Path]:
    """Yield a temporary folder with the files to push."""
    with tempfile.TemporaryDirectory(prefix="zoo-push-") as name:
        stage(bundle, Path(name), license_)
        yield Path(name)


def stage(bundle: Path, folder: Path, license_: str | None = None) -> None:
    """Copy the files to push to an empty folder, with a manifest of exactly these files, and check them.

    Absolute paths in text files, which reveal names, are shortened to their last part.

    Args:
        bundle: folder of the bundle.
        folder: existing, empty folder.
        license_: license to write into the model card; None for the one in the card.

    Raises:
        ZooError: an artifact failed parity or was never compared, or the license is unknown.
        BundleError: the bundle is broken.
    """
    manifest = read_manifest(bundle)
    for name, path in our_files(bundle).items():
        if name != MANIFEST:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
    files = our_files(folder)
    for name, path in files.items():
        _check_gate(bundle, name, path, manifest)
        remove_paths(path)
    _set_license(bundle, folder / CARD, license_)
    artifacts = {name: entry for name, entry in sorted(manifest.artifacts.items()) if name in files}
    entries = {name: FileEntry.of(path) for name, path in files.items()}
    listed = Manifest(files=entries, artifacts=artifacts).model_dump(mode="json")
    write_json(folder / MANIFEST, without_paths(listed))
    try:
        check_bundle(folder)
    except BrokenBundleError as error:
        raise BrokenBundleError(bundle, error.name, error.fault) from error


def _check_gate(bundle: Path, name: str, path: Path, manifest: Manifest) -> None:
    """Raise if a file changed after it was compared with the model, or did not pass."""
    entry = manifest.files.get(name)
    is_exported = path.suffix == ".onnx"
    if entry is not None and (is_exported or name == WEIGHTS) and (faults := changes(path, entry)):
        raise RegistryError(
            f"{bundle / name}: {faults[0]}: it was changed after its check, run zoo export again"
        )
    if not is_exported:
        return
    parity: dict[str, Any] | None = manifest.artifacts.get(name, {}).get("parity")
    if entry is None or parity is None:
        raise RegistryError(
            f"{bundle / name} was not compared with the model: zoo export {bundle} again where it runs, or "
            f"remove the file"
        )
    if parity.get("passed") is not True:
        agreement = f"agreement {parity.get('agreement')}"
        found = (
            f"did not pass its gate ({agreement})" if "passed" in parity else "was exported by an older zoo"
        )
        raise RegistryError(f"{bundle / name} {found}: zoo export {bundle} again, or remove the file")


def _set_license(bundle: Path, card: Path, license_: str | None) -> None:
    """Write a license into a model card, or check that the card states one."""
    if not card.is_file():
        raise RegistryError(f"{bundle} has no {CARD}, expected a model card: write one")
    stated = stated_license(card)
    if license_ is not None:
        check_license(license_)
        metadata_save(card, {**(metadata_load(card) or {}), "license": license_})
        stated = {"license": license_}
    kind = stated.get("license_name" if stated.get("license") == "other" else "license", UNKNOWN)
    if kind == UNKNOWN:
        raise RegistryError(
            f"{bundle / CARD} states no license of the model, expected one: zoo push --license apache-2.0, "
            f"or what the data and the encoder's weights allow"
        )
    check_license(stated["license"])


def remove_paths(path: Path) -> None:
    """Shorten each absolute path in a JSON or Markdown file to its last part; other files are unchanged.

    Args:
        path: path of the file.
    """
    if path.suffix == ".json":
        value = json.loads(path.read_bytes())
        cleaned = without_paths(value)
        if cleaned != value:
            write_json(path, cleaned)
    elif path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
        path.write_text(_in_text(text), encoding="utf-8")


def without_paths(value: Any) -> Any:
    """Return a JSON value with each absolute path shortened to its last part."""
    if isinstance(value, dict):
        return {key: without_paths(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_paths(each) for each in value]
    if not isinstance(value, str):
        return value
    whole = WHOLE.fullmatch(value)
    if whole and not whole["path"].startswith("//"):
        return (whole["scheme"] or "") + _name(whole["path"])
    return _in_text(value)


def _in_text(text: str) -> str:
    return PATH.sub(lambda match: _name(match.group()), text)


def _name(path: str) -> str:
    return (PureWindowsPath if "\\" in path else PurePosixPath)(path).name or path
