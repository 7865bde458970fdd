"""The image of a request: its whole body, or the one file of a form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from zoo.serve.server.errors import UnsupportedFormatError
from zoo.serve.server.problems import BadRequestError

if TYPE_CHECKING:
    from starlette.requests import Request

FORM = "multipart/form-data"

HOW = "send the image as the body (curl --data-binary @FILE) or as one file of a form (curl -F image=@FILE)"

MAX_FILES, MAX_FIELDS = 2, 8


class MemoryFormParser(MultiPartParser):
    """Keeps files in memory, whose size is limited already: nothing of a request is written to disk."""

    spool_max_size = 0  # of SpooledTemporaryFile: no size is too large


async def image_bytes(request: Request) -> bytes:
    """Return the bytes of the image that a request carries.

    Raises:
        UnsupportedFormatError: JSON, or another kind of multipart than a form.
        BadRequestError: a form of no file, or of several.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == FORM:
        return await _only_file(request)
    if content_type.startswith("multipart/") or content_type.endswith(("/json", "+json")):
        raise UnsupportedFormatError(f"got {content_type[:80]}, expected an image or {FORM}: {HOW}")
    return await request.body()


async def _only_file(request: Request) -> bytes:
    parser = MemoryFormParser(request.headers, request.stream(), max_files=MAX_FILES, max_fields=MAX_FIELDS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadRequestError(f"got a form that cannot be read ({error.message}): {HOW}") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    try:
        if len(files) != 1:
            raise BadRequestError(f"got a form with {len(files) or 'no'} files, expected one: {HOW}")
        return await files[0].read()
    finally:
        await form.close()
