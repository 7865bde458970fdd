"""Filters of pseudo-labels: ELN's error localization, and those that it is compared with (Table 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from zoo.errors import RecipeError
from zoo.frozen import Frozen
from zoo.models.config import DeepLabV3PlusConfig
from zoo.models.decoders.decoder import resize_logits
from zoo.models.error_localizer import ErrorLocalizer
from zoo.train.blocks.class_confidence import ClassConfidence
from zoo.train.blocks.ema import evaluating, without_dropout
from zoo.train.blocks.losses import balanced_binary_cross_entropy, cross_entropy, most_likely

if TYPE_CHECKING:
    from zoo.models.config import NetworkConfig


class FilterConfig(Frozen):
    """Settings of the filters.

    Args:
        kind: `eln`; `s-ecn`, a network that corrects the prediction; `confidence`, no network.
        encoder: encoder of the ELN, a timm model.
        decoder: decoder of the ELN; None for the settings of the student's decoder that DeepLabv3+ has.
        threshold: threshold on the ELN's probability that a pixel is right; 0.5 is the rounding of Eq. (9).
        confidence_threshold: threshold on the teacher's largest probability (`confidence`); not in the paper.
        threshold_by_class: whether classes of which the teacher is less sure have a lower threshold
            (`confidence`).
        scores: form of predictions in the ELN's input: probabilities in the paper, logits in the code.
        reduction: `mean` over the K + 1 predictions as in Eq. (6), or `sum` as in the code.
        batch_norm: mode of the ELN's BatchNorm on unlabeled images; `train` in the code.
    """

    kind: Literal["eln", "s-ecn", "confidence"] = "eln"
    encoder: str = "resnet34"
    decoder: DeepLabV3PlusConfig | None = None
    threshold: float = Field(0.5, gt=0, lt=1)
    confidence_threshold: float = Field(0.9, gt=0, lt=1)
    threshold_by_class: bool = False
    scores: Literal["logits", "probabilities"] = "logits"
    reduction: Literal["mean", "sum"] = "mean"
    batch_norm: Literal["eval", "train"] = "eval"


class ConfidenceFilter(nn.Module):
    """Accepts pixels whose largest probability is above a threshold; nothing is learned."""

    def __init__(self, config: FilterConfig, network: NetworkConfig, *, pretrained: bool) -> None:  # noqa: ARG002
        super().__init__()
        self.config = config
        self.class_confidence = ClassConfidence(network.num_classes) if config.threshold_by_class else None

    def follow(self, logits: Tensor, inside: Tensor) -> None:
        """Let thresholds by class follow a prediction.

        Args:
            logits: (B, K, h, w) float.
            inside: (B, h, w) bool, False in padding.
        """
        if self.class_confidence is not None:
            self.class_confidence.update(*logits.softmax(dim=1).max(dim=1), inside)

    def trusted(self, image: Tensor, logits: Tensor) -> Tensor:  # noqa: ARG002
        """Return where the classes of a prediction are accepted, (B, h, w) bool.

        Args:
            image: (B, 3, H, W) float, normalized.
            logits: (B, K, h, w) float.
        """
        threshold: float | Tensor = self.config.confidence_threshold
        if self.class_confidence is not None:
            common = self.config.confidence_threshold
            threshold = self.class_confidence.thresholds(logits.argmax(dim=1), common)
        return most_likely(logits) > threshold


class ErrorLocalizationFilter(nn.Module):
    """The error localization network B: accepts pixels that it predicts to be right (Eq. 4 to 6, 9)."""

    def __init__(self, config: FilterConfig, network: NetworkConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        outputs = self._outputs(network)
        network = network.model_copy(update={"decoder": config.decoder or network.decoder})
        try:
            self.localizer = ErrorLocalizer(config.encoder, network, pretrained=pretrained, outputs=outputs)
        except RecipeError as error:
            raise RecipeError(f"the error localizer, method.filter.encoder: {error}") from error

    def _outputs(self, network: NetworkConfig) -> int:  # noqa: ARG002
        return 1

    def loss(self, image: Tensor, predictions: list[Tensor], label: Tensor, valid: Tensor) -> Tensor:
        """Return the loss on the main and all auxiliary predictions, Eq. (6), which trains only this network.

        Args:
            image: (B, 3, H, W) float, normalized.
            predictions: K + 1 times (B, K, H, W) logits.
            label: (B, H, W) int64.
            valid: (B, H, W) bool, False in padding.
        """
        scores = torch.cat(predictions).detach()  # ((K + 1) B, K, H, W)
        judged = self.judge(image.repeat(len(predictions), 1, 1, 1), scores)
        judged = resize_logits(judged, label.shape[-2:])
        of_each = zip(judged.chunk(len(predictions)), scores.chunk(len(predictions)), strict=True)
        losses = torch.stack([self.term(b, p.argmax(dim=1), label, valid) for b, p in of_each])
        return losses.sum() if self.config.reduction == "sum" else losses.mean()

    def term(self, judged: Tensor, predicted: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        """Return the balanced binary cross entropy for one prediction, Eq. (5).

        As in the code, void pixels (`IGNORE` in the mask) count as errors; padding does not count.

        Args:
            judged: (B, 1, H, W) logits of this network.
            predicted: (B, H, W) int64, predicted classes.
            label: (B, H, W) int64.
            valid: (B, H, W) bool, False in padding.
        """
        return balanced_binary_cross_entropy(judged.squeeze(1), predicted == label, valid)

    def judge(self, image: Tensor, logits: Tensor) -> Tensor:
        """Return this network's logits at stride 4, Eq. (4).

        Args:
            image: (B, 3, H, W) float, normalized.
            logits: (B, K, H, W) float.
        """
        return self.localizer.judge(image, logits, self.config.scores)

    def trusted(self, image: Tensor, logits: Tensor) -> Tensor:
        """Return where the classes of a prediction are accepted, (B, h, w) bool.

        Args:
            image: (B, 3, H, W) float, normalized.
            logits: (B, K, h, w) float.
        """
        full = resize_logits(logits, image.shape[-2:])
        mode = evaluating if self.config.batch_norm == "eval" else without_dropout
        with mode(self):
            judged = self.judge(image, full)
        if judged.shape[-2:] != logits.shape[-2:]:  # the grid of a DeepLabv2 student is coarser
            judged = resize_logits(judged, logits.shape[-2:])
        return self.believes(judged, logits)

    def believes(self, judged: Tensor, logits: Tensor) -> Tensor:  # noqa: ARG002
        """Return where a prediction is accepted, (B, h, w) bool, from this network's logits and its own."""
        return judged.squeeze(1).sigmoid() > self.config.threshold


class ErrorCorrectionFilter(ErrorLocalizationFilter):
    """s-ECN: predicts the right class of each pixel, and accepts predictions that agree (section 4.3)."""

    def _outputs(self, network: NetworkConfig) -> int:
        return network.num_classes

    def term(self, judged: Tensor, predicted: Tensor, label: Tensor, valid: Tensor) -> Tensor:  # noqa: ARG002
        """Return the cross entropy of the corrected map.

        Args:
            judged: (B, K, H, W) logits of this network.
            predicted: not used.
            label: (B, H, W) int64, `IGNORE` in padding.
            valid: not used.
        """
        return cross_entropy(judged, label)

    def believes(self, judged: Tensor, logits: Tensor) -> Tensor:
        """Return where the corrected class is the predicted one, (B, h, w) bool."""
        return judged.argmax(dim=1) == logits.argmax(dim=1)


FILTERS: dict[str, type[ConfidenceFilter | ErrorLocalizationFilter]] = {
    "eln": ErrorLocalizationFilter,
    "s-ecn": ErrorCorrectionFilter,
    "confidence": ConfidenceFilter,
}
