"""What was measured, on disk: `parts/NAME.json`, a file for each part, rewritten when it is measured anew."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from zoo.bundle.bundle import write_json
from zoo.errors import ZooError
from zoo.suite.parts import SOURCES, Kind

if TYPE_CHECKING:
    from zoo.suite.parts import Part

PACKAGE = Path(__file__).resolve().parents[1]
"""Where the package lies; its stages are links there, or folders where it is installed."""

State = Literal["finished", "failed", "overran", "stopped"]


class Inputs(BaseModel):
    """What a part's figures depend on: where one of these differs, they are measured anew.

    Args:
        device: `cpu` or `cuda`.
        processor: name of the GPU, or of the CPU where that is measured.
        versions: of the runtimes.
        code: digest of the files that decide the figures; the commit does not do, as it changes when figures
            are committed.
        options: see `Part`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    processor: str
    versions: dict[str, str | None]
    code: str
    options: dict[str, Any]


class Record(BaseModel):
    """What is known of a part.

    Args:
        name: of the part.
        kind: what was measured.
        state: `overran` its limit or was `stopped` by the user, what was measured until then being kept.
        reason: why it is not finished, one line.
        begun: when, UTC.
        seconds: from start to end of its process.
        limit_s: seconds that it had.
        command: that measures it alone.
        commit: state of the repository, see `zoo.machine.git_state`; None outside of one.
        inputs: see `Inputs`.
        figures: what was measured, see the module of each kind; None if nothing was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    kind: Kind
    state: State
    reason: str | None = None
    begun: str
    seconds: float
    limit_s: float
    command: str
    commit: dict[str, Any] | None = None
    inputs: Inputs
    figures: dict[str, Any] | None = None

    def is_current(self, inputs: Inputs, limit_s: float) -> bool:
        """Return whether there is nothing to gain from measuring a part again.

        A comparison that overran goes on where it was; other parts would overrun the same limit again.
        """
        if self.inputs != inputs:
            return False
        overran = self.state == "overran" and self.kind != "compare" and self.limit_s >= limit_s
        return self.state == "finished" or overran

    def replaces(self, former: Record | None) -> bool:
        """Return whether this is kept instead of a former record of its part, which may say more."""
        if former is not None and former.state == "finished" and former.inputs == self.inputs:
            return self.state == "finished"
        return self.state != "stopped" or bool(self.figures)


@dataclass(frozen=True)
class SuiteFolder:
    """The paths of a suite's results."""

    path: Path

    @property
    def parts(self) -> Path:
        """Return the folder of the records."""
        return self.path / "parts"

    def record(self, name: str) -> Path:
        """Return the path of a part's record."""
        return self.parts / f"{name}.json"

    def read(self, name: str) -> Record | None:
        """Return what is known of a part, None if that is nothing.

        Raises:
            ZooError: the file is no record.
        """
        path = self.record(name)
        if not path.is_file():
            return None
        try:
            return Record.model_validate_json(path.read_bytes())
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "file"
            reason = error.errors()[0]["msg"]
            raise ZooError(f"{path}: {where}: {reason}: delete it to measure that part anew") from error

    def read_all(self, names: tuple[str, ...]) -> tuple[Record, ...]:
        """Return what is known, the parts `names` first and in their order."""
        there = sorted(path.stem for path in self.parts.glob("*.json"))
        found = (self.read(name) for name in dict.fromkeys((*names, *there)))
        return tuple(record for record in found if record is not None)

    def write(self, record: Record) -> None:
        """Write what is known of a part, at once or not at all."""
        self.parts.mkdir(parents=True, exist_ok=True)
        write_json(self.record(record.name), record.model_dump(mode="json"))


def inputs_of(part: Part, device: str, processor: str, versions: dict[str, str | None]) -> Inputs:
    """Return what the figures of a part depend on now."""
    return Inputs(
        device=device,
        processor=processor,
        versions=versions,
        code=code_digest(SOURCES[part.kind]),
        options=part.options,
    )


def code_digest(sources: tuple[str, ...], root: Path = PACKAGE) -> str:
    """Return twelve digits that change with the Python files and recipes of a package.

    Args:
        sources: files and folders in it; an empty name is all of it.
        root: of the package.
    """
    digest = hashlib.sha256()
    for source in sources:
        for path in _files(root / source):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _files(path: Path) -> list[Path]:
    """Return a file, or the files of a folder and of the stages that are linked into it."""
    if path.is_file():
        return [path]
    folders = [path, *(each for each in path.iterdir() if each.is_symlink())]
    found = {file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".toml")}
    return sorted(found)
