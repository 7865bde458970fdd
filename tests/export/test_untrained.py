from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from zoo.bundle.bundle import BundleConfig
from zoo.classes import Classes
from zoo.errors import ExportError
from zoo.export.untrained import check_untrained
from zoo.models.config import NetworkConfig
from zoo.models.deployable import Student
from zoo.models.segmentation import SegmentationNetwork
from zoo.predictors.eager import EagerPredictor
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 3


@pytest.fixture(scope="module")
def untrained() -> Callable[..., EagerPredictor]:
    """Return a builder of predictors of untrained networks; the class of the predictor, then settings."""

    def build(kind: type[EagerPredictor] = EagerPredictor, **settings: object) -> EagerPredictor:
        torch.manual_seed(0)
        small = {"encoder": "test_resnet", "decoder_channels": 16, "low_level_channels": 8}
        network = NetworkConfig.model_validate({"num_classes": COUNT, **small, **settings})
        student, classes = Student(SegmentationNetwork(network)), Classes.of(("a", "b", "c"))
        config = BundleConfig(
            deployable=student.config,
            method="supervised",
            names=classes.names,
            palette=classes.palette,
            preprocessing=Preprocessing(imgsz=(64, 64)),
        )
        return kind(student.eval(), config)

    return build


class Shifted(EagerPredictor):
    """A network whose exported file differs: its last class scores more by a twentieth of the range."""

    def scores(self, batch: Tensor) -> Tensor:
        scores = super().scores(batch).clone()
        scores[:, -1] += 0.05 * (scores.max() - scores.min())
        return scores


def test_an_untrained_network_passes_and_leaves_the_random_numbers(
    untrained: Callable[..., EagerPredictor], caplog: pytest.LogCaptureFixture
) -> None:
    predictor = untrained()
    before = torch.get_rng_state()
    with caplog.at_level(logging.INFO, "zoo"):
        check_untrained(predictor)
    assert torch.equal(before, torch.get_rng_state())
    assert "passed a trial export to ONNX" in caplog.text


def test_a_network_whose_file_differs_is_refused_in_one_line(
    untrained: Callable[..., EagerPredictor],
) -> None:
    with pytest.raises(ExportError, match=r"differs in ONNX Runtime .*; --no-export-check trains") as caught:
        check_untrained(untrained(Shifted))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "stride"),
    [("mobilenetv3_small_050", 16), ("convnext_atto", 16), ("efficientnet_b0", 16), ("pvt_v2_b0", 32)],
)
def test_untrained_encoders_pass(encoder: str, stride: int, untrained: Callable[..., EagerPredictor]) -> None:
    check_untrained(untrained(encoder=encoder, output_stride=stride))
