"""The one place that turns what the user gives as an image into an RGB picture."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from coalign.errors import InputError
from coalign.files import regular

ImageLike = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any] | Tensor
"""A path, an encoded file's bytes, a PIL image, an array [H, W], [H, W, 1 | 3 | 4] or a uint8 tensor [3, H, W]."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, whatever a file's name says. Pillow knows more, of which one (EPS) starts a program."""

MAX_PIXELS = 89_478_485
"""The largest picture that is decoded unless the caller says otherwise (Pillow's own limit). Decoding takes about 10
bytes a pixel, whatever the mode: what Pillow keeps (4 at most), the RGB picture (4), and strips of `_STRIP` pixels."""
_STRIP = 1 << 20


class BadSample(InputError):  # noqa: N818 - named for what it says
    """One sample cannot be used. `reason` says why, `file` which file (empty where there is none); where this is a
    table, `row` and `image` are its row and what it says of the picture."""

    def __init__(self, reason: str, file: str = "", row: int | str | None = None, image: str = "") -> None:
        place = "" if row is None else f", row {row}{f' ({image})' if image else ''}"
        super().__init__(f"{file}{place}: {reason}" if file else reason)
        self.reason, self.file, self.row, self.image = reason, file, row, image

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str, int | str | None, str]]:
        return BadSample, (self.reason, self.file, self.row, self.image)  # the default would lose them


def decode_image(image: ImageLike, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An RGB picture, upright.

    EXIF orientation is applied; alpha (a channel, a transparent palette entry or colour) is composited on white;
    grey, 16-bit, floating-point, CMYK and other modes become 8-bit RGB; of an animation the first frame is taken.

    Args:
        image: See `ImageLike`.
        max_pixels: A picture with more pixels is refused before it is decoded. Pillow's own guard
            (`PIL.Image.MAX_IMAGE_PIXELS`, an error at twice its value) stays in force.

    Raises:
        BadSample: The file is missing, empty, no image, cut short, damaged or too large.
    """
    if isinstance(image, Tensor):
        return _from_array(image.permute(1, 2, 0).numpy(force=True) if image.dim() == 3 else image.numpy(force=True))
    if isinstance(image, np.ndarray):
        return _from_array(image)
    opened, file = _opened(image, max_pixels)
    try:
        opened.load()
        return _to_rgb(_upright(opened))
    except Exception as error:  # Pillow's decoders raise whatever the damage leads them to
        raise BadSample(f"the image is damaged: {_plain(error)}", name_of(image)) from error
    finally:
        file.close()


def check_image(image: ImageLike, *, max_pixels: int = MAX_PIXELS, thorough: bool = False) -> None:
    """Finds out whether `decode_image` would succeed, for much less.

    Reads the header and what Pillow's `verify` checks; with `thorough` the whole file is decoded as well (JPEG at an
    eighth of the size), which also finds files that are cut short.

    Raises:
        BadSample: As `decode_image`.
    """
    if isinstance(image, Tensor | np.ndarray):
        decode_image(image)
        return
    opened, file = _opened(image, max_pixels)
    try:
        if thorough or isinstance(image, Image.Image):
            opened.draft("RGB", (1, 1))
            opened.load()
        else:
            opened.verify()
    except Exception as error:
        raise BadSample(f"the image is damaged: {_plain(error)}", name_of(image)) from error
    finally:
        file.close()


def name_of(image: object) -> str:
    """The file name of an image reference, empty where it is none."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else ""


class _File(io.BufferedReader):
    """A file of which no more is asked than it has left: what a chunk claims is memory before it is read."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _STRIP:
            size = min(size, max(os.fstat(self.fileno()).st_size - self.tell(), 0))
        return super().read(size)


def _opened(
    image: str | os.PathLike[str] | bytes | Image.Image, max_pixels: int
) -> tuple[Image.Image, io.BufferedIOBase]:
    """The picture with its header read and its size found acceptable, and the file to close."""
    name = name_of(image)
    if name.startswith(("http://", "https://")):
        raise BadSample("is an address, not a file; download the images first", name)
    try:
        file = _File(regular(image)) if isinstance(image, str | os.PathLike) else io.BytesIO(_bytes_of(image))
    except InputError as error:
        reason = str(error).removeprefix(f"{name}: ")
        raise BadSample("is a folder, not an image" if "is a folder" in reason else reason, name) from error
    except OSError as error:
        raise BadSample(f"cannot be opened: {_plain(error)}", name) from error
    try:  # the caller's own picture is neither loaded nor closed
        opened = image.copy() if isinstance(image, Image.Image) else Image.open(file, formats=_formats())
        width, height = opened.size
        if width * height > max_pixels:
            raise BadSample(f"has {width} x {height} pixels, more than the limit max_pixels={max_pixels}", name)
    except Exception as error:
        empty = file.seek(0, os.SEEK_END) == 0
        file.close()
        if isinstance(error, BadSample):
            raise
        if isinstance(error, UnidentifiedImageError):
            reason = "the file is empty (0 bytes)" if empty else f"not an image of a format that is read ({_NAMES})"
        else:
            many = isinstance(error, Image.DecompressionBombError)
            reason = f"{'too many pixels' if many else 'cannot be opened'}: {_plain(error)}"
        raise BadSample(reason, name) from error
    return opened, file


def _bytes_of(image: bytes | Image.Image) -> bytes:
    return image if isinstance(image, bytes) else b""


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF beside sound pixels: the picture is taken as it is stored
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        top = max(float(np.asarray(strip).max(initial=0.0)) for _, strip in _strips(image))
        return _by_strips(image, lambda strip: _grey(np.asarray(strip), top, strip.mode.startswith("I;16")))
    if image.has_transparency_data:
        return _by_strips(image, lambda strip: _on_white(strip.convert("RGBA")))
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Rows of a picture, some at a time, with the first one's number."""
    width, height = image.size
    rows = max(1, _STRIP // max(width, 1))
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The RGB picture of what `convert` makes of some rows at a time, so that only these are held in its types."""
    out = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        out.paste(convert(strip).convert("RGB"), (0, top))
    return out


def _grey(values: npt.NDArray[Any], top: float, wide: bool) -> Image.Image:
    """8-bit grey of 16-bit, 32-bit or floating-point grey whose largest value is `top`: convert() would clip everything
    above 255."""
    x = values.astype(np.float64)
    if wide or top > 255:
        x = x / 257.0
    elif top <= 1 and values.dtype.kind == "f":
        x = x * 255.0
    return Image.fromarray(np.rint(x.clip(0, 255)).astype(np.uint8))


def _on_white(rgba: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    """RGB of an array [H, W], [H, W, 1 | 3 | 4], of bytes or of fractions in [0, 1]."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise BadSample(f"an image array is [H, W], [H, W, 3] or [H, W, 4], this one is {list(array.shape)}")
    if array.dtype.kind == "f" and float(array.min()) >= 0 and float(array.max()) <= 1:
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8:
        raise BadSample(f"an image array holds uint8, or fractions in [0, 1]; this one holds {array.dtype}")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)))


@cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


_NAMES = ", ".join(FORMATS)


def _plain(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
