"""Measurements on a GPU, part by part: tests, training steps, latencies, a comparison (`make gpu`).

A part has processes of its own and a time limit: one that crashes or overruns leaves the others. `suite.json`
is rewritten after each part, so the same call continues with the parts that are not finished.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from parts import TESTS, Part, Settings, plan, write_images

from zoo.bundle.bundle import check_writable, replacing, write_json
from zoo.child import StopRequests, why_ended
from zoo.errors import ZooError
from zoo.machine import cpu_model, git_state
from zoo.predictors.backends import versions
from zoo.serve.bench.machine import describe_machine
from zoo.serve.bench.measurement import Report, number
from zoo.serve.bench.report.table import GPU, SHORT, lines, on_gpu, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Record = dict[str, Any]

log = logging.getLogger("suite")

LIMIT_S, GRACE_S = 480, 60
TRAINING = ("method", "computed in", "phase", "images", "step ms", "images/s", "peak GiB", "parts of a step")


def is_done(record: Record | None, limit_s: int) -> bool:
    """Return whether a part is not measured again: it finished, or would overrun the same limit."""
    if record is None or record["state"] == "finished":
        return record is not None
    continues = record["name"].startswith("compare-")  # from the last checkpoint
    return record["state"] == "overran" and record["limit_s"] >= limit_s and not continues


def run_part(part: Part, work: Path, limit_s: int, stop: StopRequests) -> Record:
    """Run the commands of a part and return its record: it finished, failed, overran or was stopped."""
    start, log_file = time.monotonic(), work / f"{part.name}.log"
    state, reason, output = "finished", "", ""
    log_file.write_text("")
    for command in part.commands:
        if command.makes is not None:
            if command.makes.is_file():
                continue
            shutil.rmtree(command.makes.parent, ignore_errors=True)  # left by an attempt that was ended
        state, reason, output = run_command(command.text, log_file, start + limit_s, stop)
        if state != "finished" and not (state == "failed" and command.is_optional):
            break
    return {
        "name": part.name,
        "state": state,
        "reason": f"ended at its limit of {limit_s} s" if state == "overran" else reason,
        "seconds": round(time.monotonic() - start, 1),
        "limit_s": limit_s,
        "commit": (git_state(TESTS) or {}).get("commit"),
        "commands": [command.text for command in part.commands],
        "figures": read_figures(part.name, output),
    }


def run_command(text: str, log_file: Path, end: float, stop: StopRequests) -> tuple[str, str, str]:
    """Run a command until `end` at most; return its state, why it failed, and its standard output."""
    program, output, overran = (sys.executable, "-m", *shlex.split(text)), log_file.with_suffix(".out"), False
    with (
        output.open("w") as stdout,
        log_file.open("a") as stderr,
        stop.started(program, stdout=stdout, stderr=stderr) as process,
    ):
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            overran = True
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        finally:
            with suppress(ProcessLookupError):  # what it left running would slow down the next part
                os.killpg(process.pid, signal.SIGKILL)
    written, said = (path.read_text(errors="replace") for path in (output, log_file))
    if process.returncode == 0:
        return "finished", "", written
    if overran or stop.requested:
        return "overran" if overran else "stopped", "", written
    last = next((line for line in reversed(f"{written}\n{said}".splitlines()) if line.strip()), "")
    return "failed", why_ended(process.returncode, last), written


def read_figures(name: str, output: str) -> dict[str, Any] | None:
    """Return the JSON that the last command of a part wrote; of the tests their summary and failures."""
    if name != "tests":
        with suppress(json.JSONDecodeError):
            return json.loads(output)
        return None
    said = output.strip().splitlines() or [""]
    failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    return {"summary": said[-1].strip("= "), "failed": failed}


def write_results(settings: Settings, records: dict[str, Record]) -> None:
    """Write `suite.json` and `README.md`."""
    machine = describe_machine() | {"versions": versions()}
    write_json(settings.out / "suite.json", {"machine": machine, "parts": records})
    with replacing(settings.out / "README.md") as temporary:
        temporary.write_text(as_markdown(records, machine), encoding="utf-8")


def as_markdown(records: dict[str, Record], machine: dict[str, Any]) -> str:
    """Return the page of all figures."""
    gpu = machine["gpu"] or {"name": f"{machine['cpu']}: tiny sizes, to check that everything works"}
    facts = {**gpu, "CPU": machine["cpu"], "cores": machine["cores"], **machine["versions"]}
    states = [
        (name, each["state"], f"{each['seconds']:.0f} s", (each["commit"] or "")[:8], each["reason"])
        for name, each in records.items()
    ]
    blocks = [
        f"# Measured on {gpu['name']}",
        ", ".join(f"{name} {value}" for name, value in facts.items() if value and name != "name"),
        "Every figure and the commands are in [suite.json](suite.json).",
        "## Training steps",
        table(TRAINING, [line for each in records.values() for line in training_lines(each)]),
        "A step includes the wait for data; its parts were timed apart. Peak: the largest of the parts.",
        *[block for each in records.values() for block in other_blocks(each)],
        "## Parts",
        table(("part", "state", "took", "commit", "reason"), states),
    ]
    return "\n\n".join(blocks) + "\n"


def training_lines(record: Record) -> Iterator[tuple[str, ...]]:
    """Yield a line for each phase of a profile."""
    figures = record["figures"] or {}
    for phase, found in figures.get("phases", {}).items():
        _, method, variant = record["name"].split("-")
        streams, parts, ms = found["streams"], found["parts"], found["uncut_step_ms"]
        batch = figures["recipe"]["data"]
        images = streams["labeled"] * batch["batch_l"] + streams["unlabeled"] * batch["batch_u"]
        peaks = [part["peak_mib"] for part in parts.values() if part["peak_mib"] is not None]
        peak = number(max(peaks) / 1024 if peaks else None)
        shares = ", ".join(f"{name} {part['share']:.0%}" for name, part in parts.items())
        yield (method, variant, phase, str(images), number(ms), number(1000 * images / ms), peak, shares)


def other_blocks(record: Record) -> Iterator[str]:
    """Yield what the page says of a part but for training: latencies, the tests, a comparison."""
    name, figures = record["name"], record["figures"]
    if name.startswith("infer-") and "rows" in (figures or {}):
        rows = Report.model_validate(figures).rows
        yield f"## {name}\n\n{table(*lines(rows, SHORT))}"
        if on_gpu(rows):
            yield table(*lines(on_gpu(rows), GPU))
        yield from (f"Not measured: {line}." for line in why_not(rows))
    elif name == "tests":
        yield "\n".join(["## Tests\n", *(f"- {line}" for line in (figures["summary"], *figures["failed"]))])
    elif name.startswith("compare-") and figures:
        yield f"## Comparison\n\n[Table]({name}/table.md), [curves]({name}/curves.png)"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (head, ["---"] * len(head), *body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def measure(parts: Sequence[Part], settings: Settings, limit_s: int, *, again: bool = False) -> None:
    """Measure the parts that are not done and write the results after each.

    Raises:
        ZooError: a broken `suite.json`, or a part did not finish.
    """
    store = settings.out / "suite.json"
    try:
        records: dict[str, Record] = json.loads(store.read_bytes())["parts"] if store.is_file() else {}
    except (ValueError, KeyError) as error:
        raise ZooError(f"{store} holds no results of a suite ({error!r}): delete it") from error
    check_writable(settings.out)
    settings.out.mkdir(parents=True, exist_ok=True)
    settings.work.mkdir(parents=True, exist_ok=True)
    states = {name: record["state"] for name, record in records.items()}
    with StopRequests() as stop:
        for part in parts:
            former = records.get(part.name)
            if stop.requested or (is_done(former, limit_s) and not again):
                continue
            log.info("%s ...", part.name)
            record = run_part(part, settings.work, limit_s, stop)
            log.info("%s after %g s %s", record["state"], record["seconds"], record["reason"])
            states[part.name] = record["state"]
            is_kept = former is None or former["state"] != "finished" or record["state"] == "finished"
            if is_kept and record["state"] != "stopped":
                records[part.name] = record
                write_results(settings, records)
    unfinished = [part.name for part in parts if states.get(part.name) != "finished"]
    if unfinished:
        raise ZooError(
            f"{len(unfinished)} of {len(parts)} parts are not finished ({', '.join(unfinished)}): read their "
            f"logs in {settings.work}, correct the cause and give the same command again"
        )


def main() -> None:
    """Measure what the command line asks for.

    Raises:
        ZooError: no such device or part, or a part did not finish.
    """
    parser = argparse.ArgumentParser(description="Measure a GPU part by part: docs/measuring.md.")
    add = parser.add_argument
    add("--parts", default="*", help="comma-separated patterns, e.g. 'tests,train-*-bf16'")
    add("--compare", metavar="OPTIONS", help="also run zoo compare, e.g. with '--data camvid'")
    add("--limit", type=int, default=LIMIT_S, help="seconds that a part may take; default: %(default)s")
    add("--again", action="store_true", help="also measure the parts that are finished")
    add("--quick", action="store_true", help="smallest sizes, to check that everything works")
    add("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: with --quick only")
    options = parser.parse_args()
    if options.device == "cpu" and not options.quick:
        raise ZooError("--device cpu without --quick, expected a GPU at full size: add --quick")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ZooError("PyTorch finds no GPU, expected one: check the setup with --quick --device cpu")
    processor = cpu_model() if options.device == "cpu" else torch.cuda.get_device_name()
    name = re.sub(r"[^a-z0-9]+", "-", processor.lower()).strip("-") + "-quick" * options.quick
    work = Path("runs/suite") / name
    out = work / "results" if options.quick else Path("docs/results") / name
    settings = Settings(options.device, options.quick, options.compare, out, work)
    known, patterns = plan(settings), options.parts.split(",")
    parts = [part for part in known if any(fnmatchcase(part.name, each) for each in patterns)]
    if not parts:
        names = ", ".join(part.name for part in known)
        raise ZooError(f"--parts {options.parts} matches no part, expected some of {names}")
    write_images(work / "images")
    measure(parts, settings, options.limit, again=options.again)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main()
    except ZooError as error:
        sys.exit(f"error: {error}")
