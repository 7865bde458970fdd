"""Table of methods: class, settings, title, and the settings of the authors' code.

A method is one file, or a folder with its own parts, and one row here; everything else that needs the methods
reads this table. Other packages add rows by entry points of the group `zoo.methods`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from zoo.errors import RecipeError
from zoo.plugins import Table
from zoo.train.blocks.label_loss import PLAIN, LabelLoss, LabelLossConfig
from zoo.train.methods import mlmt, rrn, s4gan, supervised, unimatch
from zoo.train.methods.eln import eln
from zoo.train.methods.u2pl import u2pl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo.models.config import NetworkConfig
    from zoo.train.method import Method, MethodConfig


@dataclass(frozen=True)
class MethodRow:
    """A method.

    Args:
        method: class of the method, called with (config, network, pretrained=...).
        config: class of its settings, whose field `name` has the method's name as its only value.
        title: display name, e.g. `U2PL`.
        paper: authors, venue and year; empty for a baseline.
        official: settings under `method` that the preset `official` changes.
        segments: whether its model predicts masks.
        needs_unlabeled: whether it learns from unlabeled images.
    """

    method: type[Method]
    config: type[MethodConfig]
    title: str
    paper: str = ""
    official: Mapping[str, Any] = field(default_factory=dict)
    segments: bool = True
    needs_unlabeled: bool = True


METHODS = Table(
    "zoo.methods",
    MethodRow,
    {
        "eln": MethodRow(eln.Eln, eln.ElnConfig, "ELN", "Kwon & Kwak, CVPR 2022", eln.OFFICIAL),
        "fixmatch": MethodRow(
            unimatch.FixMatch, unimatch.FixMatchConfig, "FixMatch", "Sohn et al., NeurIPS 2020"
        ),
        "mlmt": MethodRow(mlmt.Mlmt, mlmt.MlmtConfig, "MLMT", "Mittal et al., TPAMI", segments=False),
        "rrn": MethodRow(rrn.Rrn, rrn.RrnConfig, "RRN", "Region Relevance Network, 2023", rrn.OFFICIAL),
        "s4gan": MethodRow(s4gan.S4Gan, s4gan.S4GanConfig, "s4GAN", "Mittal et al., TPAMI", s4gan.OFFICIAL),
        "supervised": MethodRow(
            supervised.Supervised, supervised.SupervisedConfig, "labels only", needs_unlabeled=False
        ),
        "u2pl": MethodRow(u2pl.U2pl, u2pl.U2plConfig, "U2PL", "Wang et al., CVPR 2022", u2pl.OFFICIAL),
        "unimatch": MethodRow(
            unimatch.UniMatch, unimatch.UniMatchConfig, "UniMatch V2", "Yang et al., TPAMI 2025"
        ),
    },
)

if TYPE_CHECKING:
    AnyMethodConfig = MethodConfig
else:
    AnyMethodConfig = Annotated[
        Union[tuple(row.config for row in METHODS.values())],  # noqa: UP007 - of a table
        Field(discriminator="name"),
    ]


def setting_names(method: object) -> frozenset[str]:
    """Return the names of a method's settings; empty if the method is unknown."""
    if not isinstance(method, str) or method not in METHODS:
        return frozenset()
    return frozenset(METHODS[method].config.model_fields)


def build_method(
    config: AnyMethodConfig,
    network: NetworkConfig,
    *,
    pretrained: bool,
    label_loss: LabelLossConfig = PLAIN,
) -> Method:
    """Return a new method with these settings, this network and this loss on labeled pixels.

    Raises:
        RecipeError: another loss than the method's own, which has no such one.
    """
    method: Any = METHODS[config.name].method  # subclasses take their own settings
    built: Method = method(config, network, pretrained=pretrained)
    if not label_loss.is_plain:
        if not isinstance(getattr(built, "label_loss", None), LabelLoss):
            raise RecipeError(
                f"{config.name} does not learn by `LabelLoss`, expected loss cross_entropy and class_weights "
                f"none: leave them out"
            )
        built.label_loss = LabelLoss(label_loss, network.num_classes)
    return built
