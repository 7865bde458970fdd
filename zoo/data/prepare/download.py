"""Download of large files: resumed after failures, and given its name only when complete."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from typing import TYPE_CHECKING, NamedTuple

import httpx2

from zoo.errors import DatasetError
from zoo.faults import is_full_disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Report = Callable[[str, int, int | None], None]

TIMEOUT = httpx2.Timeout(60.0, connect=20.0)
CHUNK_BYTES = 1 << 20
TRIES = 5
"""Number of consecutive attempts without progress before the download fails."""

PAUSE_S = 2.0
"""Pause after the first attempt without progress; it doubles each time."""


class Checksums(NamedTuple):
    """Checksums of a file, hexadecimal."""

    md5: str
    sha256: str


class _TryAgainError(Exception):
    """A failure that may be temporary."""


def download(url: str, path: Path, report: Report, *, pause_s: float = PAUSE_S) -> None:
    """Download a file; a partial download is kept as `path` with `.part` added, and resumed.

    Args:
        url: http or https URL.
        path: path of the complete file.
        report: called with a description, the bytes done, and the total, None if unknown.
        pause_s: pause after the first attempt without progress (`PAUSE_S`).

    Raises:
        DatasetError: the server rejects the request or fails repeatedly, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    failures = 0
    with httpx2.Client(follow_redirects=True, timeout=TIMEOUT) as client:
        while True:
            before = _size(part)
            try:
                _fetch_rest(client, url, part, report)
                break
            except (httpx2.TransportError, _TryAgainError) as error:
                failures = 0 if _size(part) > before else failures + 1
                if failures >= TRIES:
                    raise DatasetError(
                        f"{url}: got no more after {_size(part):,} bytes ({error or type(error).__name__}), "
                        f"expected the whole file: run the command again later, it resumes from there"
                    ) from error
                if failures:
                    time.sleep(pause_s * 2 ** (failures - 1))
            except (httpx2.RequestError, httpx2.InvalidURL) as error:
                raise DatasetError(
                    f"{url}: got {error}, expected an address that leads to a file: correct it"
                ) from error
            except OSError as error:
                raise _cannot_write(part, error) from error
    part.replace(path)


def sums_of(path: Path, report: Report) -> Checksums:
    """Return the checksums of a file."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    size, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            md5.update(chunk)
            sha256.update(chunk)
            done += len(chunk)
            report(f"checking {path.name}", done, size)
    return Checksums(md5.hexdigest(), sha256.hexdigest())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch_rest(client: httpx2.Client, url: str, part: Path, report: Report) -> None:
    """Append the missing bytes to a partial file."""
    begin = _size(part)
    # a compressed response could not be resumed
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begin}-"} if begin else {})
    with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == httpx2.codes.RANGE_NOT_SATISFIABLE:
            if answer.headers.get("Content-Range") == f"bytes */{begin}":
                return  # already complete
            part.unlink(missing_ok=True)
            raise _TryAgainError("the server has another file than before")
        _check_status(answer, url)
        begin = _begin(answer, begin)
        length = answer.headers.get("Content-Length")
        total = begin + int(length) if length else None
        _check_room(part, total, begin)
        with part.open("ab" if begin else "wb") as file:
            done = begin
            for chunk in answer.iter_raw():
                file.write(chunk)
                done += len(chunk)
                report(f"downloading {part.stem}", done, total)
    if total is not None and done < total:
        raise _TryAgainError(f"the connection ended at {done:,} of {total:,} bytes")


def _check_status(answer: httpx2.Response, url: str) -> None:
    if answer.is_server_error or answer.status_code == httpx2.codes.TOO_MANY_REQUESTS:
        raise _TryAgainError(f"HTTP {answer.status_code}")
    if not answer.is_success:
        raise DatasetError(
            f"{url}: got HTTP {answer.status_code}, expected the file: fetch it with a browser and give its "
            f"folder with --from"
        )


def _begin(answer: httpx2.Response, asked: int) -> int:
    """Return the offset of the response's first byte in the file: 0 if the server does not support ranges."""
    if answer.status_code != httpx2.codes.PARTIAL_CONTENT:
        return 0
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != asked:
        raise _TryAgainError(f"the server sent {answer.headers.get('Content-Range')}, not from {asked}")
    return asked


def _check_room(part: Path, total: int | None, begin: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - begin > free:
        raise DatasetError(
            f"{part.parent}: got {free / 1e9:.1f} GB of free space, expected {(total - begin) / 1e9:.1f} GB "
            f"for the rest of {part.stem}: make room or choose another folder"
        )


def _cannot_write(part: Path, error: OSError) -> DatasetError:
    if is_full_disk(error):
        return DatasetError(
            f"{part}: got a full disk or quota after {_size(part):,} bytes ({error.strerror}), expected room "
            f"for the whole file: make room and run the command again, it goes on from there"
        )
    return DatasetError(
        f"{part}: got {error}, expected a file that can be written: check the folder's rights"
    )
