"""Compare methods: plan the runs, then run them in turn, and go on where a comparison was broken off."""

from __future__ import annotations

import datetime
import logging
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from zoo.bundle.bundle import check_writable
from zoo.child import StopRequests
from zoo.data.partition import AUTO, make_partition
from zoo.errors import RecipeError
from zoo.train.compare.plan import (
    Request,
    compared_methods,
    find_entrants,
    reference_recipe,
    shared_settings,
    with_partition,
    write_recipe,
)
from zoo.train.compare.record import COMPARISON_NAME, Candidate, Comparison, ComparisonFolder, Run
from zoo.train.compare.run_one import command, run_one
from zoo.train.compare.stats import summary
from zoo.train.data.streams import checked_source, warn_of_hidden
from zoo.train.loop.engine import TrainingStoppedError
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.table import METHODS

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
    names = compared_methods(request)
    reference = reference_recipe(request)
    device = Hardware(request.device).accelerator(reference.precision)
    source = checked_source(reference)
    needed = any(METHODS[name].needs_unlabeled for name in names)
    spec, seed = reference.data.partition, request.seeds[0]
    partition = make_partition(source, spec, seed, needs_unlabeled=needed)
    warn_of_hidden(partition, source)
    if spec == AUTO:
        request = with_partition(request, partition.spec)
        reference = reference_recipe(request)
    entrants = find_entrants(names, request, shared_settings(reference), source, partition)
    folder.path.mkdir(parents=True, exist_ok=True)
    for entrant in entrants:
        write_recipe(folder.recipe(entrant.candidate.method), entrant.recipe)
    candidates = tuple(entrant.candidate for entrant in entrants)
    comparison = Comparison(
        timestamp=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **facts._asdict(),
        device=device,
        data={
            "spec": reference.data.spec,
            "partition": partition.spec,
            "classes": list(source.classes.names),
            "labeled": len(partition.labeled),
            "unlabeled": len(partition.unlabeled),
            "val": len(source.ids("val")),
            "hidden_note": partition.hidden_note(source.spec),
        },
        settings=shared_settings(reference),
        candidates=candidates,
        runs=tuple(_planned(folder, each, seed, device) for seed in request.seeds for each in candidates),
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


def run_all(folder: ComparisonFolder) -> Comparison:
    """Run what is not finished, one after the other, and return what is known then.

    A run that fails does not end the others.

    Raises:
        TrainingStoppedError: the user asked to stop; what was reached is kept.
        RecipeError: another process runs this comparison.
    """
    comparison = folder.read()
    with folder.lock() as lock, StopRequests() as stop:
        for number, run in enumerate(comparison.runs, start=1):
            if run.state == "finished":
                continue
            log.info("%s: run %d of %d", run.name, number, len(comparison.runs))
            run = run_one(folder, run, comparison.device, stop, lock)
            comparison = folder.note(run)
            if run.state == "failed":
                log.warning("%s failed: %s", run.name, run.reason)
            if stop.requested:
                raise TrainingStoppedError(
                    f"stopped in run {number} of {len(comparison.runs)}, {run.name}: "
                    f"continue with zoo compare --resume --out {folder.path}"
                )
    comparison = comparison.model_copy(update={"summary": summary(comparison)})
    folder.write(comparison)
    return comparison


def _planned(folder: ComparisonFolder, candidate: Candidate, seed: int, device: str) -> Run:
    run = Run(method=candidate.method, seed=seed, command="")
    return run.model_copy(update={"command": shlex.join(["zoo", *command(folder, run, device)])})


def _dated(spec: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"compare-{Path(spec).stem or 'data'}-{stamp}"
