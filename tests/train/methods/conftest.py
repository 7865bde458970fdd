from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.train.method import Batch


@pytest.fixture
def batch(make_batch: Callable[..., Batch]) -> Batch:
    """Return a batch for RRN: two streams of unlabeled images, no strong views."""
    return make_batch(unlabeled=2, strong=0)
