"""A comparison of methods on disk: what is compared, the runs and how far they are.

compare.json           everything here, rewritten before and after every run
recipes/METHOD.toml    the complete recipe of each method
runs/METHOD-SEED/      run folders, each with the log of its process (train.log)
report.html, table.md, curves.png, classes.png, pictures.png
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

from pydantic import ValidationError

from zoo.bundle.bundle import write_json
from zoo.errors import RecipeError
from zoo.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BASELINE = "supervised"
"""Labels only: what differences are taken to, and whose recipe gives the settings that all share."""

COMPARISON_NAME = "compare.json"
LOCK_NAME = ".lock"


class Candidate(Frozen):
    """One method of a comparison.

    Args:
        method: its name.
        recipe: that it starts from.
        phases: steps by phase.
        kept: parameters of what is deployed.
        trained: parameters of all its networks.
        overridden: settings in which its own recipe differs from the comparison's: [its own, used].
    """

    method: str
    recipe: str
    phases: dict[str, int]
    kept: int
    trained: int
    overridden: dict[str, tuple[Any, Any]]


class Run(Frozen):
    """One run of a comparison.

    Args:
        method: that is trained.
        seed: of weights, labeled images, order and augmentation.
        command: that trains it alone.
        state: `stopped` by the user, `failed` by itself; both go on with `--resume`.
        reason: of a failure, one line.
        attempts: processes that were started for it.
        untimed: attempts whose end nobody saw, as the comparison itself was killed.
        wall_s: of all other attempts, from the start of each process to its end.
        metrics: of a finished run, see `zoo.train.session`.
    """

    method: str
    seed: int
    command: str
    state: Literal["planned", "finished", "stopped", "failed"] = "planned"
    reason: str | None = None
    attempts: int = 0
    untimed: int = 0
    wall_s: float = 0.0
    metrics: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return f"{self.method}-{self.seed}"


class Comparison(Frozen):
    """Everything that is known of a comparison.

    Args:
        timestamp: when it was planned.
        command: that planned it.
        machine: that it was planned on.
        versions: of the packages.
        device: `cpu` or `cuda`.
        data: spec, partition, class names, the number of labeled, unlabeled and `val` images, and the warning
            of masks that are hidden though nobody asked for it.
        settings: in which all methods agree, by dotted key.
        candidates: the methods, labels only first.
        runs: seed by seed.
        summary: of all runs, once each was tried: `headline`, `rows` of the table and `verdicts`.
    """

    format: Literal[1] = 1
    timestamp: str
    command: str
    machine: dict[str, Any]
    versions: dict[str, str | None]
    device: str
    data: dict[str, Any]
    settings: dict[str, Any]
    candidates: tuple[Candidate, ...]
    runs: tuple[Run, ...]
    summary: dict[str, Any] | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the names of the methods, in order."""
        return tuple(candidate.method for candidate in self.candidates)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds, in order."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    @property
    def finished(self) -> tuple[Run, ...]:
        """Return the runs that have figures."""
        return tuple(run for run in self.runs if run.metrics is not None)

    def with_run(self, run: Run) -> Comparison:
        """Return the comparison with one of its runs in another state."""
        runs = tuple(run if run.name == each.name else each for each in self.runs)
        return self.model_copy(update={"runs": runs})


@dataclass(frozen=True)
class ComparisonFolder:
    """The paths of a comparison."""

    path: Path

    @property
    def record(self) -> Path:
        """Return the path of everything that is known of it."""
        return self.path / COMPARISON_NAME

    @property
    def recipes(self) -> Path:
        """Return the folder of the recipes, which are written once, at the beginning."""
        return self.path / "recipes"

    def recipe(self, method: str) -> Path:
        """Return the path of the recipe of a method."""
        return self.recipes / f"{method}.toml"

    def run(self, run: Run) -> Path:
        """Return the folder of a run."""
        return self.path / "runs" / run.name

    def check_new(self) -> None:
        """Raise unless a comparison can begin here.

        Raises:
            RecipeError: there is a comparison, or something else.
        """
        if self.record.exists():
            raise RecipeError(
                f"{self.path} holds a comparison already: continue it with --resume, or give another --out"
            )
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RecipeError(
                f"{self.path} holds other files, expected a new or empty folder: give another --out"
            )

    def write(self, comparison: Comparison) -> None:
        """Write what is known, at once or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.record, comparison.model_dump(mode="json"))

    def note(self, run: Run) -> Comparison:
        """Write the new state of a run and return what is known then."""
        comparison = self.read().with_run(run)
        self.write(comparison)
        return comparison

    @contextmanager
    def lock(self) -> Iterator[int | None]:
        """Keep others from running this comparison, as long as this process or a run of it lives.

        Gives the file descriptor that runs must inherit, None on Windows, which has no such lock.

        Raises:
            RecipeError: another process runs it.
        """
        if fcntl is None:
            yield None
            return
        with (self.path / LOCK_NAME).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RecipeError(
                    f"{self.path} is being run by another process, expected none: wait for its end, or "
                    f"end it; if it was killed, its current run ends when it next has something to report"
                ) from error
            yield file.fileno()

    def read(self) -> Comparison:
        """Return what is known.

        Raises:
            RecipeError: no comparison here, or one of another version.
        """
        if not self.record.is_file():
            raise RecipeError(
                f"{self.path} holds no {COMPARISON_NAME}, expected the folder of a comparison: begin one "
                f"without --resume"
            )
        try:
            return Comparison.model_validate(json.loads(self.record.read_text(encoding="utf-8")))
        except (ValueError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise RecipeError(f"{self.record} is not a comparison ({reason}): begin again") from error
