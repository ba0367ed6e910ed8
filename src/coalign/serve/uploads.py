"""The content of a request, bounded and checked: parameters, JSON, pictures. All of it stays in memory."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from typing import Any

from PIL import Image
from starlette.requests import Request

from coalign.data.images.decode import decode_image
from coalign.errors import InputError

MAX_BYTES = 20 * 2**20
"""Bytes of an uploaded picture at most."""
MAX_PIXELS = 40_000_000
MAX_TEXT = 2000
"""Characters of a text at most."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


class TooLarge(InputError):  # noqa: N818 - named for what it says
    """A request brings more than is read (status 413)."""


class Missing(InputError):  # noqa: N818 - named for what it says
    """There is nothing of that name (status 404)."""


async def read_body(request: Request, most: int = MAX_BYTES) -> bytes:
    """The body of a request. Raises `TooLarge` as soon as there is more than `most` bytes."""
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said) > most:
        raise TooLarge(f"the request has {said} bytes; at most {most} are read")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise TooLarge(f"the request has more than {most} bytes, which is as much as is read")
        parts.append(part)
    return b"".join(parts)


async def read_json(request: Request, most: int = 2 * MAX_BYTES) -> dict[str, Any]:
    """A JSON object."""
    body = await read_body(request, most)
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError("the body should be a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


def check_picture(data: bytes) -> bytes:
    """The bytes of a picture that can be decoded. To be called off the event loop.

    Raises:
        InputError: It is none, of a format that is not taken, damaged, or too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            size = opened.size
    except Exception as error:
        if isinstance(error, Image.DecompressionBombError):
            raise TooLarge("the picture has too many pixels") from None
        raise InputError(f"that is no picture that can be read; give one of {', '.join(FORMATS)}") from None
    if size[0] * size[1] > MAX_PIXELS:
        raise TooLarge(f"the picture has {size[0]} x {size[1]} pixels; at most {MAX_PIXELS} are read")
    decode_image(data, max_pixels=MAX_PIXELS)
    return data


def picture_in(value: Any) -> bytes:
    """A picture in JSON: base64, or a `data:` URI of it."""
    if not isinstance(value, str):
        raise InputError('"image" should be a picture in base64')
    text = value.partition(",")[2] if value.startswith("data:") else value
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise TooLarge(f"the picture has more than {MAX_BYTES} bytes, which is as much as is read")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError('"image" is not base64') from None


class Fields:
    """Named values of a request, each checked as it is read: a query string's, or those of a JSON object."""

    def __init__(self, values: list[tuple[str, Any]]) -> None:
        self._values = values

    @staticmethod
    def of_query(request: Request) -> Fields:
        return Fields(list(request.query_params.multi_items()))

    @staticmethod
    def of_json(value: dict[str, Any]) -> Fields:
        fields: list[tuple[str, Any]] = []
        for name, item in value.items():
            fields += [(name, one) for one in item] if isinstance(item, list) else [(name, item)]
        return Fields(fields)

    def all(self, name: str) -> list[Any]:
        return [value for own, value in self._values if own == name and value is not None]

    def one(self, name: str) -> Any:
        """The value of that name, None where there is none. Raises InputError where there are several."""
        values = self.all(name)
        if len(values) > 1:
            raise InputError(f'"{name}" is given {len(values)} times; give it once')
        return values[0] if values else None

    def texts(self, name: str) -> list[str]:
        """All texts of that name that are not blank."""
        return [text for text in (_text(name, value) for value in self.all(name)) if text]

    def text(self, name: str, default: str = "") -> str:
        value = self.one(name)
        return default if value is None else _text(name, value)

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        value = self.one(name)
        if value is None and default is not None:
            return default
        text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
        number = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None
        if number is None:
            raise InputError(f'"{name}" should be a whole number from {low} to {high}')
        if not low <= number <= high:
            raise InputError(f'"{name}" is {number}; give a whole number from {low} to {high}')
        return number

    def fraction(self, name: str) -> float:
        """A number from 0 to 1; 0 where there is none."""
        value = self.one(name)
        try:
            number = 0.0 if value is None else float(value)
        except (TypeError, ValueError):
            number = -1.0
        if not 0 <= number <= 1:
            raise InputError(f'"{name}" should be a number from 0 to 1')
        return number

    def flag(self, name: str) -> bool:
        value = self.one(name)
        said = {None: False, True: True, False: False, "1": True, "true": True, "0": False, "false": False, "": False}
        if not isinstance(value, str | bool | None) or value not in said:
            raise InputError(f'"{name}" should be 1 or 0')
        return said[value]

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        value = self.text(name, default)
        if value not in allowed:
            raise InputError(f'"{name}" is {value[:60]!r}; give one of: {", ".join(allowed)}')
        return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f'"{name}" should be a text')
    if len(value) > MAX_TEXT:
        raise TooLarge(f'"{name}" has {len(value)} characters; at most {MAX_TEXT} are read')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f'"{name}" holds half a surrogate pair, which is no text') from None
    return value.replace("\0", "").strip()
