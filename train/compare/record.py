"""A comparison of methods on disk: what is compared, the runs and how far they are.

compare.json           everything here, rewritten before and after every run
recipes/NAME.toml      the complete recipe of each method, control and warm start
runs/NAME-SEED/        run folders, each with the log of its process (train.log)
report.html, table.md, gains.png, curves.png, classes.png, pseudo_labels.png, pictures.png
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

from pydantic import Field, ValidationError

from zoo.bundle.bundle import write_json
from zoo.errors import RecipeError
from zoo.frozen import Frozen
from zoo.train.compare.intervals import ERROR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BASELINE = "supervised"
"""Labels only: what differences are taken to, and whose recipe gives the settings that all share."""

START, SECOND_START = "start", "start_2"
"""Names of the warm starts; the second is for methods that train two networks."""
COMPARISON_NAME = "compare.json"
LOCK_NAME = ".lock"
FORMAT: Literal[2] = 2


class Candidate(Frozen):
    """A recipe that is trained once a seed.

    Args:
        name: name of its recipe file and its run folders.
        method: name of the method.
        role: `start`, a warm start that others continue; `method`, labels only included, or `control`.
        recipe: name of the recipe that it starts from.
        phases: steps by phase.
        networks: networks that are scored, the one that the method stands for first.
        kept: parameters of what each network deploys.
        trained: parameters of all its networks.
        overridden: settings in which its own recipe differs from the comparison's: [its own, used].
        own: settings in which it differs from labels only: [labels only, used].
        starts: names of the warm starts that it continues; two where two networks are trained.
    """

    name: str
    method: str
    role: Literal["start", "method", "control"] = "method"
    recipe: str
    phases: dict[str, int]
    networks: tuple[str, ...]
    kept: dict[str, int]
    trained: int
    overridden: dict[str, tuple[Any, Any]]
    own: dict[str, tuple[Any, Any]] = Field(default_factory=dict)
    starts: tuple[str, ...] = ()


class Run(Frozen):
    """One run of a comparison.

    Args:
        candidate: name of what is trained.
        method: name of its method.
        seed: seed of the labeled images; of weights, order and augmentation too, unless `other_seed`.
        other_seed: seed of weights, order and augmentation of a warm start.
        starts: names of the runs whose weights it continues.
        command: command that trains it alone.
        state: `stopped` by the user, `failed` by itself; both continue with `--resume`.
        reason: reason of a failure, one line.
        attempts: processes that were started for it.
        untimed: attempts whose end nobody saw, as the comparison itself was killed.
        wall_s: duration of all other attempts, from the start of each process to its end.
        metrics: metrics of a finished run, see `zoo.train.session`.
    """

    candidate: str
    method: str
    seed: int
    other_seed: int | None = None
    starts: tuple[str, ...] = ()
    command: str = ""
    state: Literal["planned", "finished", "stopped", "failed"] = "planned"
    reason: str | None = None
    attempts: int = 0
    untimed: int = 0
    wall_s: float = 0.0
    metrics: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return f"{self.candidate}-{self.seed}"


class Entry(NamedTuple):
    """A row of the table: one network of a candidate."""

    candidate: Candidate
    network: str

    @property
    def is_main(self) -> bool:
        """Return whether it is the network that the candidate stands for."""
        return self.network == self.candidate.networks[0]

    @property
    def label(self) -> str:
        """Return the name of the row."""
        return self.candidate.name if self.is_main else f"{self.candidate.name} {self.network}"


class Comparison(Frozen):
    """Everything that is known of a comparison.

    Args:
        timestamp: when it was planned.
        command: command that planned it.
        machine: machine that it was planned on.
        versions: versions of the packages.
        device: `cpu` or `cuda`.
        data: spec, partition, class names, the number of labeled, unlabeled and `val` images, and the warning
            of masks that are hidden though nobody asked for it.
        settings: settings in which all candidates agree, by dotted key.
        own_recipes: whether each method keeps optimizer, batch and network of its recipe.
        warm_steps: steps of the warm starts, before those of the rows; 0: none.
        looks: numbers of seeds at which results are looked at; more than one with `--until-clear`.
        candidates: warm starts, then labels only, controls and methods.
        runs: runs seed by seed; further seeds are added as they are needed.
        summary: `headline`, `rows` of the table and `verdicts`, once each run was tried.
    """

    format: Literal[2] = FORMAT
    timestamp: str
    command: str
    machine: dict[str, Any]
    versions: dict[str, str | None]
    device: str
    data: dict[str, Any]
    settings: dict[str, Any]
    own_recipes: bool = False
    warm_steps: int = 0
    looks: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    runs: tuple[Run, ...]
    summary: dict[str, Any] | None = None

    @property
    def compared(self) -> tuple[Candidate, ...]:
        """Return the candidates that have rows."""
        return tuple(candidate for candidate in self.candidates if candidate.role != "start")

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the names of the candidates that have rows, in order."""
        return tuple(candidate.name for candidate in self.compared)

    @property
    def entries(self) -> dict[str, Entry]:
        """Return the rows of the table by label, in order."""
        found = (Entry(each, network) for each in self.compared for network in each.networks)
        return {entry.label: entry for entry in found}

    @property
    def confidence(self) -> float:
        """Return the level of the intervals; see `zoo.train.compare.intervals`."""
        return 1 - ERROR / len(self.looks)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds, in order."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    @property
    def finished(self) -> tuple[Run, ...]:
        """Return the runs of rows that have figures."""
        return tuple(run for run in self.runs if run.metrics is not None and run.candidate in self.methods)

    def of(self, candidate: str) -> list[Run]:
        """Return the finished runs of a candidate."""
        return [run for run in self.runs if run.metrics is not None and run.candidate == candidate]

    def with_run(self, run: Run) -> Comparison:
        """Return the comparison with one of its runs in another state."""
        runs = tuple(run if run.name == each.name else each for each in self.runs)
        return self.model_copy(update={"runs": runs})


@dataclass(frozen=True)
class ComparisonFolder:
    """The paths of a comparison."""

    path: Path
    writing: Lock = field(default_factory=Lock, compare=False)
    """Held by the thread that changes the record."""

    @property
    def record(self) -> Path:
        """Return the path of everything that is known of it."""
        return self.path / COMPARISON_NAME

    @property
    def recipes(self) -> Path:
        """Return the folder of the recipes, which are written once, at the beginning."""
        return self.path / "recipes"

    def recipe(self, candidate: str) -> Path:
        """Return the path of the recipe of a candidate."""
        return self.recipes / f"{candidate}.toml"

    def run(self, run: Run) -> Path:
        """Return the folder of a run."""
        return self.run_named(run.name)

    def run_named(self, name: str) -> Path:
        """Return the folder of the run of this name."""
        return self.path / "runs" / name

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
        with self.writing:
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
            found = json.loads(self.record.read_text(encoding="utf-8"))
            if isinstance(found, dict) and found.get("format") == 1:
                raise RecipeError(
                    f"{self.record} has format 1, expected {FORMAT}: an older version of zoo wrote it, and "
                    f"its report stays valid; begin a new comparison in another --out"
                )
            return Comparison.model_validate(found)
        except (ValueError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise RecipeError(f"{self.record} is not a comparison ({reason}): begin again") from error
