"""Checkpoints: the resumable state of a run, in one file that is replaced atomically and contains no code.

Data positions and the random numbers of images depend on the step (`train.data.loaders`), so that only the
random state of torch is saved. It is equal in all processes of a run, which use the same seed and draw the
same numbers: all restore the state of the first.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.bundle.bundle import replacing
from zoo.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from torch.optim import Optimizer

    from zoo.train.method import Method


KEYS = {"step", "method", "optimizers", "rng", "extra"}


def save_checkpoint(
    path: Path, step: int, method: Method, optimizers: list[Optimizer], extra: dict[str, Any]
) -> None:
    """Write the state after `step` steps.

    Args:
        path: path of the checkpoint, which is replaced atomically.
        step: number of steps taken.
        method: method, with networks, teachers and buffers.
        optimizers: optimizers, with their moments.
        extra: further state: tensors, numbers, text, and lists and dicts of them.
    """
    state = {
        "step": step,
        "method": method.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "rng": _random_state(),
        "extra": extra,
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state that `save_checkpoint` wrote, on the CPU.

    Raises:
        BundleError: the file is missing or not a checkpoint.
    """
    if not path.is_file():
        raise BundleError(f"{path} does not exist, expected the checkpoint of a run: train it first")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(f"{path} is not a checkpoint ({reason}): train again") from error
    if not isinstance(state, dict) or state.keys() != KEYS:
        raise BundleError(f"{path} is not a checkpoint (of another program or version): train again")
    return state


def restore(state: dict[str, Any], method: Method, optimizers: list[Optimizer]) -> int:
    """Restore the state of a run and return the number of steps taken.

    Raises:
        BundleError: the state belongs to other networks.
    """
    try:
        method.load_state_dict(state["method"])
    except RuntimeError as error:
        raise BundleError(f"the checkpoint does not fit the recipe ({str(error).splitlines()[0]})") from error
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    torch.set_rng_state(state["rng"][0])
    if torch.cuda.is_available() and len(state["rng"]) > 1:
        torch.cuda.set_rng_state(state["rng"][1])
    return int(state["step"])


def _random_state() -> list[Tensor]:
    """Return the random state of the CPU, then of this process's GPU."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]
