"""Options of a run, as given to `zoo train` or `zoo.fit`, and the recipe that they result in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from zoo.errors import RecipeError
from zoo.train.recipe.read import default_recipe, load_recipe, with_encoder_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.train.recipe.schema import Recipe

DEFAULT_DATA = "shapes"


class TrainingOptions(NamedTuple):
    """Options of a run; None leaves a setting as the recipe has it.

    Args:
        method: name of the method.
        data: spec of the data; None for those of the recipe, or `shapes`.
        partition: training images that count as labeled.
        imgsz: height and width of the training crop.
        batch: labeled images per step; as many unlabeled ones are added.
        accumulate: batches of a step.
        encoder: a timm model.
        pretrained: whether encoders start from pretrained weights.
        start_from: bundles to start from.
        encoder_weights: file to start the encoder from.
        freeze_encoder: whether the encoder stays as it starts.
        lr_encoder: learning rate of the encoder.
        recipe: name or file of the recipe; None for the method's for these data.
        settings: `key=value` for any other setting.
        steps: length of the run.
        precision: mixed precision of the networks; `auto` leaves that of the recipe, for
            `zoo.train.loop.precision` to choose.
        compile: whether to compile the networks.
        channels_last: memory layout.
        recompute: whether to keep fewer activations.
        deterministic: whether to compute the same bits each time.
        select_on: number or share of labeled images held out to select the step to keep.
        score: network that is evaluated and bundled.
        seed: seed of weights, partition, order and augmentation.
    """

    method: str
    data: str | None = None
    partition: str | None = None
    imgsz: tuple[int, int] | None = None
    batch: int | None = None
    accumulate: int | None = None
    encoder: str | None = None
    pretrained: bool | None = None
    start_from: tuple[str, ...] = ()
    encoder_weights: str | None = None
    freeze_encoder: bool = False
    lr_encoder: float | None = None
    recipe: str | None = None
    settings: tuple[str, ...] = ()
    steps: int | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = None
    compile: bool = False
    channels_last: bool | None = None
    recompute: bool = False
    deterministic: bool = False
    select_on: str | None = None
    score: str | None = None
    seed: int | None = None

    def read(self) -> Recipe:
        """Return the recipe with these options.

        Raises:
            RecipeError: an unknown recipe or setting, a value out of range, or a recipe of another method.
        """
        name = self.recipe or default_recipe(self.method, self.data or DEFAULT_DATA)
        changes = {key: value for key, value in self._changes().items() if value is not None}
        recipe = load_recipe(name, self.settings, self.steps, changes)
        if self.lr_encoder is not None:
            recipe = with_encoder_rate(recipe, self.lr_encoder)
        if recipe.method.name != self.method:
            raise RecipeError(f"recipe {name} is for {recipe.method.name}, got method {self.method}")
        return recipe

    def _changes(self) -> dict[str, Any]:
        """Return the settings by dotted key, None for those that are not given."""
        return {
            **data_changes(self.data, self.partition, self.imgsz, self.batch),
            "accumulate": self.accumulate,
            "network.encoder": self.encoder,
            "pretrained": self.pretrained,
            "start_from": list(self.start_from) or None,
            "encoder_weights": self.encoder_weights,
            "freeze_encoder": self.freeze_encoder or None,
            "precision": None if self.precision == "auto" else self.precision,
            "compute.compile": self.compile or None,
            "compute.channels_last": self.channels_last,
            "compute.recompute": self.recompute or None,
            "compute.deterministic": self.deterministic or None,
            "select_on": self.select_on,
            "score": self.score,
            "seed": self.seed,
        }


def data_changes(
    spec: str | None, partition: str | None, imgsz: tuple[int, int] | None, batch: int | None
) -> dict[str, Any]:
    """Return the data settings of a recipe by dotted key, None for those that are not given."""
    return {
        "data.spec": spec,
        "data.partition": partition,
        "data.imgsz": None if imgsz is None else list(imgsz),
        "data.batch_l": batch,
        "data.batch_u": batch,
    }


def setting_texts(settings: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
    """Return settings as `key=value`, values as in TOML.

    Example:
        >>> setting_texts({"method.ema_decay": 0.99, "data.cache": "memory"})
        ('method.ema_decay=0.99', 'data.cache="memory"')
    """
    if not isinstance(settings, Mapping):
        return tuple(settings)
    return tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())
