"""The outputs of an artifact beside its mask are compared with the model's, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zoo.bundle.weights import load_bundle
from zoo.errors import ParityError
from zoo.export.parity.compare import Images, check_parity, compare, output_error
from zoo.export.parity.tolerance import GATES
from zoo.models.deployable import REMOVED
from zoo.predictors.eager import EagerPredictor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.export.parity.compare import Parity


class Altered(EagerPredictor):
    """A model whose mask is right while another output is not."""

    output, shift = "confidence", 0
    available = ("mask", "confidence")

    def infer(self, images: NDArray[np.uint8], outputs: Sequence[str] = ("mask",)) -> dict[str, NDArray[Any]]:
        found = super().infer(images, outputs)
        values = found[self.output]
        return found | {self.output: (values + self.shift).astype(values.dtype)}


@pytest.fixture
def parity_of(tiny_bundle: Path) -> Any:
    images = Images(tuple(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)), "noise")

    def compared(output: str, shift: float) -> Parity:
        artifact, reference = (kind(*load_bundle(tiny_bundle)) for kind in (Altered, EagerPredictor))
        artifact.output, artifact.shift = output, shift
        artifact.available = ("mask", output)
        return compare(artifact, reference, images, [(1, 64, 64), (2, 32, 48)], GATES["fp32"])

    return compared


@pytest.mark.parametrize("output", ["confidence", "logits"])
def test_outputs_of_the_model_itself_pass(output: str, parity_of: Any) -> None:
    parity = parity_of(output, 0)
    assert parity.passed
    assert parity.errors == {output: 0}


@pytest.mark.parametrize(("output", "shift"), [("confidence", 60), ("logits", 3.0)])
def test_an_artifact_of_the_right_mask_and_a_wrong_output_fails(
    output: str, shift: float, parity_of: Any
) -> None:
    parity = parity_of(output, shift)
    assert (parity.agreement, parity.differing) == (1, 0)
    assert not parity.passed
    with pytest.raises(ParityError, match=rf"model\.onnx: {output} is off by .* of its range, expected at"):
        check_parity({"model.onnx": parity})


def test_an_error_is_a_share_of_the_range_and_counts_no_class_that_a_gate_removed() -> None:
    grey = np.array([[0, 255]], np.uint8)
    assert output_error(grey, np.array([[51, 255]], np.uint8)) == pytest.approx(0.1)
    logits = np.array([[2.0, 4.0, REMOVED, 6.0]], np.float32)
    assert output_error(logits, logits + np.float32(1)) == pytest.approx((1 + 1 + 0 + 0) / 4 / 4)
    assert output_error(logits, logits) == 0
    assert output_error(logits, np.full_like(logits, np.nan)) == np.inf
