"""Errors that speak to the user, and text of other people where it is shown to them."""

import re
from collections.abc import Mapping
from typing import Any, cast

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ENDS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")

_SECRETS = (
    re.compile(r"([A-Za-z][\w+.-]*://)(?:[^\s/@'\"]*|[^\s/@:'\"]*:[^\s@'\"]*)@"),  # AWS' keys have slashes
    re.compile(r"([A-Za-z][\w+.-]*://[^\s?'\"]*\?)[^\s='\"]+=[^\s'\"]*[^\s'\":;,.)]"),
)


def visible(text: str) -> str:
    """The text with what a terminal would obey, and what turns the direction of writing, as escapes: "\\x1b[31m"; URLs
    without what is secret (`redacted`).

    Line ends and tabs stay.
    """
    return _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], redacted(text))


def in_a_line(text: str) -> str:
    """The text without ends of lines, after which it could pass for another line of ours: "\\n"."""
    return _ENDS.sub(lambda match: ascii(match[0])[1:-1], text)


def redacted(text: str) -> str:
    """The text, in whose URLs *** stands for who asks (user:password@, key:secret@) and for what is asked of the server
    (?name=value, in which signed URLs have their signature)."""
    if "://" not in text:
        return text
    user, query = _SECRETS
    return query.sub(r"\1***", user.sub(r"\1***@", text))


def without_secrets(value: Any) -> Any:
    """JSON in whose texts URLs are `redacted`."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {name: without_secrets(part) for name, part in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [without_secrets(part) for part in cast("list[Any]", value)]
    return value


class InputError(ValueError):
    """Something the user gave is wrong. The message names the file, row or field and how to mend it.

    The command line prints it as one line and exits with status 2.
    """


class WriteError(InputError, OSError):
    """Something cannot be written: a full disk, a folder of somebody else. The message names the place."""


def no_connection(error: BaseException) -> bool:
    """Whether a server was not reached at all, as far as the error or one of those behind it tells."""
    seen: BaseException | None = error
    for _ in range(9):
        if seen is None:
            break
        kind = type(seen).__name__
        if isinstance(seen, ConnectionError | TimeoutError) or "Connect" in kind or "name resolution" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
