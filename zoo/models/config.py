"""What a network is, without its weights: what a bundle's `config.json` says of it. Needs no PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from zoo.plugins import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

AsppStyle = Literal["projected", "neck", "joint"]


class DecoderConfig(BaseModel):
    """Settings that every decoder has; each decoder adds its own in a subclass.

    Args:
        name: of the decoder, its key in `DECODERS`.
        decoder_channels: width of the decoder and of the heads that methods put beside it (ELN's localizer,
            U2PL's auxiliary head).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    decoder_channels: int = Field(256, ge=1)


class Dropouts(BaseModel):
    """Dropout rates, in the order of the layers they follow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    aspp: float = Field(0.1, ge=0, lt=1)
    fuse_1: float = Field(0.5, ge=0, lt=1)
    fuse_2: float = Field(0.1, ge=0, lt=1)


class DeepLabV3PlusConfig(DecoderConfig):
    """Settings of DeepLabv3+.

    Args:
        aspp: `projected` concatenates the branches and projects them by a 1x1 convolution (ELN);
            `neck` reduces the concatenation by a 3x3 convolution (U2PL); `joint` has one BatchNorm for all
            branches and adds the image-level one (RRN).
        rates: dilations of the atrous branches.
        low_level_channels: width of the projected low-level features.
        dropout: see `Dropouts`; `channel_dropout` drops whole channels (U2PL).
        head: `mlp` is ELN's *Seg*, three 1x1 convolutions; `linear` is one 1x1 convolution (U2PL, RRN).
        separate_embedding: the embedding has 3x3 convolutions of its own (U2PL's representation head).
    """

    name: Literal["deeplabv3plus"] = "deeplabv3plus"
    aspp: AsppStyle = "projected"
    rates: tuple[int, ...] = (6, 12, 18)
    low_level_channels: int = Field(48, ge=1)
    dropout: Dropouts = Dropouts()
    channel_dropout: bool = False
    head: Literal["mlp", "linear"] = "mlp"
    separate_embedding: bool = False


class DeepLabV2Config(DecoderConfig):
    """Settings of DeepLabv2.

    Args:
        rates: dilations of the atrous branches.
    """

    name: Literal["deeplabv2"] = "deeplabv2"
    rates: tuple[int, ...] = (6, 12, 18)


class DptConfig(DecoderConfig):
    """Settings of DPT; the widths are those of Depth Anything and UniMatch V2 with a ViT-B.

    Args:
        reassemble_channels: width of each of the four levels before they are fused, fine to coarse; the
            paper's ViT-L has (256, 512, 1024, 1024) and `decoder_channels` 256.
        head_dropout: dropout rate before the classes and the embedding.
    """

    name: Literal["dpt"] = "dpt"
    decoder_channels: int = Field(128, ge=1)
    reassemble_channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (96, 192, 384, 768)
    head_dropout: float = Field(0.1, ge=0, lt=1)


class DecoderEntry(NamedTuple):
    """One decoder."""

    config: type[DecoderConfig]
    module: str
    """Where its class is, `package.module:Class`; imported when a network is built."""


DECODERS = Table(
    "zoo.decoders",
    DecoderEntry,
    {
        "deeplabv3plus": DecoderEntry(DeepLabV3PlusConfig, "zoo.models.decoders.deeplabv3plus:DeepLabV3Plus"),
        "deeplabv2": DecoderEntry(DeepLabV2Config, "zoo.models.decoders.deeplabv2:DeepLabV2"),
        "dpt": DecoderEntry(DptConfig, "zoo.models.decoders.dpt:Dpt"),
    },
)
"""The decoders by name; another package adds a row by an entry point."""

DEFAULT_DECODER = "deeplabv3plus"


def _read_decoder(value: object) -> object:
    """Return the settings of a decoder as the class that its name stands for."""
    if not isinstance(value, dict):
        return value
    name = value.get("name", DEFAULT_DECODER)
    if name not in DECODERS:
        message = f"expected {' or '.join(DECODERS)}, or a package installed that adds this decoder"
        error = PydanticCustomError("unknown_decoder", message)
        details = InitErrorDetails(type=error, loc=("name",), input=name)
        raise ValidationError.from_exception_data("decoder", [details])
    return DECODERS[name].config.model_validate(value)


DECODER_KEYS = {
    "aspp",
    "channel_dropout",
    "decoder_channels",
    "dropout",
    "head",
    "low_level_channels",
    "rates",
    "separate_embedding",
}
"""Settings of decoders that version 0.1 had beside those of the encoder."""


def nest_decoder(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a network with those of its decoder under `decoder`.

    Version 0.1 kept both on one level, `architecture` for the decoder's name, and gave every decoder the
    settings of DeepLabv3+: settings that name an `architecture` lose those that this decoder lacks. Without
    it, `network.decoder_channels` and the like are short for `network.decoder.decoder_channels`.
    """
    tree = dict(network)
    decoder = {key: tree.pop(key) for key in DECODER_KEYS & tree.keys()}
    if "architecture" in tree:
        name = tree.pop("architecture")
        known = DECODERS[name].config.model_fields if name in DECODERS else decoder
        decoder = {"name": name, **{key: value for key, value in decoder.items() if key in known}}
    if decoder:
        tree["decoder"] = {**tree.get("decoder", {}), **decoder}
    return tree


class NetworkConfig(BaseModel):
    """Everything needed to rebuild a segmentation network without its weights.

    Args:
        encoder: name of a timm model, or of a row of `zoo.models.encoder.ENCODERS`.
        num_classes: K.
        output_stride: input size over the size of the encoder's last features, where the encoder lets it be
            chosen.
        multi_grid: factors on the dilation of the last ResNet stage's blocks.
        decoder: settings of one of `DECODERS`.
        embedding_channels: width of the pixel embedding used by contrastive losses; 0 leaves the head out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str = "resnet50"
    num_classes: int = Field(2, ge=2, le=255)  # 255 is `IGNORE`
    output_stride: Literal[8, 16, 32] = 16
    multi_grid: tuple[int, ...] | None = None
    decoder: Annotated[SerializeAsAny[DecoderConfig], BeforeValidator(_read_decoder)] = DeepLabV3PlusConfig()
    embedding_channels: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _nest_decoder(cls, value: object) -> object:
        return nest_decoder(value) if isinstance(value, dict) else value


class ClassifierConfig(BaseModel):
    """Everything needed to rebuild a classifier without its weights; a bundle may hold one by itself.

    Args:
        encoder: name of a timm model.
        num_classes: K.
        imgsz: height and width that every image is squashed to, aspect not kept (section III-C: 320 x 320).
        activation: from logits to the probability of each class: `sigmoid`, or `softmax` where the classifier
            was trained with the paper's categorical cross entropy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["classifier"] = "classifier"
    encoder: str = "resnet101"
    num_classes: int = Field(2, ge=2, le=255)
    imgsz: tuple[PositiveInt, PositiveInt] = (320, 320)
    activation: Literal["sigmoid", "softmax"] = "sigmoid"


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def networks(self) -> tuple[NetworkConfig, ...]:
        """Return the configuration of each segmentation network."""
        raise NotImplementedError

    @property
    def num_classes(self) -> tuple[int, ...]:
        """Return K of each network, which must all be the same."""
        return tuple(network.num_classes for network in self.networks)


class StudentConfig(_Config):
    """One segmentation network."""

    kind: Literal["student"] = "student"
    network: NetworkConfig

    @property
    def networks(self) -> tuple[NetworkConfig, ...]:
        """Return the configuration of each segmentation network."""
        return (self.network,)


class EnsembleConfig(_Config):
    """Two segmentation networks whose predictions are averaged (RRN).

    Args:
        branches: one for each network.
        weight_1: of the first branch; the second has the rest.
        average: `logits` as the authors' code, or `probabilities`.
        resolution: where the average is taken: on the decoder's grid, or at full size. For logits both are
            the same function; for probabilities the first resizes the logarithm of their average. It is
            cheaper by far.
    """

    kind: Literal["ensemble"] = "ensemble"
    branches: tuple[NetworkConfig, NetworkConfig]
    weight_1: float = Field(0.5, gt=0, lt=1)
    average: Literal["logits", "probabilities"] = "logits"
    resolution: Literal["decoder", "image"] = "decoder"

    @property
    def networks(self) -> tuple[NetworkConfig, ...]:
        """Return the configuration of each segmentation network."""
        return self.branches


class GatedConfig(_Config):
    """Any segmentation model under an image classifier (s4GAN + MLMT).

    Args:
        segmentation: the model whose classes are removed.
        classifier: of the same classes.
        threshold: a class whose probability is not above it is removed; tau = 0.2 in the paper.
        background: class that is never removed, None where the data have none.
    """

    kind: Literal["gated"] = "gated"
    segmentation: Annotated[StudentConfig | EnsembleConfig, Field(discriminator="kind")]
    classifier: ClassifierConfig
    threshold: float = Field(0.2, ge=0, lt=1)
    background: int | None = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_background(self) -> GatedConfig:
        if self.background is not None and self.background >= self.classifier.num_classes:
            raise ValueError(f"background {self.background} is none of {self.classifier.num_classes} classes")
        return self

    @property
    def networks(self) -> tuple[NetworkConfig, ...]:
        """Return the configuration of each segmentation network."""
        return self.segmentation.networks

    @property
    def num_classes(self) -> tuple[int, ...]:
        """Return K of each network, which must all be the same."""
        return *super().num_classes, self.classifier.num_classes


DeployableConfig = Annotated[StudentConfig | EnsembleConfig | GatedConfig, Field(discriminator="kind")]
