"""Parsers for the options of `zoo bench`."""

from __future__ import annotations

import typer

from zoo.errors import ZooError


def parse_backends(text: str) -> tuple[str, ...]:
    """Return the backends in a comma-separated list, each once.

    Raises:
        typer.BadParameter: a backend is unknown, or the list is empty.
    """
    from zoo.serve.bench.choices import parse_choice

    names = parts_of(text)
    if not names:
        raise typer.BadParameter(
            f"{text!r} is not a list of backends, expected e.g. ort,trt:fp16", param_hint="--backends"
        )
    try:
        return tuple(dict.fromkeys(parse_choice(name).name for name in names))
    except ZooError as error:
        raise typer.BadParameter(str(error), param_hint="--backends") from error


def parse_batches(text: str) -> tuple[int, ...]:
    """Return the batch sizes in a comma-separated list, each once.

    Raises:
        typer.BadParameter: not positive numbers.
    """
    parts = parts_of(text)
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(
            f"{text!r} is not a list of batch sizes, expected e.g. 1,8", param_hint="--batch"
        )
    return tuple(dict.fromkeys(map(int, parts)))


def parts_of(text: str) -> list[str]:
    """Return the entries of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]
