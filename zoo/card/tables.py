"""Tables of a model card with the results of export and benchmark."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import WEIGHTS_NAME
from zoo.bundle.manifest import read_manifest, sha256
from zoo.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoo.bundle.bundle import BundleConfig

BENCHMARK_NAME = "benchmark/benchmark.json"

NONE = "\N{EN DASH}"

EXPORTED = ("file", "precision", "MB", "agreement", "change of mIoU, points")
TIMED = ("backend", "precision", "batch", "size", "p50 ms", "p90 ms", "images/s", "over eager")
RELIABLE = {
    "ece": "ECE",
    "aurc": "AURC",
    "miou_at_100": "mIoU",
    "miou_at_90": "mIoU of the surest 90 % of pixels",
}

READING = (
    "Agreement: share of pixels with the same class as PyTorch in fp32, at the worst of several shapes. "
    "Change of mIoU: with its 95 % interval, on labeled `val` images. Engines run only on the GPUs "
    "that they were built for."
)


ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"})


def escaped(text: str) -> str:
    """Return text as Markdown shows it literally, in a table too: no line breaks, pipes or HTML tags."""
    return " ".join(text.translate(ESCAPES).split())


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "---:") -> list[str]:
    """Return the lines of a Markdown table, for cards and reports.

    Args:
        head: titles of the columns.
        rows: cells, without `|`; `escaped` if they hold text of the user's.
        align: rule under all columns except the first, which is left-aligned.
    """
    rule = ("---", *(align for _ in head[1:]))
    return [f"| {' | '.join(line)} |" for line in (head, rule, *rows)]


def agreement_section(folder: Path) -> list[str]:
    """Return the section on exported files and their agreement, without files of previous weights.

    Raises:
        BundleError: a manifest that cannot be read.
    """
    artifacts = read_manifest(folder).artifacts
    weights = sha256(folder / WEIGHTS_NAME) if artifacts else ""
    rows = [
        _exported(folder / name, name, entry)
        for name, entry in artifacts.items()
        if entry.get("metadata", {}).get("weights_sha256") == weights and (folder / name).is_file()
    ]
    if not rows:
        return []
    return [
        "",
        "## Exported files",
        "",
        *markdown_table(EXPORTED, rows),
        "",
        READING,
    ]


def reliability_section(config: BundleConfig) -> list[str]:
    """Return the section on the calibrated reliability; empty if the model is not calibrated."""
    if config.reliability is None:
        return []
    about, measured = config.reliability.about, config.reliability.measured
    head = ["", "## Reliability", ""]
    fitted = (
        f"The probability that the class of a pixel is right, by `{about['score']}`, fitted on "
        f"{about['images']} `{about['split']}` images of {about['data']}."
    )
    if not measured:
        return [*head, f"{fitted} Not measured on other images."]
    others = (
        f"Measured on {measured['images']} other `{measured['split']}` images of {measured['data']}, with "
        f"95 % intervals over images:"
    )
    scores = measured["scores"].items()
    rows = [(score, *(_with_interval(found[key]) for key in RELIABLE)) for score, found in scores]
    return [*head, f"{fitted} {others}", "", *markdown_table(("score", *RELIABLE.values()), rows)]


def _with_interval(metric: dict[str, float | None]) -> str:
    if metric["value"] is None:
        return NONE
    return f"{metric['value']:.4f} ({metric['low']:.4f} to {metric['high']:.4f})"


def latency_section(folder: Path) -> list[str]:
    """Return the section on the latency of each backend; empty without a benchmark of only this model.

    Raises:
        BundleError: a benchmark that cannot be read.
    """
    report = _read_benchmark(folder / BENCHMARK_NAME)
    rows = [row for row in report.get("rows", ()) if row.get("end_to_end_ms")]
    if not rows or len({row["model"] for row in report["rows"]}) > 1:
        return []
    machine, settings = report["machine"], report["settings"]
    gpu = machine["gpu"]["name"] if settings["device"] == "cuda" and machine["gpu"] else None
    threads = f"{settings['threads']} threads of {machine['cpu']} ({machine['cores']} cores)"
    quick = " A first look: few runs." if settings["quick"] else ""
    return [
        "",
        "## Latency",
        "",
        *markdown_table(TIMED, [_timed(row) for row in rows]),
        "",
        (
            f"End to end, images to masks in host memory, on {gpu or threads}, "
            f"{report['timestamp']}. Over eager: ratio of the medians.{quick}"
        ),
    ]


def _read_benchmark(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        report: dict[str, Any] = json.loads(path.read_bytes())
        if {"rows", "machine", "settings", "timestamp"} <= report.keys():
            return report
    except (ValueError, AttributeError):
        pass
    raise BundleError(
        f"{path} is not a benchmark: delete it, or measure again with zoo bench {path.parent.parent}"
    )


def _exported(path: Path, name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    parity = entry.get("parity")
    if parity is None:
        return name, entry["precision"], _megabytes(path), "not compared", NONE
    miou = (parity.get("accuracy") or {}).get("miou")
    return name, entry["precision"], _megabytes(path), f"{parity['agreement']:.6f}", _change(miou)


def _change(miou: dict[str, float] | None) -> str:
    if miou is None:
        return NONE
    points = (100 * value for value in (miou["artifact"] - miou["reference"], miou["low"], miou["high"]))
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*points)


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f}"


def _timed(row: dict[str, Any]) -> tuple[str, ...]:
    times, throughput, speedup = row["end_to_end_ms"], row["throughput"], row["speedup"]
    return (
        row["backend"],
        row["precision"] or NONE,
        str(row["batch"]),
        "x".join(map(str, row["imgsz"])),
        f"{times['p50']:.2f}",
        f"{times['p90']:.2f}",
        f"{throughput['images_per_s']:.1f}" if throughput else NONE,
        f"{speedup['ratio']:.2f}" if speedup else NONE,
    )
