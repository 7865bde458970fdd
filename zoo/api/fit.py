"""Training: `zoo.fit`, and the run that it returns."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.api.bundle import Bundle, Trained
from zoo.errors import BundleError, RecipeError
from zoo.resolve import model_text, newest_run, resolve_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from zoo.predictors.eager import EagerPredictor
    from zoo.train.loop.events import Callback
    from zoo.train.runs.log import Row


class Run(Trained):
    """A run on disk, finished or not.

    Args:
        path: folder of the run; None for the newest under `runs/`.

    Raises:
        BundleError: no run there.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        from zoo.train.runs.folder import RunFolder

        super().__init__(newest_run() if path is None else Path(path))
        self._files = RunFolder(self.path)
        if not self._files.is_run:
            raise BundleError(f"{self.path} has no recipe.json, expected the folder of a run")

    @property
    def bundle(self) -> Bundle:
        """Return the bundle of the run; an unfinished run is stripped first."""
        return Bundle(self)

    @property
    def metrics(self) -> dict[str, Any]:
        """Return the figures after the last step, as in `metrics.json`.

        Raises:
            BundleError: the run is not finished.
        """
        if not self._files.metrics.is_file():
            raise BundleError(f"{self.path} is not finished, expected {self._files.metrics.name}: resume it")
        found: dict[str, Any] = json.loads(self._files.metrics.read_text(encoding="utf-8"))
        return found

    @property
    def log(self) -> list[Row]:
        """Return the logged figures by step: `step`, `loss/...`, `lr`, `val/...`."""
        from zoo.train.runs.log import read_log

        return read_log(self._files.log)

    def resume(
        self,
        *,
        data: str | Path | None = None,
        device: str | None = None,
        devices: int = 1,
        wandb: str | None = None,
        callbacks: Sequence[Callback] = (),
        live: bool | None = None,
    ) -> Run:
        """Continue the run to its end and return it.

        Args:
            data: where the data of the run are now; None if they are where they were.
            device: `cpu` or `cuda`; None for a GPU if PyTorch finds one.
            devices: number of processes, one for each device.
            wandb: W&B project of a run that has none yet.
            callbacks: called with a `zoo.Event` at every tenth step and each evaluation.
            live: whether to show curves and predictions; None in a notebook.

        Raises:
            TrainingStoppedError: Ctrl-C, which saves a checkpoint first.
            ZooError: data or code that changed.
        """
        from zoo.train.loop.hardware import Hardware
        from zoo.train.session import resume

        _check_alone()
        recipe, _ = self._files.read_recipe()
        spec = None if data is None else str(data)
        with _watched(callbacks, live):
            metrics = resume(self.path, recipe.method.name, Hardware(device, devices), wandb, spec)
        _end_unless_first(metrics)
        return self

    def _repr_html_(self) -> str:
        from zoo.api.notebook import run_page

        return run_page(self._files)


def fit(
    method: str,
    *,
    data: str | Path | None = None,
    partition: str | int | Path | None = None,
    encoder: str | None = None,
    pretrained: bool | None = None,
    start_from: Sequence[str | os.PathLike[str]] = (),
    encoder_weights: str | Path | None = None,
    freeze_encoder: bool = False,
    lr_encoder: float | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    out: str | Path | None = None,
    steps: int | None = None,
    imgsz: int | tuple[int, int] | None = None,
    batch: int | None = None,
    accumulate: int | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = None,
    device: str | None = None,
    devices: int = 1,
    compile: bool = False,
    channels_last: bool | None = None,
    recompute: bool = False,
    deterministic: bool = False,
    seed: int | None = None,
    select_on: str | int | None = None,
    score: str | None = None,
    wandb: str | None = None,
    export_check: bool = True,
    callbacks: Sequence[Callback] = (),
    live: bool | None = None,
) -> Run:
    """Train a method on a few masks and many images, and return the run.

    Args:
        method: `eln`, `rrn`, `u2pl`, `s4gan`, `mlmt`, `unimatch`, `fixmatch`, `supervised`, or a plugin's.
        data: `shapes`, `voc:DIR`, a folder or a `data.toml`; None for those of the recipe, or `shapes`.
        partition: training images that count as labeled: `full`, `1/8`, a number, a list file or `auto`.
        encoder: a timm model.
        pretrained: whether encoders start from pretrained weights; None as the recipe has it.
        start_from: runs, bundles or names in a registry whose weights to start from, one a network.
        encoder_weights: state dict or `.safetensors` file to start the encoder from.
        freeze_encoder: whether the encoder stays as it starts.
        lr_encoder: learning rate of the encoder; None for the recipe's share of the rate.
        recipe: name or file of a recipe; None for the method's for these data.
        settings: any other settings by dotted key, e.g. `{"method.ema_decay": 0.99}`, or as `key=value`.
        out: folder of the run; None for a dated one under `runs/`.
        steps: length of the run; phases keep their share of it.
        imgsz: size of the training crop.
        batch: labeled images per step; as many unlabeled ones are added.
        accumulate: batches of a step, one after the other: for less memory.
        precision: mixed precision of the networks; `auto` for the fastest here, as measured on a CPU.
        device: `cpu` or `cuda`; None for a GPU if PyTorch finds one.
        devices: number of processes, one for each device; they run the script again up to the end of this
            call, which a notebook cannot do.
        compile: whether to compile the networks.
        channels_last: memory layout; None: on a GPU.
        recompute: whether to keep fewer activations: less memory, slower steps.
        deterministic: whether to compute the same bits each time on the same machine.
        seed: seed of weights, partition, order and augmentation.
        select_on: number or share of labeled images to hold out, of which the best step is kept.
        score: network that is evaluated and bundled, e.g. `teacher`.
        wandb: W&B project to log to.
        export_check: whether to first export the untrained network to ONNX and compare it with PyTorch.
        callbacks: called with a `zoo.Event` at every tenth step and each evaluation; an exception ends
            the run.
        live: whether to show curves and predictions; None in a notebook.

    Raises:
        TrainingStoppedError: Ctrl-C; the run is saved, and `zoo.Run(path).resume()` continues it.
        ZooError: bad data, recipe or folder; nothing is trained then.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from zoo.train.loop.hardware import Hardware
    from zoo.train.loop.precision import with_precision_of_machine
    from zoo.train.recipe.options import TrainingOptions, setting_texts
    from zoo.train.session import start

    options = TrainingOptions(
        method,
        None if data is None else str(data),
        partition=None if partition is None else str(partition),
        imgsz=(imgsz, imgsz) if isinstance(imgsz, int) else imgsz,
        batch=batch,
        accumulate=accumulate,
        encoder=encoder,
        pretrained=pretrained,
        start_from=tuple(str(resolve_bundle(model_text(each))) for each in start_from),
        encoder_weights=None if encoder_weights is None else str(encoder_weights),
        freeze_encoder=freeze_encoder,
        lr_encoder=lr_encoder,
        recipe=None if recipe is None else str(recipe),
        settings=setting_texts(settings),
        steps=steps,
        precision=precision,
        compile=compile,
        channels_last=channels_last,
        recompute=recompute,
        deterministic=deterministic,
        select_on=None if select_on is None else str(select_on),
        score=score,
        seed=seed,
    )
    _check_alone()
    recipe_of_run, hardware = options.read(), Hardware(device, devices)
    if precision == "auto":
        recipe_of_run = with_precision_of_machine(recipe_of_run, hardware)
    check = _export_check() if export_check else None
    with _watched(callbacks, live):
        metrics = start(recipe_of_run, None if out is None else Path(out), hardware, wandb, check=check)
    _end_unless_first(metrics)
    return Run(metrics["run"])


def _export_check() -> Callable[[EagerPredictor], None]:
    """Return the function that exports an untrained network, without importing exporters for nothing."""
    from zoo.export.untrained import check_untrained

    return check_untrained


def _check_alone() -> None:
    """Raise in a process that has trained on several devices, whose other processes have ended.

    Raises:
        RecipeError: it has.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        raise RecipeError(
            "got a second run in a process that has trained on several devices, expected one: start each run "
            "in a process of its own, e.g. by zoo train --devices 2"
        )


def _end_unless_first(metrics: dict[str, Any]) -> None:
    """End a further process of `devices`, which has no metrics: what follows is for the first one alone."""
    if not metrics:
        raise SystemExit(0)


def _watched(callbacks: Sequence[Callback], live: bool | None) -> AbstractContextManager[None]:
    """Return a context in which runs call the callbacks, and show themselves in a notebook."""
    from zoo.api.notebook import live_run
    from zoo.train.loop.events import called_back

    return called_back(*callbacks, *live_run(live))
