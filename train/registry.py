"""The methods by name: their class, their settings, and the settings of the authors' code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from zoo.train.methods import eln, supervised

if TYPE_CHECKING:
    from zoo.models.deeplab import NetworkConfig
    from zoo.train.method import Method

AnyMethodConfig = Annotated[eln.ElnConfig | supervised.SupervisedConfig, Field(discriminator="name")]


class Entry(NamedTuple):
    """One method."""

    method: Any
    """Class of the method, called with (config, network, pretrained=...)."""
    official: dict[str, Any]
    """Settings under `method` that the preset `official` changes."""


METHODS: dict[str, Entry] = {
    "eln": Entry(eln.Eln, eln.OFFICIAL),
    "supervised": Entry(supervised.Supervised, {}),
}


def build_method(config: AnyMethodConfig, network: NetworkConfig, *, pretrained: bool) -> Method:
    """Return the method of these settings around this network."""
    method: Method = METHODS[config.name].method(config, network, pretrained=pretrained)
    return method
