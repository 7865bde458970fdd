"""Base of validated records, and what is wrong with an invalid one as one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from zoo.errors import without_library

if TYPE_CHECKING:
    from pydantic import ValidationError


class Frozen(BaseModel):
    """A record that cannot be changed and takes no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def first_fault(error: ValidationError) -> str:
    """Return the first fault of a record: the dotted key and what is wrong there.

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
