"""What a network is, without its weights: what a bundle's `config.json` says of it. Needs no PyTorch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

AsppStyle = Literal["projected", "neck", "joint"]


class Dropouts(BaseModel):
    """Dropout rates, in the order of the layers they follow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    aspp: float = Field(0.1, ge=0, lt=1)
    fuse_1: float = Field(0.5, ge=0, lt=1)
    fuse_2: float = Field(0.1, ge=0, lt=1)


class NetworkConfig(BaseModel):
    """Everything needed to rebuild a segmentation network without its weights.

    Args:
        architecture: `deeplabv3plus` or `deeplabv2`.
        encoder: name of a timm model.
        num_classes: K.
        output_stride: input size over the size of the encoder's last features.
        multi_grid: factors on the dilation of the last ResNet stage's blocks.
        aspp: `projected` concatenates the branches and projects them by a 1x1 convolution (ELN);
            `neck` reduces the concatenation by a 3x3 convolution (U2PL); `joint` has one BatchNorm for all
            branches and adds the image-level one (RRN).
        rates: dilations of the atrous branches.
        low_level_channels: width of the projected low-level features.
        decoder_channels: width of the ASPP branches and of the decoder.
        dropout: see `Dropouts`; `channel_dropout` drops whole channels (U2PL).
        head: `mlp` is ELN's *Seg*, three 1x1 convolutions; `linear` is one 1x1 convolution (U2PL, RRN).
        embedding_channels: width of the pixel embedding used by contrastive losses; 0 leaves the head out.
        separate_embedding: the embedding has 3x3 convolutions of its own (U2PL's representation head).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["deeplabv3plus", "deeplabv2"] = "deeplabv3plus"
    encoder: str = "resnet50"
    num_classes: int = Field(2, ge=2, le=255)  # 255 is `IGNORE`
    output_stride: Literal[8, 16, 32] = 16
    multi_grid: tuple[int, ...] | None = None
    aspp: AsppStyle = "projected"
    rates: tuple[int, ...] = (6, 12, 18)
    low_level_channels: int = Field(48, ge=1)
    decoder_channels: int = Field(256, ge=1)
    dropout: Dropouts = Dropouts()
    channel_dropout: bool = False
    head: Literal["mlp", "linear"] = "mlp"
    embedding_channels: int = Field(0, ge=0)
    separate_embedding: bool = False


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
