"""Models of timm by name, with the errors that users see."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.models import PretrainedCfg, group_parameters, is_model_in_modules

from zoo.errors import RecipeError
from zoo.models.pretrained import PACKAGED, packaged_state

if TYPE_CHECKING:
    from torch import nn

    from zoo.models.pretrained import State

EXAMPLES = "resnet50, mobilenetv3_large_100, convnext_tiny, pvt_v2_b0, hrnet_w18 or vit_small_patch14_dinov2"


class UnsuitableError(RecipeError):
    """A timm model that cannot be built with the requested options."""


def create_timm(name: str, *, pretrained: bool | State, **options: Any) -> nn.Module:
    """Return a timm model.

    Args:
        name: name of the model.
        pretrained: whether to load its pretrained weights, preferably from an installed package; or other
            weights, under the names of the model.
        options: keyword arguments of `timm.create_model`.

    Raises:
        UnsuitableError: the model does not support these options.
        RecipeError: the model is unknown, or its weights are not available.
    """
    check_name(name)
    if isinstance(pretrained, bool):
        state = packaged_state(name) if pretrained else None
    else:
        state, pretrained = pretrained, True
    overlay: dict[str, Any] = {} if state is None else {"pretrained_cfg_overlay": {"state_dict": state}}
    try:
        network = timm.create_model(name, pretrained=pretrained, **overlay, **options)
    except (NotImplementedError, AssertionError, TypeError, AttributeError, KeyError) as error:
        listed = ", ".join(f"{key}={value}" for key, value in options.items())
        raise UnsuitableError(
            f"encoder {name} cannot be built with {listed} ({first_line(error)}): use one such as {EXAMPLES}"
        ) from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise RecipeError(
            f"the pretrained weights of {name} cannot be loaded ({first_line(error)}): connect to the "
            f"Hugging Face Hub (HF_ENDPOINT for a mirror, HF_HOME for a cache that holds them), or start "
            f"from random weights with --no-pretrained, which needs many more steps{_hint(name)}"
        ) from error
    if state is not None:
        for module in network.modules():  # in which timm keeps the weights once more
            getattr(module, "pretrained_cfg", {}).pop("state_dict", None)
    return network


def _hint(name: str) -> str:
    architecture = name.partition(".")[0]
    known = architecture if architecture in PACKAGED else next(iter(PACKAGED))
    return f"; {known} needs no download with the package {PACKAGED[known].package}"


def check_name(name: str) -> None:
    """Raise unless timm has a model of this name.

    Raises:
        RecipeError: it has none; the message names near ones.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=5)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise RecipeError(f"encoder {name} is unknown, expected a timm model such as resnet50{hint}")


def timm_weights(name: str) -> PretrainedCfg:
    """Return timm's description of the weights of a model; that of none if it has none."""
    return timm.get_pretrained_cfg(name) or PretrainedCfg()


def has_fixed_size(name: str) -> bool:
    """Return whether a model of timm is built for one size of images, which can be chosen."""
    return timm_weights(name).fixed_input_size


def layers_above(name: str, part: nn.Module) -> dict[str, int]:
    """Return the number of timm's layers above each parameter of a model without its head, by name.

    Args:
        name: name of the model.
        part: the model, or what `features_only` makes of it, or a module that has it as `model`.
    """
    with torch.device("meta"):
        whole: Any = timm.create_model(name)
    layers = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    layers |= {
        key.replace(".", "_", 1): layer for key, layer in layers.items()
    }  # as features_only names them
    last = max(layers.values())
    found = {}
    for key, _ in part.named_parameters():
        module, adapted, _ = key.removeprefix("model.").partition(".parametrizations.")
        found[key] = last - layers[f"{module}.weight" if adapted else module]
    return found


def own_size(name: str) -> tuple[int, int]:
    """Return the height and width of the images of a model's pretrained weights."""
    _, height, width = timm_weights(name).input_size
    return height, width


def first_line(error: Exception) -> str:
    """Return the beginning of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def apply_multi_grid(body: nn.Module, factors: tuple[int, ...], name: str) -> None:
    """Multiply the dilation of the 3x3 convolution in each block of the last ResNet stage by its factor."""
    blocks = _blocks_for(body, factors)
    if blocks is None:
        raise RecipeError(
            f"multi_grid {list(factors)} needs a bottleneck ResNet whose last stage has {len(factors)} "
            f"blocks, got {name}: leave network.multi_grid out"
        )
    dilation = blocks[-1].conv2.dilation[0]
    for block, factor in zip(blocks, factors, strict=True):
        block.conv2.dilation = (dilation * factor,) * 2
        block.conv2.padding = (dilation * factor,) * 2


def takes_multi_grid(name: str, factors: tuple[int, ...]) -> bool:
    """Return whether a model is a ResNet with one bottleneck block in its last stage for each factor."""
    if not is_model_in_modules(name, ("resnet",)):
        return False
    with torch.device("meta"):
        return _blocks_for(create_timm(name, pretrained=False), factors) is not None


def _blocks_for(body: nn.Module, factors: tuple[int, ...]) -> Any:
    """Return the bottleneck blocks of a ResNet's last stage, None unless there is one for each factor."""
    blocks = getattr(body, "layer4", None)
    is_suited = blocks is not None and len(blocks) == len(factors) and hasattr(blocks[0], "conv3")
    return blocks if is_suited else None
