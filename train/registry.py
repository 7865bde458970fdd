"""The methods by name: their class, their settings, and the settings of the authors' code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from zoo.train.methods import eln, mlmt, rrn, s4gan, supervised, u2pl

if TYPE_CHECKING:
    from zoo.models.config import NetworkConfig
    from zoo.train.method import Method

AnyMethodConfig = Annotated[
    eln.ElnConfig
    | mlmt.MlmtConfig
    | rrn.RrnConfig
    | s4gan.S4GanConfig
    | supervised.SupervisedConfig
    | u2pl.U2plConfig,
    Field(discriminator="name"),
]


class Entry(NamedTuple):
    """One method."""

    method: Any
    """Class of the method, called with (config, network, pretrained=...)."""
    official: dict[str, Any]
    """Settings under `method` that the preset `official` changes."""


METHODS: dict[str, Entry] = {
    "eln": Entry(eln.Eln, eln.OFFICIAL),
    "mlmt": Entry(mlmt.Mlmt, {}),
    "rrn": Entry(rrn.Rrn, rrn.OFFICIAL),
    "s4gan": Entry(s4gan.S4Gan, s4gan.OFFICIAL),
    "supervised": Entry(supervised.Supervised, {}),
    "u2pl": Entry(u2pl.U2pl, u2pl.OFFICIAL),
}


def build_method(config: AnyMethodConfig, network: NetworkConfig, *, pretrained: bool) -> Method:
    """Return the method of these settings around this network."""
    method: Method = METHODS[config.name].method(config, network, pretrained=pretrained)
    return method
