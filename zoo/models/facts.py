"""Facts of encoders, without their weights: what `zoo list --encoders` shows."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import PretrainedCfg

from zoo.errors import RecipeError, ZooError
from zoo.models.encoder import ENCODERS, build_encoder
from zoo.models.vit import is_plain_transformer

SUGGESTED = (
    "resnet50",
    "resnet101",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "regnety_016",
    "convnext_tiny",
    "convnextv2_nano",
    "hrnet_w18",
    "mambaout_tiny",
    "pvt_v2_b0",
    "swin_tiny_patch4_window7_224",
    "caformer_s18",
    "davit_tiny",
    "sam2_hiera_tiny",
    "deit3_small_patch16_224",
    "eva02_small_patch14_224",
    "vit_base_patch16_siglip_224",
    "vit_small_patch14_dinov2",
    "vit_base_patch14_dinov2",
    "vit_small_patch16_dinov3",
)
"""Encoders of the usual kinds that train, of some five to a hundred million parameters."""

MOST = 100
"""Encoders of one list at most: each is built, which takes up to a second."""

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class EncoderFacts(NamedTuple):
    """One encoder."""

    name: str
    parameters: int | None
    """Without a classifier; None for an encoder that is refused."""
    strides: tuple[int, ...]
    patch: int | None
    """Size of the patches of a plain transformer."""
    weights: str | None
    """Full name of the weights that it starts from; None if timm has none."""
    license: str | None
    """Of the weights, as timm states it."""
    is_here: bool
    """Whether the weights are in the cache of this machine."""
    refused: str
    """Why it is no encoder of a segmentation network; empty if it is one."""


def encoder_names(pattern: str | None) -> tuple[str, ...]:
    """Return the names of encoders that match a pattern such as `vit_small*`; without one, `SUGGESTED`.

    Raises:
        ZooError: none matches, or more than `MOST`.
    """
    if pattern is None:
        return (*ENCODERS, *SUGGESTED)
    found = tuple(name for name in (*ENCODERS, *timm.list_models()) if fnmatchcase(name, pattern))
    if not found:
        raise ZooError(f"no encoder matches {pattern}, expected a pattern such as 'vit_small*'")
    if len(found) > MOST:
        raise ZooError(f"{len(found)} encoders match {pattern}, expected at most {MOST}: narrow it")
    return found


def encoder_facts(name: str) -> EncoderFacts:
    """Return the facts of an encoder, which is built without memory for its parameters."""
    parameters: int | None = None
    strides: tuple[int, ...] = ()
    refused = ""
    try:
        with torch.device("meta"):
            encoder = build_encoder(name)
    except RecipeError as error:
        refused = str(error)
    else:
        parameters, strides = sum(p.numel() for p in encoder.parameters()), encoder.strides
    weights = PretrainedCfg() if name in ENCODERS else timm.get_pretrained_cfg(name) or PretrainedCfg()
    return EncoderFacts(
        name=name,
        parameters=parameters,
        strides=strides,
        patch=strides[0] if strides and is_plain_transformer(name) else None,
        weights=f"{weights.architecture}.{weights.tag}" if weights.has_weights else None,
        license=weights.license,
        is_here=_is_here(weights),
        refused=refused,
    )


def _is_here(weights: PretrainedCfg) -> bool:
    if not weights.hf_hub_id:
        return False
    files = (weights.hf_hub_filename,) if weights.hf_hub_filename else WEIGHT_FILES
    return any(isinstance(try_to_load_from_cache(weights.hf_hub_id, file), str) for file in files)
