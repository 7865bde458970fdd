"""What is kept after training: a self-contained module from normalised images to full-size logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn

from zoo.models.deeplab import NetworkConfig, SegmentationNetwork, resize_logits

Kind = Literal["student"]


class Deployable(nn.Module, ABC):
    """A stripped model.

    Its state dict and `networks` (one `NetworkConfig` for each segmentation network) are all that a bundle
    stores.
    """

    kind: Kind

    @property
    @abstractmethod
    def networks(self) -> tuple[NetworkConfig, ...]:
        """Return the configuration of each segmentation network."""

    @abstractmethod
    def decoder_logits(self, images: Tensor) -> Tensor:
        """Return (B, K, h, w) logits at the decoder's resolution.

        Args:
            images: (B, 3, H, W) float, normalised.
        """

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K, H, W) logits.

        Args:
            images: (B, 3, H, W) float, normalised.
        """
        return resize_logits(self.decoder_logits(images), images.shape[-2:])


class Student(Deployable):
    """One segmentation network; its embedding head is dropped.

    Args:
        network: taken over, not copied.
    """

    kind: Kind = "student"

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network
        self.network.decoder.embed = None

    @property
    def networks(self) -> tuple[NetworkConfig, ...]:
        """Return the configuration of the network, without the head that was dropped."""
        return (self.network.config.model_copy(update={"embedding_channels": 0}),)

    def decoder_logits(self, images: Tensor) -> Tensor:
        """Return (B, K, h, w) logits at the decoder's resolution.

        Args:
            images: (B, 3, H, W) float, normalised.
        """
        logits: Tensor = self.network(images).logits
        return logits


def build_deployable(kind: Kind, networks: tuple[NetworkConfig, ...]) -> Deployable:
    """Return a deployable of this kind with random weights, ready for `load_state_dict`."""
    builders = {"student": lambda: Student(SegmentationNetwork(networks[0]))}
    return builders[kind]()
