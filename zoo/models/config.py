"""Configurations of networks, as stored in a bundle's `config.json`; does not need PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from zoo.plugins import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

RGB_CHANNELS = 3

AsppStyle = Literal["projected", "neck", "joint"]


class DecoderConfig(BaseModel):
    """Settings that all decoders share; each decoder adds its own in a subclass.

    Args:
        name: name of the decoder, its key in `DECODERS`.
        decoder_channels: width of the decoder and of additional heads of methods (ELN's localizer, U2PL's
            auxiliary head).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    decoder_channels: int = Field(256, ge=1)


class Dropouts(BaseModel):
    """Dropout rates, in the order of the layers that they follow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    aspp: float = Field(0.1, ge=0, lt=1)
    fuse_1: float = Field(0.5, ge=0, lt=1)
    fuse_2: float = Field(0.1, ge=0, lt=1)


class DeepLabV3PlusConfig(DecoderConfig):
    """Settings of DeepLabv3+.

    Args:
        aspp: `projected` concatenates the branches and projects them by a 1x1 convolution (ELN);
            `neck` reduces the concatenation by a 3x3 convolution (U2PL); `joint` has one BatchNorm for all
            branches and adds the image-level branch (RRN).
        rates: dilations of the atrous branches.
        low_level_channels: width of the projected low-level features.
        dropout: dropout rates of the layers.
        channel_dropout: whether dropout drops whole channels (U2PL).
        head: `mlp` is ELN's *Seg*, three 1x1 convolutions; `linear` is one 1x1 convolution (U2PL, RRN).
        separate_embedding: whether the embedding has its own 3x3 convolutions (U2PL's representation head).
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
    """A decoder: its settings and its class."""

    config: type[DecoderConfig]
    module: str
    """Path of its class, `package.module:Class`, which is imported when a network is built."""


DECODERS = Table(
    "zoo.decoders",
    DecoderEntry,
    {
        "deeplabv3plus": DecoderEntry(DeepLabV3PlusConfig, "zoo.models.decoders.deeplabv3plus:DeepLabV3Plus"),
        "deeplabv2": DecoderEntry(DeepLabV2Config, "zoo.models.decoders.deeplabv2:DeepLabV2"),
        "dpt": DecoderEntry(DptConfig, "zoo.models.decoders.dpt:Dpt"),
    },
)
"""Decoders by name; other packages add rows by entry points."""

DEFAULT_DECODER = "deeplabv3plus"


def _read_decoder(value: object) -> object:
    """Return the settings of a decoder, validated by the class of its name."""
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
"""Settings of decoders that version 0.1 kept on the level of the network."""


def nest_decoder(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a network with those of its decoder under `decoder`.

    Version 0.1 kept both on one level, with the decoder's name as `architecture`, and gave every decoder the
    settings of DeepLabv3+. If `architecture` is set, settings that the decoder does not have are dropped;
    otherwise, `network.decoder_channels` is short for `network.decoder.decoder_channels`, and so on.
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
        num_classes: number of classes K.
        in_channels: number of channels of the images.
        output_stride: ratio of the input size to the size of the encoder's last features, if the encoder
            supports it.
        multi_grid: factors on the dilation of the blocks of the last ResNet stage.
        encoder_size: height and width that images are resized to inside, for an encoder built for one size;
            None for others, and until a run starts for the size of the training crop.
        decoder: settings of one of `DECODERS`.
        embedding_channels: width of the pixel embedding for contrastive losses; 0 for no embedding head.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str = "resnet50"
    num_classes: int = Field(2, ge=2, le=255)  # 255 is `IGNORE`
    in_channels: int = Field(RGB_CHANNELS, ge=1)
    output_stride: Literal[8, 16, 32] = 16
    multi_grid: tuple[int, ...] | None = None
    encoder_size: tuple[PositiveInt, PositiveInt] | None = None
    decoder: Annotated[SerializeAsAny[DecoderConfig], BeforeValidator(_read_decoder)] = DeepLabV3PlusConfig()
    embedding_channels: int = Field(0, ge=0)

    @model_serializer(mode="wrap")
    def _without_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_rgb(handler(self))

    @model_validator(mode="before")
    @classmethod
    def _nest_decoder(cls, value: object) -> object:
        return nest_decoder(value) if isinstance(value, dict) else value


class ClassifierConfig(BaseModel):
    """Everything needed to rebuild a classifier without its weights; a bundle may consist of a classifier.

    Args:
        encoder: name of a timm model.
        num_classes: number of classes K.
        in_channels: number of channels of the images.
        imgsz: height and width to which images are stretched (section III-C: 320 x 320).
        activation: function from logits to probabilities: `sigmoid`, or `softmax` if the classifier was
            trained with the paper's categorical cross entropy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["classifier"] = "classifier"
    encoder: str = "resnet101"
    num_classes: int = Field(2, ge=2, le=255)
    in_channels: int = Field(RGB_CHANNELS, ge=1)
    imgsz: tuple[PositiveInt, PositiveInt] = (320, 320)
    activation: Literal["sigmoid", "softmax"] = "sigmoid"

    @model_serializer(mode="wrap")
    def _without_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_rgb(handler(self))


def _without_rgb(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a network without channels that are RGB's, so that earlier versions read them."""
    return {key: value for key, value in fields.items() if (key, value) != ("in_channels", RGB_CHANNELS)}


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def networks(self) -> tuple[NetworkConfig, ...]:
        """Return the configuration of each segmentation network."""
        raise NotImplementedError

    @property
    def num_classes(self) -> tuple[int, ...]:
        """Return the number of classes of each network, which must be equal."""
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
        branches: configuration of each network.
        weight_1: weight of the first branch; the second has weight 1 - `weight_1`.
        average: `logits`, as in the authors' code, or `probabilities`.
        resolution: resolution of the average: that of the decoder, which is much cheaper, or the full size.
            For logits, both give the same result; for probabilities, the former resizes the logarithm of
            their average.
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


class LocalizerConfig(BaseModel):
    """Everything needed to rebuild the error localization network of a model (ELN).

    Args:
        encoder: name of a timm model.
        decoder: decoder; None for the settings of the model's decoder that DeepLabv3+ has.
        scores: form of the predictions in its input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str
    decoder: DeepLabV3PlusConfig | None = None
    scores: Literal["logits", "probabilities"] = "logits"


class LocalizedConfig(_Config):
    """A segmentation network with the network that judges its predictions (ELN)."""

    kind: Literal["localized"] = "localized"
    segmentation: StudentConfig
    localizer: LocalizerConfig

    @property
    def networks(self) -> tuple[NetworkConfig, ...]:
        """Return the configuration of each segmentation network."""
        return self.segmentation.networks


class GatedConfig(_Config):
    """Any segmentation model gated by an image classifier (s4GAN + MLMT).

    Args:
        segmentation: model from whose predictions classes are removed.
        classifier: classifier of the same classes.
        threshold: largest probability of classes that are removed; tau = 0.2 in the paper.
        background: class that is never removed; None if the data has no background.
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
        """Return the number of classes of each network, which must be equal."""
        return *super().num_classes, self.classifier.num_classes


DeployableConfig = Annotated[
    StudentConfig | EnsembleConfig | LocalizedConfig | GatedConfig, Field(discriminator="kind")
]
