from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from zoo.classes import IGNORE
from zoo.data.open import open_source
from zoo.data.partition import make_partition
from zoo.train.loop.filter_quality import IMAGES, FilterQuality, class_figures, figures, known_pixels
from zoo.train.loop.hardware import Hardware
from zoo.train.method import PseudoLabels, progress_at
from zoo.train.recipe.read import load_recipe
from zoo.train.report.page import html
from zoo.train.report.story import read_story
from zoo.train.runs.log import FILTER, last_figures, read_log
from zoo.train.session import resume, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.method import Method
    from zoo.train.recipe.schema import Recipe

    Load = Callable[..., Recipe]

SILENT = {"mlmt", "mlmt-categorical", "supervised", "rrn-cps"}
