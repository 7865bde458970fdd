"""What a person sees of a plan: what a run would need of memory and time, and how sure that is."""

from __future__ import annotations

from typing import Any

from zoo.commands.console import table

UNKNOWN = "unknown"


def plan_report(found: dict[str, Any]) -> list[Any]:
    """Return the tables and sentences of a plan; see `zoo.train.plan`."""
    from zoo.figures import duration

    rows = [
        (
            name,
            f"{phase['steps']:,}",
            f"{phase['step_s']:.3f}",
            duration(phase["steps"] * phase["step_s"]),
            mib(phase["activations_mib"]),
            mib(phase["predicted_mib"]),
            mib(phase["measured_mib"]),
        )
        for name, phase in found["phases"].items()
    ]
    heads = ("phase", "steps", "s a step", "time", "activations", "predicted peak, MiB", "measured")
    parts = [(name, mib(value)) for name, value in found["memory"].items()]
    counts = [(name, f"{count:,}") for name, count in found["parameters"].items() if count]
    evaluations = f"{found['evaluations']} evaluations of {duration(found['evaluation_s'])}"
    return [
        table(f"Batch {found['batch']} on {found['device']}, by phase", heads, rows),
        table("Held in every phase, MiB", ("part", "MiB"), parts),
        table("Parameters", ("network", "parameters"), counts),
        f"Whole run: {duration(found['seconds'])}, with {evaluations}; without checkpoints.",
        _trust(found),
        _largest(found),
        loading_line(found["loading"], found["device"]),
    ]


def mib(value: float | None) -> str:
    """Return a figure in MiB as text."""
    return UNKNOWN if value is None else f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def loading_line(loading: dict[str, Any], device: str) -> str:
    """Return whether the loader feeds the steps, and what would.

    Args:
        loading: see `zoo.train.load_plan.plan_loading`.
        device: of the steps.
    """
    given, need, wanted = loading["images_per_s"], loading["need"], max(1, loading["workers_needed"])
    rates = f"Loader: {given:.0f} images/s by {loading['workers']} workers"
    if loading["feeds"]:
        return f"{rates}, {need:.0f} are taken by {loading['phase']}."
    line = f"{rates}, but {loading['phase']} takes {need:.0f}: {loading['cpu_ms']:.1f} ms of a core an image"
    if device == "cpu":
        return f"{line}, beside the steps on the same {loading['cores']} cores: try --set data.cache=memory."
    if wanted > loading["cores"]:
        return (
            f"{line}, which would take {wanted} workers, more than the {loading['cores']} cores here: keep "
            f"decoded images (--set data.cache=memory), and measure with zoo data bench."
        )
    return f"{line}: take --set data.workers={wanted}."


def _trust(found: dict[str, Any]) -> str:
    """Return how the memory was predicted, and how far off that was."""
    first, second = found["fitted"]
    how = f"Memory: {found['memory_is']}; a line through batches {first} and {second}"
    if found["predicted_mib"] is None:
        return f"Memory: {UNKNOWN}, this system does not count it."
    if not found["fits"]:
        return f"{how}; batch {found['batch']} was not tried, its time is in proportion to that of {second}."
    if found["error"] is None:
        return f"{how}; its error is {UNKNOWN} at so small a batch."
    ours, real = mib(found["predicted_mib"]), mib(found["measured_mib"])
    return f"{how}: {ours} MiB predicted, {real} measured at batch {found['batch']}: {found['error']:+.1%}."


def _largest(found: dict[str, Any]) -> str:
    """Return the largest batch that fits."""
    if found["largest_batch"] is None:
        return f"Largest batch: {UNKNOWN}."
    verdict = "" if found["fits"] else f": batch {found['batch']} does not fit"
    limit = f"{mib(found['limit_mib'])} MiB, 90 % of what is free now"
    return f"Largest batch by what was measured: {found['largest_batch']:,}, in {limit}{verdict}."
