"""The results of a suite on disk: `suite.json`, `README.md` with tables, pictures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.bundle.bundle import replacing, write_json
from zoo.evaluation.figures import duration
from zoo.suite import tables
from zoo.suite.aims import Aim, aims
from zoo.suite.notes import AIMS_NOTE, INFERENCE_NOTES, QUICK_NOTE, TRAINING_NOTES
from zoo.suite.plots import write_plots
from zoo.suite.reading import conditions, machine_of, of_kind, steps_of, unmeasured_variants
from zoo.suite.tables import markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.suite.record import Record, SuiteFolder

SUITE_NAME, PAGE_NAME = "suite.json", "README.md"
TEXT = "---"
"""Alignment of columns that hold words."""
ALTERNATIVES = {
    "training.png": "Time and peak memory of a training step by method",
    "latency.png": "Latency of one image by backend",
    "roofline.png": "What each backend reaches under the roofline",
}


class Made(NamedTuple):
    """Where and how the figures were made."""

    command: str
    written: str
    names: tuple[str, ...]
    """Of the parts, in their order."""


def write_report(folder: SuiteFolder, made: Made) -> list[Path]:
    """Write everything that is known and return the paths; no file is ever half written.

    Raises:
        ZooError: a record cannot be read.
    """
    records = folder.read_all(made.names)
    folder.path.mkdir(parents=True, exist_ok=True)
    data, page = folder.path / SUITE_NAME, folder.path / PAGE_NAME
    write_json(data, as_json(records, made))
    pictures = write_plots(folder.path, records, machine_of(records), title(records))
    pictures += _copy_comparisons(folder.path, records)
    with replacing(page) as temporary:
        temporary.write_text(as_markdown(records, made, pictures, folder.path), encoding="utf-8")
    return [page, data, *pictures]


def as_json(records: Sequence[Record], made: Made) -> dict[str, Any]:
    """Return all records and the aims."""
    return {
        "format": 1,
        "command": made.command,
        "written": made.written,
        "missing": _missing(records, made),
        "aims": [aim._asdict() for aim in aims(records)],
        "parts": [record.model_dump(mode="json") for record in records],
    }


def title(records: Sequence[Record]) -> str:
    """Return what was measured."""
    return ", ".join(dict.fromkeys(record.inputs.processor for record in records)) or "no machine yet"


def as_markdown(records: Sequence[Record], made: Made, pictures: Sequence[Path], folder: Path) -> str:
    """Return the report as Markdown; pictures are linked from the folder it lies in."""
    shown = [path for path in pictures if path.name in ALTERNATIVES]
    blocks = [
        f"# Measured on {title(records)}",
        *_warnings(records),
        f"Made by `{made.command}`, written {made.written}; every number is in [{SUITE_NAME}]({SUITE_NAME}).",
        "## Aims",
        markdown((Aim._fields, [tuple(aim) for aim in aims(records)]), TEXT),
        AIMS_NOTE,
        *_machine(records),
        *_training(records, [path for path in shown if path.name == "training.png"]),
        *_inference(records, [path for path in shown if path.name != "training.png"]),
        *_comparisons(records, folder),
        *_tests(records),
        "## Parts",
        markdown(tables.parts(records), TEXT),
        *[f"Not measured: {', '.join(missing)}." for missing in [_missing(records, made)] if missing],
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _warnings(records: Sequence[Record]) -> list[str]:
    found = []
    if any(record.inputs.options.get("quick") for record in records):
        found.append(QUICK_NOTE)
    commits = {(record.commit or {}).get("commit") for record in records if record.figures}
    if len(commits) > 1:
        found.append("Parts were measured at different commits, see the last table.")
    return found


def _machine(records: Sequence[Record]) -> list[str]:
    machine = machine_of(records)
    if not machine:
        return []
    about = machine["machine"]
    gpu = about["gpu"]
    record = of_kind(records, "machine")[0]
    versions = ", ".join(f"{name} {version}" for name, version in record.inputs.versions.items() if version)
    facts = [
        f"processor: {about['cpu']}, {about['cores']} cores; load average {about['load']} before",
        f"system: {about['system']}",
        *(["GPU: " + ", ".join(f"{key} {value}" for key, value in gpu.items())] if gpu else []),
        *_states(machine),
        f"versions: {versions}",
    ]
    return ["## Machine", _listed(facts), markdown(tables.peaks(machine)), _command(record)]


def _states(machine: dict[str, Any]) -> list[str]:
    """Return clocks, temperature and power of the GPU before and after the peaks were measured."""
    found = ((when, machine.get(f"gpu_{when}")) for when in ("before", "after"))
    return [
        f"GPU {when}: "
        + ", ".join(
            f"{key.replace('_', ' ')} {_joined(value) if isinstance(value, list) else value}"
            for key, value in state.items()
        )
        for when, state in found
        if state
    ]


def _joined(values: Sequence[str]) -> str:
    return " and ".join(values) or "nothing"


def _training(records: Sequence[Record], pictures: Sequence[Path]) -> list[str]:
    if not steps_of(records):
        return []
    blocks = ["## Training", *map(_picture, pictures)]
    for name, table in tables.training(records, machine_of(records)).items():
        blocks += [f"### {name}", markdown(table)]
    blocks += [_listed([f"no figures: {line}" for line in unmeasured_variants(records)])]
    notes = [*TRAINING_NOTES, *conditions(records)]
    return [*blocks, _command(*of_kind(records, "train")), _listed(notes)]


def _inference(records: Sequence[Record], pictures: Sequence[Path]) -> list[str]:
    found = tables.inference(records)
    if not found:
        return []
    blocks = ["## Inference", *map(_picture, pictures)]
    for name, table in found.items():
        blocks += [f"### {name}", markdown(table)]
    blocks += [_listed([f"no figures: {line}" for line in tables.not_inferred(records)])]
    return [*blocks, _command(*of_kind(records, "infer")), _listed(INFERENCE_NOTES)]


def _comparisons(records: Sequence[Record], folder: Path) -> list[str]:
    blocks = []
    for record in of_kind(records, "compare"):
        figures = record.figures or {}
        options = record.inputs.options
        blocks += [f"### {options['data']}, partition {options['partition']}", figures["headline"]]
        if figures["rows"]:
            columns, rows = tuple(figures["columns"]), [tuple(row) for row in figures["rows"]]
            blocks.append(markdown((columns, rows)))
        blocks.append(_listed([f"no figures: {line}" for line in figures["unfinished"]]))
        if (folder / record.name / "curves.png").is_file():
            blocks.append(f"![Learning curves]({record.name}/curves.png)")
        blocks.append(_command(record))
    return ["## Methods on the same labels", *blocks] if blocks else []


def _tests(records: Sequence[Record]) -> list[str]:
    found = of_kind(records, "tests")
    if not found:
        return []
    figures, options = found[0].figures or {}, found[0].inputs.options
    counts = ", ".join(f"{figures[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
    lines = [f"`{name}`: {reason}" for name, reason in figures["failures"].items()]
    what = f"`pytest -m '{options['select']}' {' '.join(options['files'])}`: {counts}."
    return ["## Tests", what, _listed(lines), _command(found[0])]


def _copy_comparisons(folder: Path, records: Sequence[Record]) -> list[Path]:
    """Copy the reports of comparisons from where their runs lie, and return the paths of the copies."""
    copies = []
    for record in of_kind(records, "compare"):
        for source in map(Path, (record.figures or {})["files"]):
            if source.is_file():
                target = folder / record.name / source.name
                target.parent.mkdir(exist_ok=True)
                with replacing(target) as temporary:
                    shutil.copyfile(source, temporary)
                copies.append(target)
    return copies


def _missing(records: Sequence[Record], made: Made) -> list[str]:
    there = {record.name for record in records}
    return [name for name in made.names if name not in there]


def _command(*records: Record) -> str:
    """Return the commands that measured records, and how long they took."""
    took = duration(sum(record.seconds for record in records))
    commands = dict.fromkeys(record.command for record in records)
    shown = next(iter(commands)) if len(commands) == 1 else _pattern(records)
    return f"`{shown}`, {took}."


def _pattern(records: Sequence[Record]) -> str:
    """Return the command that measures all records of a kind."""
    first = records[0]
    return first.command.replace(f"--parts {first.name}", f"--parts '{first.name.partition('-')[0]}-*'")


def _picture(path: Path) -> str:
    return f"![{ALTERNATIVES[path.name]}]({path.name})"


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
