"""From the requests of some rounds to the figures of a row."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.serve.benchmark import times
from zoo.serve.load.loops import OK
from zoo.serve.load.measurement import PARTS, REST, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.serve.load.loops import Observed, Sample

LATE_PERCENTILE = 99


def row(rounds: Sequence[Observed], bound_ms: float, **load: Any) -> Row:
    """Return the figures of all rounds of one load.

    Args:
        rounds: what each showed.
        bound_ms: see `Settings`.
        load: fields of the row that say what it was.
    """
    samples = [sample for observed in rounds for sample in observed.samples]
    good = [[1000 * each.seconds for each in observed.samples if each.kind == OK] for observed in rounds]
    answered = [latencies for latencies in good if latencies]
    in_time = sum(latency <= bound_ms for latencies in answered for latency in latencies)
    seconds = sum(observed.seconds for observed in rounds)
    errors = Counter(sample.kind for sample in samples if sample.kind != OK)
    return Row(
        requests=len(samples),
        errors=dict(sorted(errors.items())),
        latency_ms=times(answered) if answered else None,
        answered_per_s=sum(observed.answered for observed in rounds) / seconds,
        in_time=in_time / len(samples) if samples else 0.0,
        parts_ms=parts(samples),
        sent_bytes=sum(sample.sent_bytes for sample in samples),
        received_bytes=sum(sample.received_bytes for sample in samples),
        client_cpu=max(observed.cpu for observed in rounds),
        late_ms=_late(samples) if load["loop"] == "open" else None,
        connections=max(observed.connections for observed in rounds),
        seconds=seconds,
        **load,
    )


def parts(samples: Sequence[Sample]) -> dict[str, float]:
    """Return mean milliseconds of each part of the answers that have Server-Timing; they add up to the mean.

    Args:
        samples: requests, those that failed too.
    """
    found = [(sample, server_timing(sample.timing)) for sample in samples if sample.kind == OK]
    timed = [(sample, timing) for sample, timing in found if timing]
    if not timed:
        return {}
    means = {part: float(np.mean([timing.get(part, 0.0) for _, timing in timed])) for part in PARTS}
    whole = 1000 * float(np.mean([sample.seconds for sample, _ in timed]))
    return {**means, REST: whole - sum(means.values())}


def server_timing(header: str) -> dict[str, float]:
    """Return the milliseconds of each entry of a Server-Timing header that has a duration.

    Example:
        >>> server_timing("decode;dur=1.5, queue;desc=waiting;dur=0.25, miss")
        {'decode': 1.5, 'queue': 0.25}
    """
    found = {}
    for entry in header.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key == "dur":
                found[name] = float(value)
    return found


def _late(samples: Sequence[Sample]) -> float | None:
    """Return how many milliseconds after they were due requests were sent, p99."""
    late = [1000 * (sample.sent - sample.start) for sample in samples]
    return float(np.percentile(late, LATE_PERCENTILE)) if late else None
