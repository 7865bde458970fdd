"""Folding of BatchNorms into convolutions, before the export.

The exporter's own folding depends on its version and breaks half precision. One run of the model shows which
convolution feeds which BatchNorm, so that any timm encoder works.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from zoo.errors import ExportError
from zoo.export.parity.compare import compare_masks
from zoo.export.parity.tolerance import GATES
from zoo.models.decoders.decoder import entropy
from zoo.models.deployable import Localized

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from zoo.export.parity.tolerance import Tolerance
    from zoo.models.deployable import Deployable


class Prepared(NamedTuple):
    """Deployable that is ready for export."""

    deployable: Deployable
    """Copy of the model in evaluation mode, on the CPU, without BatchNorm."""
    fused: int
    """Number of BatchNorms that were folded into a convolution."""
    logit_difference: float
    """Largest difference of a logit from the unfused model on the sample."""


class Affine(nn.Module):
    """BatchNorm in evaluation mode that follows no convolution: a scale and a shift per channel."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        one = torch.ones(norm.num_features)
        mean = one * 0 if norm.running_mean is None else norm.running_mean
        variance = one if norm.running_var is None else norm.running_var
        scale = (one if norm.weight is None else norm.weight.detach()) * torch.rsqrt(variance + norm.eps)
        shift = (0 if norm.bias is None else norm.bias.detach()) - mean * scale
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("shift", shift.view(1, -1, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return the scaled features.

        Args:
            features: (B, C, H, W) float features.
        """
        return features * self.get_buffer("scale") + self.get_buffer("shift")


@torch.no_grad()
def prepare(deployable: Deployable, sample: Tensor, gate: Tolerance = GATES["fp32"]) -> Prepared:
    """Return a copy without BatchNorms, after comparing it with the original.

    Args:
        deployable: model to export; not changed.
        sample: (B, 3, H, W) float, normalized real images.
        gate: tolerance of the copy's masks.

    Raises:
        ExportError: a BatchNorm remains, or the copy's masks differ.
    """
    original = copy.deepcopy(deployable).cpu().eval()
    fused = copy.deepcopy(original)
    count = fuse_batch_norms(fused, sample)
    if isinstance(fused, Localized):
        logits = original(sample)
        count += fuse_batch_norms(fused.localizer, sample, entropy(logits), logits)
    left = [name for name, module in fused.named_modules() if _is_norm(module)]
    if left:
        raise ExportError(f"BatchNorm {left[0]} could not be folded, expected one that the forward pass uses")
    expected, got = original(sample), fused(sample)
    difference = compare_masks(expected.numpy(), got.argmax(dim=1).numpy())
    if not difference.passes(gate):
        raise ExportError(
            f"folding BatchNorm changed the class of {difference.differing} pixels, by up to "
            f"{difference.margin:.2g} of the logit range, expected only near ties: report the encoder "
            f"{deployable.config.networks[0].encoder}"
        )
    return Prepared(fused, count, float((expected - got).abs().max()))


def fuse_batch_norms(model: nn.Module, *sample: Tensor) -> int:
    """Replace each BatchNorm by identity, its activation or a scale and shift; return the number folded.

    Args:
        model: model in evaluation mode; changed in place.
        sample: float inputs of the one run, e.g. (B, 3, H, W).
    """
    sources = _trace(model, sample)
    names = {module: name for name, module in model.named_modules()}
    for norm in [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]:
        if norm not in sources:
            continue
        conv = sources[norm]
        if conv is None:
            _replace(model, names[norm], _with_activation(Affine(norm), norm))
            continue
        _replace(model, names[conv], fuse_conv_bn_eval(conv, norm))
        _replace(model, names[norm], _with_activation(nn.Identity(), norm))
    return sum(conv is not None for conv in sources.values())


def _trace(model: nn.Module, sample: tuple[Tensor, ...]) -> dict[nn.BatchNorm2d, nn.Conv2d | None]:
    """Return the convolution whose output only a BatchNorm takes, None if there is none, for each in use."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}  # holding the tensors keeps ids unique
    sources: dict[nn.BatchNorm2d, nn.Conv2d | None] = {}
    taken: dict[nn.BatchNorm2d, int] = {}
    uses = _Uses()

    def after_conv(conv: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        outputs[id(output)] = conv, output, output._version
        uses.counts[id(output)] = 0

    def before_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        conv, _, version = outputs.get(id(inputs[0]), (None, None, 0))
        # an in-place activation in between keeps the tensor and changes its version
        sources[norm] = conv if inputs[0]._version == version else None
        taken[norm] = id(inputs[0])

    handles: list[RemovableHandle] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_conv))
        if isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(before_norm))
    with uses:
        model(*sample)
    for handle in handles:
        handle.remove()
    # a shortcut that takes the same output must not be scaled
    return {norm: conv if uses.counts[taken[norm]] == 1 else None for norm, conv in sources.items()}


class _Uses(TorchFunctionMode):
    """Counts the functions that make tensors from each tensor, by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor | tuple | list):
            given = tree_leaves((args, kwargs))
            self.counts.update({id(each) for each in given if isinstance(each, Tensor)})
        return result


def _with_activation(first: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    """Return `first`, followed by the activation of timm's `BatchNormAct2d`, if any."""
    activation = getattr(norm, "act", None)
    return first if activation is None else nn.Sequential(first, activation)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new)
