"""Selection of the backends, precisions and files to measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zoo.bundle.bundle import find_bundle
from zoo.errors import ZooError
from zoo.predictors.backends import BACKENDS, backends_of, file_backends
from zoo.predictors.backends import files_of as files_of_backend

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoo.predictors.artifact import Precision

REFERENCE, AMP = "eager", "eager-amp"
BASELINES = (REFERENCE, AMP)
"""Always measured for a bundle: PyTorch in fp32, and in mixed precision with channels last."""


class Choice(NamedTuple):
    """A backend and the precision of its file; None if it runs no file, or any."""

    backend: str
    precision: Precision | None = None

    @property
    def name(self) -> str:
        """Return the name as in `--backends`."""
        return self.backend if self.precision is None else f"{self.backend}:{self.precision}"


def parse_choice(text: str) -> Choice:
    """Return the choice in text such as `ort` or `ort:int8`.

    Raises:
        ZooError: the backend or precision does not exist, or the backend runs no files.
    """
    backend, colon, precision = text.partition(":")
    if backend not in BACKENDS:
        raise ZooError(f"{text!r} is not a backend, expected some of {','.join(BACKENDS)}")
    if not colon:
        return Choice(backend)
    known = BACKENDS[backend].precisions
    if not known:
        raise ZooError(
            f"{text!r} names a precision, but {backend} runs no exported file: leave out :{precision}"
        )
    found = next((one for one in known if one == precision), None)
    if found is None:
        raise ZooError(f"{text!r} has an unknown precision, expected {backend}:{' or :'.join(known)}")
    return Choice(backend, found)


def choices(model: Path, asked: Sequence[str] | None) -> list[tuple[Choice, Path]]:
    """Return what to load and from which path: an artifact by its own backend, others from its bundle.

    A backend without a precision selects each of its files. The baselines come first.

    Args:
        model: bundle folder or artifact.
        asked: requested names; None for all whose files exist.
    """
    bundle = find_bundle(model)
    own = () if model.is_dir() else backends_of(model)
    wanted = [parse_choice(name) for name in asked or own or BACKENDS]
    if bundle is not None:
        wanted = [*map(Choice, BASELINES), *wanted]
    found: list[tuple[Choice, Path]] = []
    for choice in wanted:
        if choice.backend in own or bundle is None:
            found.append((choice, model))
        else:
            there = files_of(choice, bundle) or ([choice] if asked else [])
            found += [(each, bundle) for each in there]
    from_files = file_backends()
    if not asked and bundle is not None and not any(choice.backend in from_files for choice, _ in found):
        found.append((Choice(from_files[0]), bundle))  # its row says how to make a file
    return list(dict.fromkeys(found))


def files_of(choice: Choice, bundle: Path) -> list[Choice]:
    """Return a choice for each file of a bundle that the backend can run, or the choice itself."""
    if not BACKENDS[choice.backend].suffix or choice.precision is not None:
        return [choice]
    found = files_of_backend(choice.backend, bundle)
    return [Choice(choice.backend, precision) for precision in dict.fromkeys(each for each, _ in found)]
