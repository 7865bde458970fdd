"""Origins of the weights that networks start from, as runs record them and model cards state them."""

from __future__ import annotations

from typing import Any, Literal

from zoo.frozen import Frozen


class Origin(Frozen):
    """Weights that a network started from.

    Args:
        kind: `timm`: downloaded by timm; `package`: of an installed package; `file`: of a file; `encoder`: of
            an encoder that is no model of timm; `model`: of a bundle.
        name: timm's full name of the weights; package and version; name of the file or of the encoder; method
            and data of the model.
        license: as their publisher states it; None if it is unknown.
        path: absolute path of file or bundle.
        sha256: of the file of weights.
    """

    kind: Literal["timm", "package", "file", "encoder", "model"]
    name: str
    license: str | None = None
    path: str | None = None
    sha256: str | None = None

    @property
    def part(self) -> str:
        """Return which part of a network the weights are of."""
        return "weights" if self.kind == "model" else "encoder weights"

    @property
    def label(self) -> str:
        """Return what a log or a card says of it, without the path."""
        digest = f" (sha256 {self.sha256[:12]})" if self.sha256 else ""
        return f"{LABELS[self.kind]} {self.name}{digest}"


LABELS = {"timm": "timm, of", "package": "package", "file": "file", "encoder": "encoder", "model": "model"}


def origins_of(recipe: dict[str, Any], provenance: dict[str, Any]) -> tuple[Origin, ...] | None:
    """Return the origins of the weights that a bundle started from; None if they were not recorded.

    Args:
        recipe: of the bundle's `config.json`.
        provenance: of the same; older versions recorded licenses by name.
    """
    if "origins" in provenance:
        return tuple(Origin.model_validate(each) for each in provenance["origins"])
    if recipe.get("pretrained") is False:
        return ()
    if "pretrained_weights" not in provenance:
        return None
    stated: dict[str, str | None] = provenance["pretrained_weights"]
    return tuple(Origin(kind="timm", name=name, license=license_) for name, license_ in stated.items())
