"""`zoo export --precision auto`: the fastest artifact on this machine within its tolerance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zoo.errors import ExportError
from zoo.machine import cores

if TYPE_CHECKING:
    from zoo.export.manifest import Artifact
    from zoo.export.options import ExportOptions
    from zoo.predictors.artifact import Precision

    Say = Callable[[str], None]

CANDIDATES: dict[str, tuple[Precision, ...]] = {"cpu": ("fp32", "int8"), "cuda": ("fp32", "fp16", "int8")}
"""Precisions to try by device; half precision gains nothing on a CPU."""

KEPT = "kept: the fastest within its tolerance"

COLUMNS = ("candidate", "p50 ms", "over eager", "agreement", "mIoU change", "")


class Candidate(NamedTuple):
    """A precision on a runtime of this machine, with its measurements."""

    name: str
    """Name as in `zoo bench --backends`, e.g. `ort:int8`."""
    artifact: Artifact | None
    """None if it could not be exported within its tolerance."""
    p50_ms: float | None
    speedup: float | None
    """Relative to eager fp32."""
    remark: str

    def row(self, *, chosen: bool) -> tuple[str, ...]:
        """Return the cells of `COLUMNS`."""
        parity = None if self.artifact is None else self.artifact.parity
        accuracy = None if parity is None else parity.accuracy
        weakness = "" if parity is None else parity.weakness
        remarks = KEPT if chosen else "", weakness, self.remark
        return (
            self.name,
            "-" if self.p50_ms is None else f"{self.p50_ms:.2f}",
            "-" if self.speedup is None else f"{self.speedup:.2f}x",
            "-" if parity is None else f"{parity.agreement:.5f}",
            "-" if accuracy is None else str(accuracy.miou),
            "; ".join(filter(None, remarks)),
        )


class Advice(NamedTuple):
    """The candidates and the one that was kept."""

    candidates: tuple[Candidate, ...]
    chosen: Candidate
    files: tuple[str, ...]
    """Names of its files in the bundle."""


def advise(bundle: Path, options: ExportOptions, device: str, say: Say) -> Advice:
    """Export the candidates that run on this machine, time them in turns and keep only the fastest.

    Args:
        bundle: bundle folder; the artifact is written to it, or to `options.out`.
        options: options of the export; the precision is replaced.
        device: `cpu` or `cuda`.
        say: called with a line for each step.

    Raises:
        ExportError: no candidate is within its tolerance.
    """
    from zoo.export.pipeline import export_bundle
    from zoo.predictors.artifact import ONNX_NAMES, TRT_ONNX_NAMES

    made: dict[str, Artifact] = {}
    refused: dict[str, str] = {}
    trt = options.trt and device == "cuda"
    options = options.model_copy(update={"trt": trt, "int8_for": ("cpu", "trt") if trt else ("cpu",)})
    for precision in CANDIDATES[device]:
        try:
            report = export_bundle(bundle, options.model_copy(update={"precision": (precision,)}), say)
        except ExportError as error:
            refused[precision] = str(error).splitlines()[0]
            say(f"{precision}: {refused[precision]}")
            for name in (ONNX_NAMES[precision], *((TRT_ONNX_NAMES[precision],) if trt else ())):
                ((options.out or bundle) / name).unlink(missing_ok=True)
            continue
        bundle = Path(report.bundle)
        made |= {artifact.name: artifact for artifact in report.artifacts}
    if not made:
        raise ExportError(f"no precision is within its tolerance: {'; '.join(refused.values())}")
    candidates = [*_measure(bundle, made, device, say), *_refused(refused)]
    timed = [each for each in candidates if each.p50_ms is not None]
    if not timed:
        raise ExportError(
            f"no artifact runs on this machine: {'; '.join(each.remark for each in candidates)}"
        )
    chosen = min(timed, key=lambda each: each.p50_ms or 0.0)
    files = _keep(bundle, chosen, made, candidates)
    return Advice(tuple(candidates), chosen, files)


def _measure(bundle: Path, made: dict[str, Artifact], device: str, say: Say) -> list[Candidate]:
    """Return the exported candidates with their times."""
    from zoo.serve.bench.benchmark import benchmark
    from zoo.serve.bench.measurement import Settings

    names = _names(made, device)
    settings = Settings(
        backends=tuple(names),
        device=device,
        threads=cores(),
        seconds=1.0,
        min_runs=20,
        images=0,
    )
    say(f"timing {', '.join(names)} in turns")
    rows = {row.name: row for row in benchmark([bundle], settings, lambda _: None).rows}
    found = []
    for name, artifact in names.items():
        row = rows[name]
        time = None if row.end_to_end_ms is None else row.end_to_end_ms.p50
        speedup = None if row.speedup is None else row.speedup.ratio
        found.append(Candidate(name, artifact, time, speedup, row.reason or ""))
    return found


def _names(made: dict[str, Artifact], device: str) -> dict[str, Artifact]:
    """Return the artifacts by name in `--backends`, for each runtime of this machine that runs them."""
    from zoo.predictors.artifact import ONNX_NAMES
    from zoo.predictors.backends import BACKENDS, ONNX

    names = {}
    for file, artifact in made.items():
        suffix = Path(file).suffix
        if suffix == ONNX and file != ONNX_NAMES[artifact.precision]:
            continue  # input of the engine build
        for name, row in BACKENDS.items():
            if suffix == row.suffix and device in row.devices and row.is_installed:
                names[f"{name}:{artifact.precision}"] = artifact
    return names


def _refused(reasons: dict[str, str]) -> list[Candidate]:
    return [Candidate(precision, None, None, None, reason) for precision, reason in reasons.items()]


def _keep(
    bundle: Path, chosen: Candidate, made: dict[str, Artifact], candidates: Sequence[Candidate]
) -> tuple[str, ...]:
    """Remove the other artifacts, record the reason in the manifest, and return the names that are left."""
    from zoo.bundle.manifest import read_manifest
    from zoo.card.card import refresh_card
    from zoo.export.manifest import update_manifest
    from zoo.predictors.artifact import info_path

    assert chosen.artifact is not None
    for name in made:
        if name != chosen.artifact.name:
            (bundle / name).unlink()
            info_path(bundle / name).unlink(missing_ok=True)
    entry = read_manifest(bundle).artifacts[chosen.artifact.name]
    advice = {each.name: {"p50_ms": each.p50_ms, "remark": each.remark} for each in candidates}
    update_manifest(bundle, {chosen.artifact.name: {**entry, "chosen_from": advice}})
    refresh_card(bundle)
    return (chosen.artifact.name,)
