"""Which backends are measured, in which precision and from which file."""

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
"""Measured wherever the bundle is at hand: what PyTorch gives without an export, as it is and made fast."""


class Choice(NamedTuple):
    """A backend, and the precision of the file it is to run; None where it runs none, or any."""

    backend: str
    precision: Precision | None = None

    @property
    def name(self) -> str:
        """Return it as `--backends` takes it."""
        return self.backend if self.precision is None else f"{self.backend}:{self.precision}"


def parse_choice(text: str) -> Choice:
    """Return the backend and precision of text such as `ort` or `ort:int8`.

    Raises:
        ZooError: no such backend or precision, or a precision for a backend that runs no file.
    """
    backend, colon, precision = text.partition(":")
    if backend not in BACKENDS:
        raise ZooError(f"{text!r} is no backend, expected some of {','.join(BACKENDS)}")
    if not colon:
        return Choice(backend)
    known = BACKENDS[backend].precisions
    if not known:
        raise ZooError(
            f"{text!r} names a precision, but {backend} runs no exported file: leave out :{precision}"
        )
    found = next((one for one in known if one == precision), None)
    if found is None:
        raise ZooError(f"{text!r} has no precision, expected {backend}:{' or :'.join(known)}")
    return Choice(backend, found)


def choices(model: Path, asked: Sequence[str] | None) -> list[tuple[Choice, Path]]:
    """Return what to load and from where: an artifact runs on its own, the others on its bundle.

    A backend without a precision stands for every file that it has. The baselines come first.

    Args:
        model: a bundle folder or an artifact.
        asked: names; None for all of which the file is there.
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
        found.append((Choice(from_files[0]), bundle))  # whose row says how a file is made
    return list(dict.fromkeys(found))


def files_of(choice: Choice, bundle: Path) -> list[Choice]:
    """Return a choice for each file of a bundle that its backend can run, or itself if it is a single one."""
    if not BACKENDS[choice.backend].suffix or choice.precision is not None:
        return [choice]
    found = files_of_backend(choice.backend, bundle)
    return [Choice(choice.backend, precision) for precision in dict.fromkeys(each for each, _ in found)]
