"""Where the host waits for a GPU: PyTorch warns of each such call, the stack says who made it."""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TextIO

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE = "called a synchronizing CUDA operation"
"""What PyTorch says in the debug mode `warn` of `torch.cuda.set_sync_debug_mode`."""
OURS, METHODS = "zoo.", "zoo.train.methods."


class Sync(NamedTuple):
    """One wait."""

    place: str
    """`file:line` of the innermost line of this package, or of the call itself if none is on the stack."""
    in_method: bool
    """Whether a method's `forward` or hook was at work; not so in the backward pass."""


@contextmanager
def recorded_syncs() -> Iterator[list[Sync]]:
    """Collect the waits of a stretch of code on a GPU."""
    mode = torch.cuda.get_sync_debug_mode()
    with collected_warnings() as found:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def collected_warnings() -> Iterator[list[Sync]]:
    """Collect the waits that PyTorch warns of; other warnings go where they went before."""
    found: list[Sync] = []
    with warnings.catch_warnings():
        others = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if MESSAGE in str(message):
                found.append(_caller(f"{filename}:{lineno}"))
            else:
                others(message, category, filename, lineno, file, line)

        warnings.filterwarnings("always", message=f".*{MESSAGE}")
        warnings.showwarning = note
        yield found


def _caller(call: str) -> Sync:
    """Return who made the call that was just warned of."""
    frame = sys._getframe(2)
    stack = []
    while frame is not None:
        stack.append((frame.f_globals.get("__name__", ""), frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    ours = [(name, line) for name, line in stack if name.startswith(OURS)]
    place = f"{ours[0][0].replace('.', '/')}.py:{ours[0][1]}" if ours else call
    return Sync(place, any(name.startswith(METHODS) for name, _ in ours))
