"""Properties of encoders for `zoo list --encoders`, without their weights."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import PretrainedCfg

from zoo.errors import RecipeError, ZooError
from zoo.models.encoder import ENCODERS, build_encoder, size_for
from zoo.models.pretrained import packaged_origin
from zoo.models.timm_models import own_size, timm_weights
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
"""Common encoders, of 5 to 100 million parameters."""

MOST = 100
"""Maximum number of listed encoders, since each takes up to a second to build."""

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class EncoderFacts(NamedTuple):
    """Properties of one encoder."""

    name: str
    parameters: int | None
    """Number of parameters without the classifier; None for an unsupported encoder."""
    strides: tuple[int, ...]
    size: tuple[int, int] | None
    """Image size of the weights if the encoder runs at one size, which can be chosen; None if at any."""
    patch: int | None
    """Patch size of a plain transformer."""
    weights: str | None
    """Full name of the pretrained weights, of an installed package if there is one; None without any."""
    license: str | None
    """License of the weights as stated by timm or the package."""
    is_here: bool
    """Whether the weights are in an installed package or the local cache."""
    refused: str
    """Reason why the encoder is not supported; empty if it is."""


def encoder_names(pattern: str | None) -> tuple[str, ...]:
    """Return the encoder names that match a pattern such as `vit_small*`; by default `SUGGESTED`.

    Raises:
        ZooError: no name matches, or more than `MOST` do.
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
    """Return the properties of an encoder, which is built on the meta device."""
    parameters: int | None = None
    strides: tuple[int, ...] = ()
    size = None
    refused = ""
    try:
        size = None if name in ENCODERS else size_for(name, own_size(name))
        with torch.device("meta"):
            encoder = build_encoder(name, size=size)
    except RecipeError as error:
        refused = str(error)
    else:
        parameters, strides = sum(p.numel() for p in encoder.parameters()), encoder.strides
    weights = PretrainedCfg() if name in ENCODERS else timm_weights(name)
    full_name = f"{weights.architecture}.{weights.tag}" if weights.has_weights else None
    packaged = packaged_origin(name)
    return EncoderFacts(
        name=name,
        parameters=parameters,
        strides=strides,
        size=size,
        patch=strides[0] if strides and is_plain_transformer(name) else None,
        weights=packaged.name if packaged else full_name,
        license=packaged.license if packaged else weights.license,
        is_here=packaged is not None or _is_here(weights),
        refused=refused,
    )


def _is_here(weights: PretrainedCfg) -> bool:
    if not weights.hf_hub_id:
        return False
    files = (weights.hf_hub_filename,) if weights.hf_hub_filename else WEIGHT_FILES
    return any(isinstance(try_to_load_from_cache(weights.hf_hub_id, file), str) for file in files)
