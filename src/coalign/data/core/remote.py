"""Files behind URLs, through fsspec: `s3://`, `gs://`, `hf://`, `http(s)://` and what else it knows, chains too
(`filecache::s3://…` keeps a copy on disk)."""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from coalign.errors import InputError, no_connection, redacted
from coalign.extras import optional
from coalign.files import cache_folder, replace_file

fsspec = optional("fsspec")

T = TypeVar("T")
WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try, where a connection broke or a server failed."""
READ_AHEAD = 1 << 22
"""Bytes that one request asks for where a file is read from its beginning on."""


class Unreachable(InputError):  # noqa: N818 - named for what it says
    """A file behind a URL cannot be read now: a connection that does not come back, a server that fails or refuses. It
    says nothing of what is in the file, so no sample is left out for it."""


def is_url(name: str) -> bool:
    """Whether fsspec is to read it: letters before `://`, or a chain of such with `::`."""
    return re.match(r"[A-Za-z][\w+.-]+(::[A-Za-z][\w+.-]+)*://", name) is not None


def plain(url: str) -> str:
    """The URL without what is asked of a server (`?…`), for its ending."""
    return url.partition("?")[0] if "http" in url.partition("://")[0] else url


def find(pattern: str) -> list[str]:
    """The URLs that a glob of URLs stands for, in order."""
    chain, separator, target = pattern.rpartition("::")
    system, path = _system(target)
    found: list[str] = _try(pattern, lambda: system.glob(path))
    return sorted(f"{chain}{separator}{system.unstrip_protocol(name)}" for name in found)


def describe(url: str) -> dict[str, Any]:
    """What its server says of a file: its `size`, and what changes when it is written anew."""
    system, path = _system(url)
    about: dict[str, Any] = _try(url, lambda: system.info(path))
    if not isinstance(about.get("size"), int):
        raise InputError(f"{redacted(url)}: the server does not say how long it is")
    return about


def cached(url: str, kind: str, about: dict[str, Any] | None = None) -> Path:
    """Where something made of a file is kept; another place when the file is another."""
    told = {**(about or describe(url)), "url": url}
    key = json.dumps(told, sort_keys=True, default=str)
    return cache_folder() / kind / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def read(url: str, begin: int, end: int) -> bytes:
    """The bytes from `begin` to before `end`, by one request. It is made again where a connection breaks.

    Raises:
        Unreachable: It cannot be read; the message names the URL.
    """
    system, path = _system(url)

    def ask() -> bytes:
        if "http" in system.protocol and end > begin:  # `cat_file` would hold all that comes, be it without end
            held = io.BytesIO()
            more = "the server gives no parts of files; copy the file here"
            asked = {"Range": f"bytes={begin}-{end - 1}"}
            system.get_file(path, _Limited(held, end - begin, Unreachable(f"{redacted(url)}: {more}")), headers=asked)
            found = held.getvalue()
        elif system.protocol == "hf" and end > begin:  # whose `cat_file` asks for five megabytes more
            with system.open(path, "rb", cache_type="none") as file:
                file.seek(begin)
                found = file.read(end - begin)
        else:
            found = system.cat_file(path, start=begin, end=end) if end > begin else b""
        if len(found) < end - begin:
            raise OSError(f"{len(found)} bytes of {end - begin} came")
        return found

    return _try(url, ask)


def copy(url: str) -> Path:
    """The file on this machine, fetched where it is not there yet."""
    about = describe(url)
    size: int = about["size"]
    place = cached(url, "remote", about) / plain(url).rpartition("/")[2]
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        system, path = _system(url)

        def fetch(part: Path) -> None:
            if "http" in system.protocol:
                with part.open("wb") as file:
                    system.get_file(
                        path, _Limited(file, size, InputError(f"{redacted(url)}: the server sends more than it says"))
                    )
            else:
                system.get_file(path, str(part))
            if part.stat().st_size != size:
                raise OSError(f"{part.stat().st_size} bytes of {size} came")

        replace_file(place, lambda part: _try(url, lambda: fetch(part)))
    return place


class _Limited:
    """A file to write to that takes no more than `most` bytes, whatever a server sends: then it raises `refusal`."""

    def __init__(self, file: io.BufferedIOBase, most: int, refusal: InputError) -> None:
        self.read, self.close, self.tell = file.read, file.close, file.tell  # which fsspec knows a file by
        self._file, self._most, self._refusal = file, most, refusal

    def write(self, data: bytes) -> int:
        if self.tell() + len(data) > self._most:
            raise self._refusal
        return self._file.write(data)


class Remote(io.RawIOBase):
    """A file behind a URL, for a buffer that reads ahead."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._at = url, size, 0

    def readable(self) -> bool:
        return True

    seekable = readable

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        end = min(self._at + min(len(buffer), READ_AHEAD), self._size)
        data = read(self._url, self._at, max(end, self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _system(url: str) -> tuple[Any, str]:
    """Its file system, which fsspec keeps for each process, and its name there."""
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise InputError(f"{redacted(url)}: {error}; pip install 'coalign[cloud]' brings what is usual") from error
    except ValueError as error:
        raise InputError(f"{redacted(url)}: {error}") from error


def _try(url: str, call: Callable[[], T]) -> T:
    for wait in (*WAITS, None):
        try:
            return call()
        except InputError:
            raise
        except Exception as raised:  # each file system has its own
            error = _told(raised)
            if wait is None or not _passes(error):
                said = redacted(" ".join(str(error).split()))[:300]
                mend = "; is there a connection, and is the address right?" if no_connection(error) else ""
                raise Unreachable(f"{redacted(url)}: cannot be read: {said or type(error).__name__}{mend}") from error
            time.sleep(wait)
    raise AssertionError


def _told(error: Exception) -> Exception:
    """What is behind an error that tells the address alone, as fsspec's of HTTP whatever went wrong."""
    while isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _passes(error: Exception) -> bool:
    """Whether it may go well another time."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in (408, 429)
    return not isinstance(
        error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError | ImportError
    )
