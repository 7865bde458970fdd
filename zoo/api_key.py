"""API key of a server, given or from the environment."""

from __future__ import annotations

import os

from zoo.errors import ZooError

KEY_VARIABLE = "ZOO_API_KEY"


def check_key(text: str) -> str:
    """Return a key without white space around it, such as the newline of a file.

    Raises:
        ValueError: a key that is empty, or that no header can hold.
    """
    key = text.strip()
    if not key:
        raise ValueError("got an empty key, expected some characters")
    if not (key.isascii() and key.isprintable()):
        raise ValueError("got a key with characters that no header can hold, expected printable ASCII")
    return key


def key_of_environment() -> str | None:
    """Return the key in `ZOO_API_KEY`, None if it is unset or empty.

    Raises:
        ZooError: a key that no header can hold.
    """
    text = os.environ.get(KEY_VARIABLE, "").strip()
    try:
        return check_key(text) if text else None
    except ValueError as error:
        raise ZooError(f"{KEY_VARIABLE}: {error}") from error
