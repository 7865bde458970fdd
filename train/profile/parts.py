"""Split of a training step into parts, with time and peak memory of each.

Every moment of a step belongs to exactly one part, so that the parts add up to the step. On a GPU, each cut
synchronizes with the device.
"""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from zoo.memory import peak_mib, reset_peak
from zoo.train.blocks.label_loss import LabelLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from zoo.train.method import Method

DATA, LOSSES, BACKWARD, OPTIMIZER, UPDATE = "data", "losses", "backward", "optimizer", "update"


class PartTimer:
    """Attributes time and peak memory to parts; does nothing while it is not running.

    Args:
        device: device of the step; a GPU is synchronized at every cut.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.running = False
        self.clear()

    def clear(self) -> None:
        """Discard all measurements."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.mib: dict[str, float] = {}

    def now(self) -> float:
        """Return the time after the device has finished all queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def begin(self) -> None:
        """Start the first part of a step."""
        self.counts_memory = reset_peak(self.device)
        self.last = self.now()

    def cut(self, part: str) -> None:
        """End a part and begin the next; reading the peak memory counts in neither."""
        if not self.running:
            return
        self.seconds[part] += self.now() - self.last
        peak = peak_mib(self.device) if self.counts_memory else None
        if peak is not None:
            self.mib[part] = max(peak, self.mib.get(part, 0.0))
        self.begin()

    def parts(self, steps: int) -> dict[str, dict[str, float | None]]:
        """Return ms per step, share of the step and peak memory of each part, in the order of a step."""
        last = (LOSSES, BACKWARD, OPTIMIZER, UPDATE)
        names = [name for name in self.seconds if name not in last] + [n for n in last if n in self.seconds]
        total = sum(self.seconds.values())
        return {
            name: {
                "ms": 1000 * self.seconds[name] / steps,
                "share": self.seconds[name] / total,
                "peak_mib": self.mib.get(name),
            }
            for name in names
        }


class Passes:
    """Hooks that attribute the calls of a method's modules to parts, named after the method's children.

    A pass is the outermost call of any module in a child of the method: a whole network, its encoder, or one
    of several decoders. A child without weights is a loss (`loss_modules`), whose gradient belongs to its
    part too; the loss of labeled images, which is called in every method, stays in the part `losses`.
    """

    def __init__(self, method: Method, watch: PartTimer) -> None:
        self.watch = watch
        self.depth = 0
        self.outermost: set[nn.Module] = set()
        self.undo: dict[nn.Module, list[Callable[[], None]]] = {}
        for name, child in method.named_children():
            if not isinstance(child, LabelLoss):
                self._follow(name, child)
        for name in loss_modules(method):
            self._follow_gradient(name, method.get_submodule(name))

    def keep_outermost(self) -> None:
        """Remove the hooks of modules that were only called inside others, as hooks take time."""
        for module in set(self.undo) - self.outermost:
            self._release(module)

    def remove(self) -> None:
        """Remove all hooks."""
        for module in list(self.undo):
            self._release(module)

    def _release(self, module: nn.Module) -> None:
        for undo in self.undo.pop(module):
            undo()

    def _follow(self, part: str, module: nn.Module) -> None:
        """Add hooks to a module and its children; compiled modules get one outside the compiled code."""
        if module in self.undo:
            return
        compiled = module._compiled_call_impl
        if compiled is not None:
            module._compiled_call_impl = partial(self._call, part, module, compiled)
            self.undo[module] = [partial(setattr, module, "_compiled_call_impl", compiled)]
            return
        handles = (
            module.register_forward_pre_hook(self._enter),
            module.register_forward_hook(partial(self._leave, part)),
        )
        self.undo[module] = [handle.remove for handle in handles]
        for child in module.children():
            self._follow(part, child)

    def _follow_gradient(self, part: str, module: nn.Module) -> None:
        """Attribute the backward pass from a module's output to its first argument to its part."""
        handles = (
            module.register_full_backward_pre_hook(lambda *_: self.watch.cut(BACKWARD)),
            module.register_full_backward_hook(lambda *_: self.watch.cut(part)),
        )
        self.undo[module] += [handle.remove for handle in handles]

    def _call(
        self, part: str, module: nn.Module, compiled: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        self._enter(module, args)
        output = compiled(*args, **kwargs)
        self._leave(part, module, args, output)
        return output

    def _enter(self, module: nn.Module, args: Any) -> None:  # noqa: ARG002
        if _in_backward():
            return
        if self.depth == 0:
            self.outermost.add(module)
            self.watch.cut(LOSSES)
        self.depth += 1

    def _leave(self, part: str, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        if _in_backward():
            return
        self.depth -= 1
        if self.depth == 0:
            self.watch.cut(part)


def _in_backward() -> bool:
    """Return whether a backward pass is running, which calls modules to recompute activations."""
    return torch._C._current_graph_task_id() != -1


def loss_modules(method: Method) -> list[str]:
    """Return the names of a method's children without weights, which compute losses."""
    return [
        name
        for name, child in method.named_children()
        if next(child.parameters(), None) is None and not isinstance(child, LabelLoss)
    ]
