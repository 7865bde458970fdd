"""Random sequences of sizes and of ways to call, on each predictor of a CPU: the right mask or one line.

Hypothesis draws sequences of calls: alone, from a pool of threads, cancelled, and just after the runtime
itself has failed. `ZOO_SEQUENCES=5000 pytest -m slow -s FILE` sets and shows the number of images a backend.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.predictors.conftest import FILES, Made, assert_same
from zoo.errors import BundleError, InvalidImageError
from zoo.predictors.eager import load_eager
from zoo.predictors.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Images = NDArray[np.uint8]
    Check = Callable[[Images, NDArray[Any]], None]
    Results = Callable[[Any, "Call"], list[tuple[Images, Any]]]

WANTED = int(os.environ.get("ZOO_SEQUENCES", "300"))
SIDES = (1, 2, 3, 5, 7, 8, 9, 16, 17, 31, 33, 47, 64, 64, 64, 65, 90, 128, 321)
"""Tiny, thin, odd and huge; a third are the size that the networks are trained for."""

QUICK = {
    "deadline": None,
    "database": None,
    "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
}


class Call(NamedTuple):
    """Some images, and how they reach the predictor."""

    how: str
    images: list[Images]


def draw_image(height: int, width: int, number: int) -> Images:
    """Return an image in blocks of noise, (1, H, W, 3)."""
    random = np.random.default_rng(number)
    block = int(random.integers(1, 9))
    cells = random.integers(0, 256, (1, -(-height // block), -(-width // block), 3), np.uint8)
    return cells.repeat(block, 1).repeat(block, 2)[:, :height, :width].copy()


IMAGES = st.builds(draw_image, st.sampled_from(SIDES), st.sampled_from(SIDES), st.integers(0, 2**32 - 1))
CALLS = st.lists(
    st.builds(
        Call,
        st.sampled_from(("alone", "pool", "cancelled", "after an exception")),
        st.lists(IMAGES, min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def results(predictor: Any, call: Call) -> list[tuple[Images, Any]]:
    """Return each image with its mask or error; cancelled calls that have not begun have none."""

    def outcome(image: Images) -> Any:
        try:
            return predictor.run(image)
        except (BundleError, InvalidImageError) as error:
            return error

    if call.how == "after an exception":
        fail(predictor)
    if call.how in ("alone", "after an exception"):
        return [(image, outcome(image)) for image in call.images]
    with ThreadPoolExecutor(4) as pool:
        futures = [(image, pool.submit(outcome, image)) for image in call.images * 2]
        if call.how == "cancelled":
            for _, future in futures[::2]:
                future.cancel()
    return [(image, future.result()) for image, future in futures if not future.cancelled()]


def fail(predictor: Any) -> None:
    """Let the runtime itself meet an image that is too small, if there is any."""
    limits, predictor._limits = predictor._limits, Limits()
    try:
        predictor.run(np.zeros((1, 1, 1, 3), np.uint8))
    except (BundleError, InvalidImageError):
        pass
    finally:
        predictor._limits = limits


def check_patches(image: Images, mask: NDArray[Any]) -> None:
    """Check a mask of the file of `write_patches_onnx`."""
    high, wide = (side // 8 for side in image.shape[1:3])
    cells = image[0, : 8 * high, : 8 * wide, 0].reshape(high, 8, wide, 8).mean(axis=(1, 3))
    clear = np.abs(cells - 127) > 0.01
    shown = mask[0, np.arange(high) * image.shape[1] // high + image.shape[1] // high // 2]
    shown = shown[:, np.arange(wide) * image.shape[2] // wide + image.shape[2] // wide // 2]
    assert mask.shape == image.shape[:3]
    assert (shown == (cells > 127))[clear].all(), image.shape


def check_sequences(
    name: str, predictor: Any, check: Check, wanted: int, ask: Results = results
) -> Counter[str]:
    """Run sequences until so many images have been checked, and return the counts."""
    counts: Counter[str] = Counter()

    def run(calls: list[Call]) -> None:
        for call in calls:
            for image, found in ask(predictor, call):
                counts["images"] += 1
                counts[call.how] += 1
                size = (image.shape[1], image.shape[2])
                if isinstance(found, Exception):
                    assert not predictor.limits.fits(size), (size, found)
                    assert "\n" not in str(found)
                    counts["refused"] += 1
                else:
                    assert predictor.limits.fits(size), size
                    check(image, found)

    while counts["images"] < wanted:
        examples = 1 + (wanted - counts["images"]) // 20
        again = settings(max_examples=examples, **QUICK)(given(CALLS)(run))  # type: ignore[arg-type]
        seed(counts["images"])(again)()
    print(f"\n{name}: {dict(counts)}")  # noqa: T201
    return counts


@pytest.mark.parametrize("name", ["ort", "ort bound", "openvino"])
def test_a_sequence_of_any_sizes_and_calls_returns_the_right_masks(
    name: str, write_patches: Callable[..., Path], tmp_path: Path
) -> None:
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    predictor = FILES[name](write_patches(tmp_path / "model.onnx"))
    counts = check_sequences(name, predictor, check_patches, 150)
    assert set(counts) == {"images", "refused", "alone", "pool", "cancelled", "after an exception"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eager", *FILES])
def test_sequences_return_the_masks_of_pytorch(made: Made, name: str) -> None:
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    reference = load_eager(made.bundle)
    predictor = load_eager(made.bundle) if name == "eager" else FILES[name](made.onnx)
    check_sequences(name, predictor, partial(assert_same, reference), WANTED)
