"""Base class of validated records, and one-line messages for invalid ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from zoo.errors import without_library

if TYPE_CHECKING:
    from pydantic import ValidationError


class Frozen(BaseModel):
    """Immutable record that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def first_fault(error: ValidationError) -> str:
    """Return the first validation error as one line: the dotted key and the message.

    Example:
        >>> from pydantic import ValidationError
        >>> class Size(Frozen):
        ...     width: int
        >>> try:
        ...     Size.model_validate({"width": "x"})
        ... except ValidationError as error:
        ...     first_fault(error)
        'width: Input should be a valid integer, unable to parse string as an integer'
    """
    fault = error.errors()[0]
    key = ".".join(map(str, fault["loc"])) or "file"
    return f"{key}: {without_library(fault['msg'])}"
