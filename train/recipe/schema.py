"""Settings of recipes, as typed records."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import (
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from zoo.data.channels import Measured  # noqa: TC001 - Recipe is validated at run time
from zoo.errors import RecipeError
from zoo.frozen import Frozen
from zoo.image_format import RGB, ImageFormat
from zoo.models.config import NetworkConfig
from zoo.models.encoder import normalization_of, size_for
from zoo.preprocess import MIN_IMGSZ, Channels, Preprocessing, Resize
from zoo.train.blocks.label_loss import LabelLossConfig, parsed_terms
from zoo.train.method import Method, Steps, labels_only_settings, scaled
from zoo.train.methods.table import METHODS, AnyMethodConfig, build_method

ClassWeighting = Literal["none", "inverse", "median_frequency", "effective_number"]

CountOrText = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
"""Text, or a number in its place."""

Factor = Annotated[float, Field(gt=0)]


Strength = Annotated[float, Field(ge=0)]


HueStrength = Annotated[float, Field(ge=0, le=0.5)]


class AugmentConfig(Frozen):
    """Settings of weak and strong views.

    Args:
        scale: range of the random scale, on top of `resize`.
        flip: probability of a horizontal flip.
        jitter: strength of brightness, contrast, saturation and hue changes.
        jitter_probability: probability of the color jitter.
        grayscale: probability of dropping the colors.
        blur: probability of a Gaussian blur.
        blur_sigma: range of the standard deviation of the blur, in pixels.
    """

    scale: tuple[Factor, Factor] = (0.5, 2.0)
    flip: float = Field(0.5, ge=0, le=1)
    jitter: tuple[Strength, Strength, Strength, HueStrength] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = Field(1.0, ge=0, le=1)
    grayscale: float = Field(0.2, ge=0, le=1)
    blur: float = Field(0.0, ge=0, le=1)
    blur_sigma: tuple[Factor, Factor] = (0.1, 2.0)


class ComputeConfig(Frozen):
    """Compute settings of training steps.

    Args:
        compile: whether to compile encoders and heads by `torch.compile`; the first steps take minutes.
        channels_last: whether images and convolutions use channels-last memory; None for only on a GPU, where
            it is faster.
        sync_batch_norm: whether BatchNorm statistics cover the batches of all processes.
        recompute: whether to recompute activations of encoders in the backward pass: less memory, about a
            third more time.
        deterministic: whether to use only deterministic algorithms; a warning names those that a GPU lacks.
    """

    compile: bool = False
    channels_last: bool | None = None
    sync_batch_norm: bool = True
    recompute: bool = False
    deterministic: bool = False

    @model_validator(mode="after")
    def _check_switches(self) -> ComputeConfig:
        if self.compile and self.recompute:
            raise ValueError(
                "got compile and recompute, expected one of them: compiled code already computes again what "
                "is cheap"
            )
        return self

    def layout(self, device: torch.device) -> torch.memory_format:
        """Return the memory layout of images and weights on a device."""
        asked = device.type == "cuda" if self.channels_last is None else self.channels_last
        return torch.channels_last if asked else torch.contiguous_format


class DataConfig(Frozen):
    """Settings of data, batches and augmentation.

    Args:
        spec: `shapes`, a folder or a `data.toml`.
        partition: `auto`, `1/8`, a number of images, a list file, or None for all labels
            (`zoo.data.partition`). A run records the partition that `auto` selects.
        partition_seed: seed that draws the labeled images of a partition; None for the seed of the recipe.
        tags: file with the classes of unlabeled images, for methods that learn them (`zoo.data.tags`).
        imgsz: height and width of the training crop, at least `MIN_IMGSZ`.
        resize: kind of resizing (`zoo.preprocess.Preprocessing`).
        format: format of the images, which a run takes from its data.
        mean: mean of each channel, images in [0, 1]; None, until a run starts, for that of the encoder's
            weights, or for that of the training pool if images are not 8-bit RGB.
        std: standard deviation of each channel, images in [0, 1]; None as for `mean`.
        labeled_view: view of labeled images that a network learns: `weak`; `cutmix`, in which half of them
            get a box of the next one with its labels; or `strong`, which adds the photometric strong view of
            unlabeled images. A discriminator that has a labeled stream of its own gets the weak view.
        rare_classes: share of labeled images that are drawn for a class, the rarer the more often, and
            cropped where it is (rare class sampling, Hoyer et al., CVPR 2022). A labeled stream of a
            discriminator keeps the order of all images.
        rare_class_temperature: T of rare class sampling: a class whose share of labeled pixels is f is drawn
            in proportion to exp((1 - f) / T).
        batch_l: number of labeled images in a batch of a process.
        batch_u: number of unlabeled images in a batch of a process.
        workers: number of processes that load data; 0 to load in the training process.
        cache: cache of decoded images: none, `memory` shared by the workers, or `disk`, also for later runs.
            Batches are identical.
        cache_gb: limit of the cache for each training process, in 10^9 bytes; None for half of the free
            space.
        cache_dir: folder of the `disk` cache; None for `semiseg-zoo/pixels` in the user's cache folder.
        augment: settings of weak and strong views.
    """

    spec: str = ""
    partition: CountOrText | None = None
    partition_seed: int | None = Field(None, ge=0)
    tags: str | None = None
    imgsz: tuple[PositiveInt, PositiveInt] = (512, 512)
    resize: Resize = "fit"
    format: ImageFormat = RGB
    mean: Channels | None = None
    std: Channels | None = None
    labeled_view: Literal["weak", "cutmix", "strong"] = "weak"
    rare_classes: float = Field(0.0, ge=0, le=1)
    rare_class_temperature: float = Field(0.01, gt=0)  # the paper's
    batch_l: int = Field(6, ge=1)
    batch_u: int = Field(6, ge=1)
    workers: int = Field(2, ge=0)
    cache: Literal["none", "memory", "disk"] = "none"
    cache_gb: float | None = Field(None, gt=0)
    cache_dir: str | None = None
    augment: AugmentConfig = AugmentConfig()

    @field_validator("mean", "std")
    @classmethod
    def _check_channels(cls, value: Channels | None, info: ValidationInfo) -> Channels | None:
        channels = info.data["format"].channels if "format" in info.data else RGB.channels
        if value is not None and len(value) != channels:
            raise ValueError(f"expected {channels} values, one for each channel")
        return value

    @field_validator("imgsz")
    @classmethod
    def _check_size(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < MIN_IMGSZ:
            raise ValueError(f"expected {MIN_IMGSZ} or more pixels a side")
        return value


class Recipe(Frozen):
    """A complete recipe.

    Args:
        recipe: name of the recipe file.
        preset: `default`, or `official` for the settings of the authors' code.
        seed: seed of weights, partition, order and augmentation.
        steps: number of optimizer steps of the run.
        accumulate: number of consecutive batches in a step, whose losses are averaged. Each has its own
            BatchNorm statistics.
        precision: `fp32`, or mixed `bf16` or `fp16`.
        pretrained: whether encoders start from their ImageNet weights.
        start_from: paths of runs or bundles whose segmentation network the run starts from: one for all
            networks that the method trains, or one for each (`zoo.train.initialization`).
        encoder_weights: file with weights of the encoder, instead of its pretrained weights
            (`zoo.models.pretrained.read_state`).
        freeze_encoder: whether to freeze the encoders of segmentation networks, including their BatchNorm
            statistics.
        lora: rank of low-rank parts of the encoders' attention, which learn instead of the encoders' weights
            and are merged into them in the bundle (`zoo.models.lora`); 0 for none.
        validate_every: steps between evaluations on `val`; 0 to evaluate only at the end.
        checkpoint_every: steps between checkpoints.
        max_bad_steps: number of consecutive steps with a non-finite loss after which the run stops.
        select_on: `1/5` or a number of labeled images to hold out from training; the evaluated step that is
            best on them is kept. None keeps the last step; `val` never selects.
        compute: compute settings of training steps.
        data: settings of data, batches and augmentation.
        network: segmentation network; `num_classes` comes from the data.
        loss: loss on labeled pixels, for every method: `cross_entropy`, `dice`, `focal`, `lovasz`, or a sum
            such as `cross_entropy + 0.5 * dice` (`zoo.train.blocks.label_loss`). `cross_entropy` is over the
            hard pixels where the method has OHEM.
        class_weights: weights of classes in `loss`: measured on the labeled images
            (`zoo.train.data.class_pixels`), or a number for each class.
        focal_gamma: exponent of `focal`.
        effective_beta: beta of `effective_number`; None for 1 - 1/N, N the mean number of pixels of a class.
        method: settings of the method.
        score: network that is evaluated and kept in the bundle, one of `Method.weights` such as `teacher`;
            None for the method's default. Before a teacher starts, the student is used.
        also_score: further networks of the method to evaluate after the last step.
        reported: figures of the paper for this recipe, if it reports any.
    """

    recipe: str
    preset: Literal["default", "official"] = "default"
    seed: int = Field(0, ge=0)
    steps: int = Field(ge=1)
    accumulate: int = Field(1, ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    pretrained: bool = True
    start_from: tuple[str, ...] = ()
    encoder_weights: str | None = None
    freeze_encoder: bool = False
    lora: int = Field(0, ge=0)
    validate_every: Steps = 0
    checkpoint_every: int = Field(500, ge=1)
    max_bad_steps: int = Field(10, ge=1)
    select_on: CountOrText | None = None
    compute: ComputeConfig = ComputeConfig()
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    loss: str = "cross_entropy"
    class_weights: ClassWeighting | tuple[float, ...] = "none"
    focal_gamma: float = Field(2.0, ge=0)
    effective_beta: float | None = Field(None, ge=0, lt=1)
    method: AnyMethodConfig
    score: str | None = None
    also_score: tuple[str, ...] = ()
    reported: dict[str, str | float] | None = None

    @field_validator("select_on")
    @classmethod
    def _check_share(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9]\d*(/[1-9]\d*)?", value):
            raise ValueError("expected 1/5 or a number of the labeled images to hold out; val never selects")
        return value

    @field_validator("loss")
    @classmethod
    def _check_terms(cls, value: str) -> str:
        parsed_terms(value)
        return value

    @field_validator("class_weights", mode="before")
    @classmethod
    def _check_class_weights(cls, value: Any) -> Any:
        if isinstance(value, str) and value in get_args(ClassWeighting):
            return value
        numbers = tuple(value) if isinstance(value, list | tuple) else ()
        usable = all(isinstance(each, int | float) and 0 <= each < math.inf for each in numbers)
        if not numbers or not usable or not any(numbers):
            raise ValueError(
                f"expected {', '.join(get_args(ClassWeighting))}, or for each class a number of 0 or more, "
                f"not all 0"
            )
        return numbers

    @field_validator("encoder_weights")
    @classmethod
    def _check_one_start(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("start_from"):
            raise ValueError("expected no file beside start_from, whose models bring their encoders")
        return value

    @field_validator("lora")
    @classmethod
    def _check_lora(cls, value: int, info: ValidationInfo) -> int:
        if value and info.data.get("freeze_encoder"):
            raise ValueError("expected 0 beside freeze_encoder, which keeps the encoder as it starts")
        return value

    @field_validator("score", "also_score")
    @classmethod
    def _check_weights(cls, value: Any, info: ValidationInfo) -> Any:
        method = info.data.get("method")
        if value is None or method is None:  # an invalid method has its own error
            return value
        choices: tuple[str, ...] = METHODS[method.name].method.weights
        wanted = {value} if isinstance(value, str) else set(value)
        if not wanted <= set(choices):
            raise ValueError(f"expected one of {', '.join(choices)}, which {method.name} has")
        return value

    @property
    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing of images."""
        data = self.data
        mean, std = normalization_of(self.network.encoder)
        return Preprocessing(
            imgsz=data.imgsz,
            resize=data.resize,
            mean=data.mean or mean,
            std=data.std or std,
            format=data.format,
        )

    @property
    def label_loss(self) -> LabelLossConfig:
        """Return the settings of the loss on labeled pixels."""
        return LabelLossConfig(parsed_terms(self.loss), self.focal_gamma, self.class_weights != "none")

    def new_method(self, *, pretrained: bool = False) -> Method:
        """Return a new method of the recipe.

        Raises:
            RecipeError: a loss that the method does not have.
        """
        return build_method(self.method, self.network, pretrained=pretrained, label_loss=self.label_loss)

    def for_classes(self, num_classes: int) -> Recipe:
        """Return the recipe with the settings that depend on data and encoder, such as classes and sizes.

        Raises:
            RecipeError: weights of another number of classes.
        """
        if not isinstance(self.class_weights, str) and len(self.class_weights) != num_classes:
            raise RecipeError(
                f"recipe {self.recipe}: class_weights has {len(self.class_weights)} numbers, expected "
                f"{num_classes}, one for each class of the data"
            )
        normalization = self.preprocessing.model_dump(include={"mean", "std"})
        size = self.network.encoder_size or size_for(self.network.encoder, self.data.imgsz)
        network = {"num_classes": num_classes, "encoder_size": size}
        update = {
            "data": self.data.model_copy(update=normalization),
            "network": self.network.model_copy(update=network),
            "method": self.method.at_size(self.data.imgsz),
        }
        return self.model_copy(update=update)

    def for_images(self, measured: Measured) -> Recipe:
        """Return the recipe for images that are not 8-bit RGB, normalized by what was measured on them."""
        normalization = {"format": measured.format, "mean": measured.mean, "std": measured.std}
        update = {
            "data": self.data.model_copy(update=normalization),
            "network": self.network.model_copy(update={"in_channels": measured.format.channels}),
        }
        return self.model_copy(update=update)

    @property
    def partition_seed(self) -> int:
        """Return the seed by which a partition draws its labeled images."""
        return self.seed if self.data.partition_seed is None else self.data.partition_seed

    def after_labels(self) -> Recipe:
        """Return the recipe without phases that learn from labels alone (`LabelsOnly`) and their steps."""
        counted = labels_only_settings(self.method)
        method = self.method.model_copy(update=dict.fromkeys(counted, 0))
        return self.model_copy(update={"method": method, "steps": self.steps - sum(counted.values())})

    def with_steps(self, steps: int) -> Recipe:
        """Return the recipe for a run of `steps` steps; settings that count steps are scaled."""
        return scaled(self, self.steps, steps).model_copy(update={"steps": steps})
