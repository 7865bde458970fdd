"""What an export made, as `zoo export --json` prints it and the manifest keeps it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from zoo.export.parity import Parity
from zoo.predictors.artifact import Precision


class Artifact(BaseModel):
    """One exported file.

    Args:
        name: path inside the bundle.
        precision: of the network.
        bytes: its size.
        parity: None if it could not be run here.
        remark: why there is no parity.
        facts: what else the manifest says of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    precision: Precision
    bytes: int
    parity: Parity | None
    remark: str = ""
    facts: dict[str, Any]

    def entry(self, versions: dict[str, str]) -> dict[str, Any]:
        """Return what the manifest says of it."""
        parity = None
        if self.parity is not None:
            facts = {"agreement": self.parity.agreement, "passed": self.parity.passed}
            parity = {**self.parity.model_dump(mode="json"), **facts}
        return {
            "precision": self.precision,
            "versions": versions,
            "parity": parity,
            "remark": self.remark,
            **self.facts,
        }


class ExportReport(BaseModel):
    """What an export made.

    Args:
        bundle: the folder that holds it.
        artifacts: in the order they were made.
        files: names of the files written, the manifest among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    artifacts: tuple[Artifact, ...]
    files: tuple[str, ...]
