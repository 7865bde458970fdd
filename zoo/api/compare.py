"""Methods side by side on the same images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.api.export import split_names
from zoo.api.tables import Shown, Table
from zoo.errors import RecipeError

if TYPE_CHECKING:
    from zoo.train.compare.record import Comparison
    from zoo.train.compare.run_all import Facts

log = logging.getLogger(__name__)

DEFAULT_SEEDS, SEEDS_UNTIL_CLEAR = 1, 3


@dataclass(frozen=True)
class CompareResult(Shown):
    """A comparison, as far as it is finished.

    Attributes:
        path: folder of the comparison.
        comparison: conditions, runs and their figures.
        files: written files of the report.
    """

    path: Path
    comparison: Comparison
    files: tuple[Path, ...] = ()

    @property
    def tables(self) -> list[Table]:
        """Return the table of figures, and that of costs."""
        from zoo.train.compare.report import QUALITY, cells, heads

        head, lines = heads(self.comparison), cells(self.comparison)
        steps, warm = self.comparison.settings["steps"], self.comparison.warm_steps
        length = f"{warm} + {steps}" if warm else f"{steps}"
        return [
            Table(
                f"{length} steps on {self.comparison.data['spec']}",
                head[:QUALITY],
                [line[:QUALITY] for line in lines],
            ),
            Table(
                "What they cost",
                (head[0], *head[QUALITY:]),
                [(line[0], *line[QUALITY:]) for line in lines],
            ),
        ]

    @property
    def verdicts(self) -> list[str]:
        """Return what the figures say of each method."""
        from zoo.train.compare.stats import headline, verdicts

        said = headline(self.comparison)
        return [*([said] if said else []), *verdicts(self.comparison)]

    @property
    def failures(self) -> list[str]:
        """Return a line for each run without figures."""
        from zoo.train.compare.report import failures

        return failures(self.comparison)


def compare(
    data: str | Path | None = None,
    *,
    methods: str | Sequence[str] | None = None,
    partition: str | int | None = None,
    seeds: int | Sequence[int] | None = None,
    encoder: str | None = None,
    pretrained: bool | None = None,
    steps: int | None = None,
    imgsz: int | tuple[int, int] | None = None,
    batch: int | None = None,
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    device: str | None = None,
    warm_steps: int | None = None,
    controls: bool = True,
    own_recipes: bool = False,
    until_clear: int | None = None,
    jobs: int = 1,
    settings: Mapping[str, Any] | Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    on_run: Callable[[CompareResult], object] | None = None,
) -> CompareResult:
    """Train methods under the same conditions, write one report and return the figures.

    A failed run does not end the others: `failures` of the result names it, and `resume=True` tries it again.

    Args:
        data: `shapes`, `voc:DIR`, a folder or a `data.toml`; None for `shapes`.
        methods: names of methods; None for labels only and every method that segments.
        partition: training images that count as labeled.
        seeds: how many seeds, or which; None for 1, or 3 with `until_clear`.
        encoder: a timm model.
        pretrained: whether encoders start from pretrained weights; None as the recipe has it.
        steps: steps of every row, warm start included.
        imgsz: size of the training crop.
        batch: labeled images per step; as many unlabeled ones are added.
        precision: mixed precision of the networks.
        device: `cpu` or `cuda`; None for a GPU if PyTorch finds one.
        warm_steps: steps on labels alone that every row continues; 0 for none, None for the default.
        controls: whether to add rows that learn from labels alone, and all networks of a method.
        own_recipes: whether each method keeps optimizer, batch and network of its recipe.
        until_clear: number of seeds up to which more are added until the gain of every method is clear.
        jobs: runs side by side, which share the cores.
        settings: any other settings by dotted key, or `key=value`; `METHOD.key` is for one method.
        out: folder; None for a dated one under `runs/`.
        resume: whether to continue the comparison in `out`, or the newest one.
        on_run: called after each run with the result so far; in a notebook, None shows it.

    Raises:
        TrainingStoppedError: Ctrl-C; what was reached is kept, and `resume=True` continues.
        ZooError: bad data, settings or folder.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from zoo.api.notebook import live_table
    from zoo.train.compare.record import ComparisonFolder
    from zoo.train.compare.report import write_report
    from zoo.train.compare.run_all import newest, run_all, start
    from zoo.train.compare.shared import Request
    from zoo.train.loop.engine import TrainingStoppedError
    from zoo.train.recipe.options import DEFAULT_DATA, data_changes, setting_texts

    size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    changes = {
        **data_changes(None, None if partition is None else str(partition), size, batch),
        "network.encoder": encoder,
        "pretrained": pretrained,
        "precision": precision,
    }
    request = Request(
        split_names(methods) or None,
        DEFAULT_DATA if data is None else str(data),
        _numbers(seeds, until_clear),
        setting_texts(settings),
        steps,
        {key: value for key, value in changes.items() if value is not None},
        device,
        warm_steps=warm_steps,
        own_recipes=own_recipes,
        controls=controls,
        until_clear=until_clear,
    )
    as_started = request == Request(None, DEFAULT_DATA, _numbers(None, None))
    if resume and not (as_started and data is None and seeds is None):
        raise RecipeError("--resume continues a comparison as it was started: leave the other options out")
    path = None if out is None else Path(out)
    folder = ComparisonFolder(path or newest()) if resume else start(request, path, _facts())
    show = on_run or live_table()
    try:
        comparison = run_all(
            folder, jobs, lambda so_far: None if show is None else show(CompareResult(folder.path, so_far))
        )
    except TrainingStoppedError:
        so_far = folder.read()
        if so_far.finished:
            log.info("So far: %s", ", ".join(map(str, write_report(folder, so_far))))
        raise
    return CompareResult(folder.path, comparison, tuple(write_report(folder, comparison)))


def _facts() -> Facts:
    """Return the command line, the machine and the versions."""
    from zoo.predictors.backends import versions
    from zoo.serve.bench.machine import describe_machine
    from zoo.train.attempt import command_line
    from zoo.train.compare.run_all import Facts

    return Facts(command_line(), describe_machine(), versions())


def _numbers(seeds: int | Sequence[int] | None, until_clear: int | None) -> tuple[int, ...]:
    """Return the seeds.

    Raises:
        RecipeError: none, or a number that `until_clear` cannot add to.
    """
    if seeds is None:
        seeds = DEFAULT_SEEDS if until_clear is None else SEEDS_UNTIL_CLEAR
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(dict.fromkeys(seeds))
    if not numbers:
        raise RecipeError(f"got seeds {seeds}, expected one or more")
    if until_clear is not None and not 2 <= len(numbers) <= until_clear:
        raise RecipeError(
            f"got until_clear {until_clear} with {len(numbers)} seeds, expected two or more, and N no less"
        )
    return numbers
