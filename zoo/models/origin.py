"""Origins of the weights that networks start from, as runs record them and model cards state them."""

from __future__ import annotations

from typing import Any, Literal

from zoo.frozen import Frozen


class Origin(Frozen):
    """Origin of initial weights.

    Args:
        kind: `timm` (downloaded by timm), `package` (from an installed package), `file`, `encoder` (of an
            encoder other than timm models), or `model` (from a bundle).
        name: timm's full name of the weights, package and version, name of the file or encoder, or method and
            data of the model.
        license: license stated by the publisher; None if unknown.
        path: absolute path of the file or bundle.
        sha256: SHA-256 of the weight file.
    """

    kind: Literal["timm", "package", "file", "encoder", "model"]
    name: str
    license: str | None = None
    path: str | None = None
    sha256: str | None = None

    @property
    def part(self) -> str:
        """Return the part of a network that the weights belong to."""
        return "weights" if self.kind == "model" else "encoder weights"

    @property
    def label(self) -> str:
        """Return a short description for logs and cards, without the path."""
        digest = f" (sha256 {self.sha256[:12]})" if self.sha256 else ""
        return f"{LABELS[self.kind]} {self.name}{digest}"


LABELS = {"timm": "timm, of", "package": "package", "file": "file", "encoder": "encoder", "model": "model"}


def origins_of(recipe: dict[str, Any], provenance: dict[str, Any]) -> tuple[Origin, ...] | None:
    """Return the origins of the weights that a bundle started from; None if they were not recorded.

    Args:
        recipe: recipe in the bundle's `config.json`.
        provenance: provenance in `config.json`; older versions recorded licenses by name.
    """
    if "origins" in provenance:
        return tuple(Origin.model_validate(each) for each in provenance["origins"])
    if recipe.get("pretrained") is False:
        return ()
    if "pretrained_weights" not in provenance:
        return None
    stated: dict[str, str | None] = provenance["pretrained_weights"]
    return tuple(Origin(kind="timm", name=name, license=license_) for name, license_ in stated.items())
