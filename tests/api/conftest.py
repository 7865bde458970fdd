"""Settings of a run of seconds."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "network.encoder": "test_resnet",
    "pretrained": False,
    "data.imgsz": [32, 32],
    "data.batch_l": 2,
    "data.batch_u": 2,
    "data.workers": 0,
}
