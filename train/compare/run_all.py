"""Compare methods: plan the runs, train them, and continue where a comparison was interrupted."""

from __future__ import annotations

import datetime
import logging
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.bundle.bundle import check_writable
from zoo.child import StopRequests
from zoo.data.outside import check_outside
from zoo.data.partition import AUTO
from zoo.errors import RecipeError
from zoo.machine import cores
from zoo.train.compare.intervals import planned_looks
from zoo.train.compare.plan import find_entrants, write_recipe
from zoo.train.compare.record import COMPARISON_NAME, Comparison, ComparisonFolder, Run
from zoo.train.compare.run_one import SharedResources, planned_runs, run_one
from zoo.train.compare.shared import Request, compared_methods, shared_plan, with_partition
from zoo.train.compare.stats import is_clear, summary
from zoo.train.data.streams import TrainingData
from zoo.train.loop.engine import TrainingStoppedError
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.table import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Facts(NamedTuple):
    """Where a comparison is made: the command line, the machine and the versions of the packages."""

    command: str
    machine: dict[str, Any]
    versions: dict[str, str | None]


def start(request: Request, out: Path | None, facts: Facts) -> ComparisonFolder:
    """Write a comparison without any run to a new folder and return it.

    Raises:
        ZooError: bad data, settings or folder; nothing is written then.
    """
    folder = ComparisonFolder(out or _dated(request.spec))
    folder.check_new()
    check_writable(folder.path)
    names, shared = compared_methods(request), shared_plan(request)
    device = Hardware(request.device).accelerator(shared.reference.precision)
    drawn = TrainingData.draw(
        shared.reference.model_copy(update={"seed": request.seeds[0]}),
        needs_unlabeled=any(METHODS[name].needs_unlabeled for name in names),
    )
    source, partition = drawn.source, drawn.partition
    check_outside(folder.path, source)
    if shared.reference.data.partition == AUTO:
        request = with_partition(request, partition.spec)
        shared = shared_plan(request)
    entrants = find_entrants(names, request, shared, source, partition)
    folder.path.mkdir(parents=True, exist_ok=True)
    for entrant in entrants:
        write_recipe(folder.recipe(entrant.candidate.name), entrant.recipe)
    candidates = tuple(entrant.candidate for entrant in entrants)
    first = len(request.seeds)
    comparison = Comparison(
        timestamp=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **facts._asdict(),
        device=device,
        data={
            "spec": shared.reference.data.spec,
            "partition": partition.spec,
            "classes": list(source.classes.names),
            "labeled": len(partition.labeled),
            "unlabeled": len(partition.unlabeled),
            "val": len(source.ids("val")),
            "hidden_note": partition.hidden_note(source.spec),
        },
        settings=shared.settings,
        own_recipes=request.own_recipes,
        warm_steps=shared.warm_steps,
        looks=planned_looks(first, request.until_clear or first),
        candidates=candidates,
        runs=planned_runs(folder, candidates, request.seeds, device),
    )
    folder.write(comparison)
    return folder


def newest() -> Path:
    """Return the comparison under `runs/` that was begun last.

    Raises:
        RecipeError: there is none.
    """
    found = [record.parent for record in Path("runs").glob(f"*/{COMPARISON_NAME}")]
    if not found:
        raise RecipeError(
            f"no comparison under {Path('runs').absolute()}, expected one to resume: name its folder by --out"
        )
    return max(found, key=lambda folder: ComparisonFolder(folder).recipes.stat().st_mtime)


def run_all(
    folder: ComparisonFolder, jobs: int = 1, on_run: Callable[[Comparison], object] = lambda _: None
) -> Comparison:
    """Run what is not finished, so many runs side by side, and return what is known then.

    A run that fails does not end the others, but those that continue a failed warm start fail with it. Seeds
    are added as planned until every method is clear, unless a run failed. `on_run` is called after each run
    with what is known then.

    Raises:
        TrainingStoppedError: the user asked to stop; what was reached is kept.
        RecipeError: another process runs this comparison.
    """
    folder.read()  # says so if there is no comparison to lock
    with folder.lock() as lock, StopRequests() as stop:
        crew = SharedResources(stop, lock, None if jobs == 1 else max(1, cores() // jobs))
        while True:
            comparison = _run_pending(folder, crew, jobs, on_run)
            more = _seeds_to_add(comparison)
            if not more:
                break
            log.info("adding seeds %s: not every method is clear", ", ".join(map(str, more)))
            runs = planned_runs(folder, comparison.candidates, more, comparison.device)
            folder.write(comparison.model_copy(update={"runs": (*comparison.runs, *runs)}))
    comparison = comparison.model_copy(update={"summary": summary(comparison)})
    folder.write(comparison)
    return comparison


def _seeds_to_add(comparison: Comparison) -> tuple[int, ...]:
    """Return the seeds up to the next planned look; none if there is none, or nothing to decide."""
    count = len(comparison.seeds)
    target = next((look for look in comparison.looks if look > count), None)
    if target is None or any(run.metrics is None for run in comparison.runs) or is_clear(comparison):
        return ()
    first = max(comparison.seeds) + 1
    return tuple(range(first, first + target - count))


def _run_pending(
    folder: ComparisonFolder, crew: SharedResources, jobs: int, on_run: Callable[[Comparison], object]
) -> Comparison:
    """Run what is not finished, seed by seed, warm starts first, and return what is known then.

    Raises:
        TrainingStoppedError: the user asked to stop.
    """
    comparison = folder.read()
    waiting = [run for run in comparison.runs if run.state != "finished"]
    working: dict[Future[Run], Run] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or working:
                ready = [run for run in waiting if _may_start(run, comparison)]
                for run in [] if crew.stop.requested else ready[: jobs - len(working)]:
                    number = comparison.runs.index(run) + 1
                    log.info("%s: run %d of %d", run.name, number, len(comparison.runs))
                    waiting.remove(run)
                    working[pool.submit(run_one, folder, run, comparison.device, crew)] = run
                if not working:
                    break
                for future in wait(working, return_when=FIRST_COMPLETED).done:
                    del working[future]
                    comparison = _noted(folder, future.result())
                    on_run(comparison)
        except BaseException:
            crew.stop.stop()  # else the pool waits for the ends of the other runs
            raise
    if crew.stop.requested and waiting + [run for run in comparison.runs if run.state == "stopped"]:
        raise TrainingStoppedError(_stopped(folder, comparison))
    for run in waiting:
        failed = ", ".join(name for name in run.starts if name not in _finished(comparison))
        update = {"state": "failed", "reason": f"its warm start {failed} failed"}
        comparison = _noted(folder, run.model_copy(update=update))
    return comparison


def _noted(folder: ComparisonFolder, run: Run) -> Comparison:
    """Write the state of a run that ended, say so if it failed, and return what is known then."""
    if run.state == "failed":
        log.warning("%s failed: %s", run.name, run.reason)
    return folder.note(run)


def _finished(comparison: Comparison) -> set[str]:
    return {run.name for run in comparison.runs if run.state == "finished"}


def _may_start(run: Run, comparison: Comparison) -> bool:
    """Return whether the warm starts that a run continues are finished."""
    return set(run.starts) <= _finished(comparison)


def _stopped(folder: ComparisonFolder, comparison: Comparison) -> str:
    """Return how far a comparison is that the user stopped, and how it continues."""
    names = [run.name for run in comparison.runs if run.state == "stopped"]
    where = f"stopped in {' and '.join(names)}" if names else "stopped"
    return (
        f"{where}; {len(_finished(comparison))} of {len(comparison.runs)} runs are finished: continue with "
        f"zoo compare --resume --out {quote(str(folder.path))}"
    )


def _dated(spec: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"compare-{Path(spec).stem or 'data'}-{stamp}"
