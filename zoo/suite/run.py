"""The parts one after the other, each in a process of its own: one that crashes leaves the others."""

from __future__ import annotations

import datetime
import hashlib
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zoo.child import StopRequests
from zoo.errors import ZooError
from zoo.machine import cpu_model, git_state
from zoo.serve.bench.machine import versions
from zoo.suite.process import Limits, run_process
from zoo.suite.record import PACKAGE, Record, inputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoo.suite.parts import Part, Settings
    from zoo.suite.record import Inputs, SuiteFolder

    Say = Callable[[str], None]

LIMIT_S = 480.0


class Job(NamedTuple):
    """What a call of the suite is to do.

    Args:
        folder: of the results.
        settings: see `Settings`.
        limit_s: seconds for each part.
        again: measure also what is finished.
    """

    folder: SuiteFolder
    settings: Settings
    limit_s: float = LIMIT_S
    again: bool = False


def check_device(settings: Settings) -> None:
    """Raise unless the suite can be run on the device.

    Raises:
        ZooError: there is no GPU, or the CPU is to be measured in earnest.
    """
    import torch

    if settings.device == "cpu" and not settings.quick:
        raise ZooError(
            "--suite measures a GPU at the size of the papers, got the CPU: run it where there is one, or "
            "add --quick to see that it works"
        )
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ZooError("--device cuda: torch finds no GPU here, expected one: use --device cpu --quick")


def processor_name(device: str) -> str:
    """Return the name of what is measured."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else cpu_model()


def current_inputs(parts: Sequence[Part], settings: Settings) -> dict[str, Inputs]:
    """Return what the figures of each part would depend on if it were measured now, by name."""
    processor, installed = processor_name(settings.device), versions()
    return {part.name: inputs_of(part, settings.device, processor, installed) for part in parts}


def states(job: Job, parts: Sequence[Part]) -> dict[str, str]:
    """Return the state of each part by name: as in its record, or `to do`, or `outdated`."""
    found = {}
    for name, inputs in current_inputs(parts, job.settings).items():
        record = job.folder.read(name)
        if record is None:
            found[name] = "to do"
        else:
            found[name] = record.state if record.inputs == inputs else "outdated"
    return found


def run_parts(job: Job, parts: Sequence[Part], say: Say, tell: Say) -> tuple[Record, ...]:
    """Measure the parts that are not finished and return the records of all.

    Args:
        job: see `Job`.
        parts: to measure, in order.
        say: told what goes on.
        tell: told what became of each part.

    Raises:
        ZooError: the user asked to stop; what is finished is kept.
    """
    found: list[Record] = []
    inputs = current_inputs(parts, job.settings)
    with StopRequests() as stop:
        for number, part in enumerate(parts, start=1):
            former = job.folder.read(part.name)
            if former is not None and not job.again and former.is_current(inputs[part.name], job.limit_s):
                found.append(former)
                continue
            say(f"{part.name}: part {number} of {len(parts)}")
            record = _measured(job, part, inputs[part.name], stop, say)
            if record.replaces(former):
                job.folder.write(record)
            found.append(record)
            tell(_verdict(job, record))
            if stop.requested:
                raise ZooError(
                    f"stopped in part {number} of {len(parts)}, {part.name}: those before it are kept, the "
                    f"same command goes on"
                )
    return tuple(found)


def command(job: Job, name: str) -> str:
    """Return the command that measures a part alone, or those of a pattern."""
    settings = job.settings
    words = ["zoo", "bench", "--suite", "--parts", name, "--out", str(job.folder.path)]
    words += ["--quick"] * settings.quick
    words += ["--device", settings.device]
    words += [] if settings.data is None else ["--data", settings.data]
    return shlex.join(words)


def _measured(job: Job, part: Part, inputs: Inputs, stop: StopRequests, say: Say) -> Record:
    work, alone = work_folder(job.folder.path, part.name, inputs), command(job, part.name)
    if job.again:
        shutil.rmtree(work, ignore_errors=True)
    options = {**part.options, "work": str(work), "command": alone}
    request = json.dumps({"kind": part.kind, "options": options, "device": job.settings.device})
    begun = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    program = [sys.executable, "-m", "zoo.suite.part", request]
    path = log_path(job.folder.path, part.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", buffering=1) as log:

        def hear(line: str) -> None:
            log.write(f"{line}\n")
            say(f"{part.name}: {line}")

        outcome = run_process(program, Limits(job.limit_s), stop, hear)
    return Record(
        name=part.name,
        kind=part.kind,
        begun=begun,
        limit_s=job.limit_s,
        command=alone,
        commit=git_state(PACKAGE),
        inputs=inputs,
        **outcome._asdict(),
    )


def log_path(out: Path, name: str) -> Path:
    """Return the file of all that a part said; a result names no path of this machine, so it is not one."""
    return Path("runs") / "suite" / out.name / f"{name}.log"


def work_folder(out: Path, name: str, inputs: Inputs) -> Path:
    """Return where a part keeps what is not a result: under `runs/`, so that it is not committed.

    A comparison goes on in its folder; with other inputs it has another one.
    """
    digest = hashlib.sha256(inputs.model_dump_json().encode()).hexdigest()[:8]
    return Path("runs") / "suite" / out.name / f"{name}-{digest}"


def _verdict(job: Job, record: Record) -> str:
    """Return what became of a part, in one line."""
    said = f"{record.name}: {record.state} after {record.seconds:.0f} s"
    if record.reason:
        said += f": {record.reason}"
    return said + (f"; see {log_path(job.folder.path, record.name)}" if record.state == "failed" else "")
