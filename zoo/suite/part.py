"""One part, measured in this process: `python -m zoo.suite.part REQUEST FILE`, called by `zoo bench --suite`.

REQUEST is JSON: the part's kind and options, and the device. FILE gets the figures as JSON, each time there
are more of them, so that those of a part that is ended early are kept.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.bundle.bundle import write_json
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.suite.parts import Kind

Figures = dict[str, Any]
Keep = Callable[[Figures], None]
"""Told of all figures that there are so far."""

MODULES: dict[Kind, str] = {
    "machine": "zoo.suite.peaks",
    "tests": "zoo.suite.checks",
    "train": "zoo.suite.training",
    "infer": "zoo.suite.inference",
    "compare": "zoo.suite.comparing",
}
"""Of each kind, which has `measure(options, device, keep)`; a part loads no more than it needs."""


def main(request: str, path: Path) -> None:
    """Measure a part and write its figures.

    Args:
        request: JSON with `kind`, `options` and `device`.
        path: of the figures.

    Raises:
        ZooError: the part cannot be measured here.
    """
    asked = json.loads(request)
    measure = import_module(MODULES[asked["kind"]]).measure
    keep: Keep = lambda figures: write_json(path, figures)  # noqa: E731
    keep(measure(asked["options"], asked["device"], keep))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("zoo").setLevel(logging.INFO)
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except ZooError as error:
        sys.exit(f"error: {error}")
