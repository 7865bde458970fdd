"""The methods by name: their class, their settings, and the settings of the authors' code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

from pydantic import Field

from zoo.train.methods import mlmt, rrn, s4gan, supervised
from zoo.train.methods.eln import eln
from zoo.train.methods.u2pl import u2pl

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
    segments: bool = True
    """Whether it leaves a model that gives masks."""


METHODS: dict[str, Entry] = {
    "eln": Entry(eln.Eln, eln.OFFICIAL),
    "mlmt": Entry(mlmt.Mlmt, {}, segments=False),
    "rrn": Entry(rrn.Rrn, rrn.OFFICIAL),
    "s4gan": Entry(s4gan.S4Gan, s4gan.OFFICIAL),
    "supervised": Entry(supervised.Supervised, {}),
    "u2pl": Entry(u2pl.U2pl, u2pl.OFFICIAL),
}


def setting_names(method: object) -> frozenset[str]:
    """Return the names of a method's settings; none if it is unknown."""
    configs = get_args(get_args(AnyMethodConfig)[0])
    return frozenset(
        name
        for config in configs
        if config.model_fields["name"].default == method
        for name in config.model_fields
    )


def build_method(config: AnyMethodConfig, network: NetworkConfig, *, pretrained: bool) -> Method:
    """Return the method of these settings around this network."""
    method: Method = METHODS[config.name].method(config, network, pretrained=pretrained)
    return method
