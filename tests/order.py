"""Order of the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

LONG = (
    "tests/test_notebooks.py",
    "tests/commands/test_compare.py",
    "tests/predictors/test_any_order.py",
    "tests/train/loop/test_processes.py",
    "tests/gpu/test_suite.py",
    "tests/train/test_encoder_families.py",
)
"""Files with long slow tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of long tests, so that no process of pytest-xdist is left with one at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
