"""`zoo train`: a method on the user's images."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zoo.commands.arguments import (
    BatchOption,
    CropOption,
    DeviceOption,
    EncoderOption,
    PartitionOption,
    PretrainedOption,
    parse_size,
)
from zoo.commands.console import AsJson, emit, table
from zoo.resolve import newest_run, resolve_bundle

if TYPE_CHECKING:
    from zoo.predictors.eager import EagerPredictor
    from zoo.train.loop.hardware import Hardware
    from zoo.train.recipe.schema import Recipe


UNKNOWN = "unknown"


def train(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="unimatch, fixmatch, eln, rrn, u2pl, s4gan, supervised, mlmt (a classifier for gates), or a "
            "plugin's method.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="shapes (built in, the default without --recipe), voc:DIR, a folder or a data.toml; "
            "with --resume: where the run's data are now.",
        ),
    ] = None,
    partition: PartitionOption = None,
    encoder: EncoderOption = None,
    pretrained: PretrainedOption = None,
    start_from: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Start from the weights of this run, bundle or name in a registry; twice for two networks.",
        ),
    ] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Start the encoder from this state dict or .safetensors file, named as timm names tensors.",
        ),
    ] = None,
    freeze_encoder: Annotated[
        bool, typer.Option("--freeze-encoder", help="Keep the encoder as it starts; all else learns.")
    ] = False,
    lr_encoder: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Learning rate of the encoder; default: the recipe's share of lr."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.toml", help="Recipe; default: the method's for these data."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: a dated one under runs/.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out, or the newest one.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length of the run; phases keep their share of it.")
    ] = None,
    imgsz: CropOption = None,
    batch: BatchOption = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Batches of a step, one after the other: for less memory.")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"] | None,
        typer.Option(help="Mixed precision of the networks; auto: the fastest here, as measured on a CPU."),
    ] = None,
    device: DeviceOption = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Processes, one for each device; on several machines use torchrun.")
    ] = 1,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the networks: faster steps after some minutes.")
    ] = False,
    channels_last: Annotated[
        bool | None,
        typer.Option("--channels-last/--no-channels-last", help="Memory layout; default: on a GPU."),
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Keep fewer activations: less memory, slower steps.")
    ] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bits each time on the same machine.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of weights, partition, order and augmentation.")
    ] = None,
    select_on: Annotated[
        str | None,
        typer.Option(
            metavar="1/5|N",
            help="Hold out so many labeled images and keep the step that is best on them; default: the last.",
        ),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            metavar="NETWORK",
            help="Which network is evaluated and bundled, e.g. teacher or student; default: the recipe's.",
        ),
    ] = None,
    wandb: Annotated[
        str | None,
        typer.Option(metavar="PROJECT", help="Also log to this W&B project."),
    ] = None,
    export_check: Annotated[
        bool,
        typer.Option(
            "--export-check/--no-export-check",
            help="First export the untrained network to ONNX and compare it with PyTorch.",
        ),
    ] = True,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Only time some steps of each phase, part by part; trains no model."),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Only tell what the run would need of memory and time, and the largest batch."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train METHOD on few masks and many images; leaves a run folder with a stripped bundle."""
    # waiting threads must not spin: data workers need the cores; this is read when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from zoo.errors import RecipeError
    from zoo.train.loop.hardware import Hardware
    from zoo.train.loop.precision import with_precision_of_machine
    from zoo.train.recipe.options import TrainingOptions
    from zoo.train.session import resume as resume_run
    from zoo.train.session import start as start_run

    hardware = Hardware(device, devices)
    options = TrainingOptions(
        method,
        data,
        partition=partition,
        imgsz=None if imgsz is None else parse_size(imgsz),
        batch=batch,
        accumulate=accumulate,
        encoder=encoder,
        pretrained=pretrained,
        start_from=tuple(str(resolve_bundle(model)) for model in start_from or ()),
        encoder_weights=None if encoder_weights is None else str(encoder_weights),
        freeze_encoder=freeze_encoder,
        lr_encoder=lr_encoder,
        recipe=recipe,
        settings=tuple(settings or ()),
        steps=steps,
        precision=precision,
        compile=compile_,
        channels_last=channels_last,
        recompute=recompute,
        deterministic=deterministic,
        select_on=select_on,
        score=score,
        seed=seed,
    )
    if resume:
        if options != TrainingOptions(method, data) or profile or plan:
            raise RecipeError(
                "--resume continues a run as it was started: leave the other options out, but for --data, "
                "which says where its data are now"
            )
        metrics = resume_run(out or newest_run(method), method, hardware, wandb, data)
    else:
        resolved = options.read()
        if precision == "auto":
            resolved = with_precision_of_machine(resolved, hardware)
        if plan and profile:
            raise RecipeError("got --plan and --profile, expected one of them: --plan also times steps")
        if plan or profile:
            found, shown = _planned(resolved, hardware) if plan else _profiled(resolved, out, hardware)
            emit(found, *shown, as_json=as_json)
            return
        metrics = start_run(resolved, out, hardware, wandb, check=_check_export if export_check else None)
    if metrics:  # of several processes only the first reports
        emit(metrics, *_report(metrics), as_json=as_json)


def _check_export(untrained: EagerPredictor) -> None:
    """Raise if an untrained network cannot be exported."""
    from zoo.export.untrained import check_untrained

    check_untrained(untrained)


def _planned(recipe: Recipe, hardware: Hardware) -> tuple[dict[str, Any], list[Any]]:
    """Return a plan and its terminal output."""
    from zoo.train.profile.plan import plan

    found = plan(recipe, hardware)
    return found, plan_report(found)


def _profiled(recipe: Recipe, out: Path | None, hardware: Hardware) -> tuple[dict[str, Any], list[Any]]:
    """Return a profile and its terminal output."""
    from zoo.train.profile.profile import profile

    found = profile(recipe, out, hardware)
    return found, _profile_report(found)


def _report(metrics: dict[str, Any]) -> list[Any]:
    """Return the terminal output for the metrics of a run."""
    from zoo.evaluation.figures import MASKS, figures_of

    val, selected = metrics["val"], metrics.get("selected")
    kept = metrics["steps"] if selected is None else f"{selected['step']}, the best on held-out images,"
    figures = figures_of(val)
    rows = [*figures.rows(val, "{:.3f}".format), figures.means(val, "{:.3f}".format)]
    headings = tuple(figures.by_class.values())
    run = Path(metrics["run"])
    names = ("metrics.json", "log.csv", "curves.png", "preview.png", "bundle")
    return [
        table(
            f"{' and '.join(headings)} after step {kept} on {val['images']} val images",
            ("class", *headings),
            rows,
        ),
        "Wrote " + ", ".join(str(run / name) for name in names),
        f"Next: zoo export {quote(str(run))} --onnx --trt"
        if figures is MASKS
        else f"Next: zoo export MODEL --gate {quote(str(run))}",
    ]


def _profile_report(found: dict[str, Any]) -> list[Any]:
    """Return the terminal output for a profile: a table of the parts of each phase's step."""
    shown: list[Any] = []
    for name, phase in found["phases"].items():
        rows = [
            (part, f"{figures['ms']:.1f}", f"{figures['share']:.1%}", _mib(figures["peak_mib"]))
            for part, figures in phase["parts"].items()
        ]
        peaks = [
            figures["peak_mib"] for figures in phase["parts"].values() if figures["peak_mib"] is not None
        ]
        rows.append(("step", f"{phase['step_ms']:.1f}", "100%", _mib(max(peaks, default=None))))
        uncut = f"{phase['uncut_step_ms']:.1f} ms without cuts"
        shown.append(table(f"{name}: a step, {uncut}", ("part", "ms", "share", "peak MiB"), rows))
    return [
        *shown,
        f"Mean of {found['timed_steps']} steps on {found['device']}; memory: {found['memory']}.",
        f"Wrote {Path(found['run']) / 'profile.json'}",
    ]


def _mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"


def plan_report(found: dict[str, Any]) -> list[Any]:
    """Return the tables and sentences of a plan; see `zoo.train.profile.plan`."""
    from zoo.evaluation.figures import duration

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
    """Return a line on whether the loader feeds the steps, and what would.

    Args:
        loading: result of `zoo.train.profile.loading.plan_loading`.
        device: device of the steps.
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
