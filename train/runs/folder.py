"""Run folder: everything that a run needs to resume, and its results.

recipe.json            resolved recipe with the classes
data.json              classes and hashes of the files that the run started with
weights.json           origins of the weights that the run started from
class_weights.json     weights of classes in the loss, their source, and the pixels they were measured on
partition/             labeled.txt, unlabeled.txt, their digest, and held_out.txt if images are held out
log.csv, tensorboard/  losses and metrics by step
wandb.json, wandb/     ID of the W&B run and W&B's own files, with --wandb
last.ckpt              state for resuming
best.ckpt              state of the step selected by held-out images, if the recipe has `select_on`
run.json               attempts to train the run: time, machine, versions, outcome
packages.txt           versions of all packages in the last attempt
metrics.json           metrics of the kept step, and the learning curve
curves.png, preview.png, report.html
bundle/                stripped model
"""

from __future__ import annotations

import datetime
import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import BundleError, RecipeError
from zoo.train.runs.lock import locked

if TYPE_CHECKING:
    from zoo.classes import Classes
    from zoo.models.origin import Origin
    from zoo.train.recipe.schema import Recipe

CONTENTS = (
    "data.json",
    "weights.json",
    "class_weights.json",
    "partition",
    "log.csv",
    "tensorboard",
    "wandb.json",
    "wandb",
    "last.ckpt",
    "best.ckpt",
    "run.json",
    "packages.txt",
    "metrics.json",
    "curves.png",
    "preview.png",
    "report.html",
    "bundle",
)
"""Files and folders that a run writes after `recipe.json`."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files. Needs no PyTorch until a recipe is read."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """Return the path of the resolved recipe."""
        return self.path / "recipe.json"

    @property
    def weights(self) -> Path:
        """Return the path of the origins of the weights that the run started from."""
        return self.path / "weights.json"

    @property
    def class_weights(self) -> Path:
        """Return the path of the weights of classes in the loss."""
        return self.path / "class_weights.json"

    @property
    def partition(self) -> Path:
        """Return the folder of the partition lists."""
        return self.path / "partition"

    @property
    def log(self) -> Path:
        """Return the path of losses and metrics by step."""
        return self.path / "log.csv"

    @property
    def record(self) -> Path:
        """Return the path of the attempts to train the run."""
        return self.path / "run.json"

    @property
    def checkpoint(self) -> Path:
        """Return the path of the resumable state."""
        return self.path / "last.ckpt"

    @property
    def best(self) -> Path:
        """Return the path of the state that held-out images selected, if the recipe has `select_on`."""
        return self.path / "best.ckpt"

    @property
    def kept_checkpoint(self) -> Path:
        """Return the path of the state that the bundle is stripped from: `best` if there is one."""
        return self.best if self.best.is_file() else self.checkpoint

    @property
    def bundle_is_older(self) -> bool:
        """Return whether the state was written after the bundle that there is."""
        config, kept = self.bundle / "config.json", self.kept_checkpoint
        return kept.is_file() and kept.stat().st_mtime_ns > config.stat().st_mtime_ns

    @property
    def metrics(self) -> Path:
        """Return the path of the final metrics."""
        return self.path / "metrics.json"

    @property
    def curves(self) -> Path:
        """Return the path of the learning curves."""
        return self.path / "curves.png"

    @property
    def preview(self) -> Path:
        """Return the path of the picture of example predictions."""
        return self.path / "preview.png"

    @property
    def report(self) -> Path:
        """Return the path of the report page."""
        return self.path / "report.html"

    @property
    def bundle(self) -> Path:
        """Return the folder of the stripped model."""
        return self.path / "bundle"

    @property
    def is_run(self) -> bool:
        """Return whether the folder holds a run."""
        return self.recipe_file.is_file()

    @property
    def is_finished(self) -> bool:
        """Return whether the run has metrics and bundle, which are written last."""
        from zoo.bundle.bundle import CONFIG_NAME

        return self.metrics.is_file() and (self.bundle / CONFIG_NAME).is_file()

    def write_recipe(self, recipe: Recipe, classes: Classes) -> None:
        """Create the folder and write the resolved recipe with the classes of its data."""
        from zoo.bundle.bundle import write_json

        self.path.mkdir(parents=True, exist_ok=True)
        value = {
            "recipe": recipe.model_dump(mode="json"),
            "names": list(classes.names),
            "palette": [list(color) for color in classes.palette],
        }
        write_json(self.recipe_file, value)

    def read_recipe(self) -> tuple[Recipe, Classes]:
        """Return the resolved recipe and the classes of its data.

        Raises:
            BundleError: the folder is not a run of this version.
        """
        from zoo.classes import Classes
        from zoo.train.recipe.read import validate_recipe

        if not self.is_run:
            raise BundleError(f"{self.path} holds no {self.recipe_file.name}, expected the folder of a run")
        try:
            value = json.loads(self.recipe_file.read_text(encoding="utf-8"))
            classes = Classes(tuple(value["names"]), tuple((r, g, b) for r, g, b in value["palette"]))
            recipe = value["recipe"]
            if "architecture" in recipe["network"]:
                recipe = _of_version_0_1(recipe)
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(
                f"{self.recipe_file} is not the recipe of a run ({error!r}): train again"
            ) from error
        return validate_recipe(recipe), classes

    def write_origins(self, origins: tuple[Origin, ...]) -> None:
        """Write the origins of the weights that the run started from."""
        from zoo.bundle.bundle import write_json

        write_json(self.weights, [origin.model_dump(mode="json") for origin in origins])

    def read_origins(self) -> tuple[Origin, ...] | None:
        """Return the origins of the weights that the run started from; None for a run of an older version.

        Raises:
            BundleError: they cannot be read.
        """
        from zoo.models.origin import Origin

        try:
            values = json.loads(self.weights.read_bytes())
            return tuple(Origin.model_validate(value) for value in values)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise BundleError(
                f"{self.weights} does not list the origins of weights ({type(error).__name__}): remove it"
            ) from error


def _of_version_0_1(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of a run of version 0.1 with the settings that were added since.

    Version 0.1 normalized images by ImageNet's statistics for all weights; the decoder of the localizer,
    always a DeepLabv3+, used the settings of the student's decoder, whichever that was.
    """
    from zoo.models.config import DECODER_KEYS
    from zoo.preprocess import IMAGENET_MEAN, IMAGENET_STD

    network, method = recipe["network"], recipe["method"]
    if method["name"] == "eln":
        decoder = {key: network[key] for key in DECODER_KEYS}
        method = method | {"filter": {"decoder": decoder} | method["filter"]}
    normalization = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return recipe | {"data": normalization | recipe["data"], "method": method}


def new_run(out: Path | None, recipe: Recipe) -> RunFolder:
    """Return the folder of a new run, which need not exist: `out`, or a dated one under `runs/`.

    Raises:
        RecipeError: `out` already holds a run.
        ZooError: the folder cannot be written, or holds files that the run would overwrite.
    """
    from zoo.outputs import MOVE, exists, refusal

    if out is None:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        source = Path(recipe.data.spec).stem or "data"
        out = Path("runs") / f"{recipe.method.name}-{source}-{stamp}"
    from zoo.bundle.bundle import check_writable

    check_writable(out)
    run = RunFolder(out)
    if run.recipe_file.exists():
        raise _taken(run)
    if foreign := [name for name in CONTENTS if exists(out / name)]:  # a run writes its recipe first
        raise refusal(out, foreign, "--out", MOVE)
    return run


def clear_run(run: RunFolder) -> None:
    """Remove what a run wrote that ended before its first checkpoint, so that it can start anew.

    The recipe and the record of its attempts are kept.

    Raises:
        RecipeError: another process trains in this folder.
    """
    with locked(run.path):
        for name in set(CONTENTS) - {"run.json", "wandb.json", "wandb"}:
            path = run.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def claimed_run(run: RunFolder, recipe: Recipe, classes: Classes, *, other_name: bool) -> RunFolder:
    """Return the folder of a new run with its recipe written, safe with concurrent processes.

    Args:
        run: folder from `new_run`.
        recipe: recipe to write.
        classes: classes of the data.
        other_name: whether to append a number to a name that is taken.

    Raises:
        RecipeError: the folder already holds a run.
    """
    first, numbers = run.path, itertools.count(2)
    while not _claim(run, recipe, classes):
        if not other_name:
            raise _taken(run)
        run = RunFolder(first.with_name(f"{first.name}-{next(numbers)}"))
    return run


def _claim(run: RunFolder, recipe: Recipe, classes: Classes) -> bool:
    """Write the recipe of a run, unless the folder has one; return whether it was written."""
    run.path.mkdir(parents=True, exist_ok=True)
    if run.recipe_file.exists():  # its process may hold the lock while it trains
        return False
    with locked(run.path):
        if run.recipe_file.exists():
            return False
        run.write_recipe(recipe, classes)
    return True


def _taken(run: RunFolder) -> RecipeError:
    return RecipeError(f"{run.path} holds a run already: continue it with --resume, or give another --out")
