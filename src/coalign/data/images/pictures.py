"""Pictures in and out: read from whatever the user has, shrunk, embedded as `data:` URIs, written whole or not."""

import base64
from io import BytesIO
from pathlib import Path

from PIL import Image

from coalign.data.images.decode import BadSample, decode_image
from coalign.errors import InputError
from coalign.files import replacing

Picture = Image.Image | Path | str | bytes
"""A picture: in memory, the path of a file, or the bytes of a file."""


def open_picture(picture: Picture) -> Image.Image:
    """RGB, upright, transparency laid on white. Raises InputError for a file that cannot be read as a picture."""
    try:
        return decode_image(picture)
    except BadSample as error:
        if error.file:
            raise
        raise InputError(f"the picture cannot be read: {error.reason}") from error


def fit(image: Image.Image, side: int, enlarge: bool = False) -> Image.Image:
    """The picture with its longer side `side` pixels long; a smaller one is left alone unless `enlarge`."""
    scale = side / max(image.size)
    if scale >= 1 and not enlarge:
        return image
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.resize(size, Image.Resampling.LANCZOS)


def data_uri(image: Image.Image, quality: int = 82) -> str:
    """The picture as a `data:` URI (WebP)."""
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def save_picture(image: Image.Image, path: str | Path) -> Path:
    """Writes `image` in the format that the name of `path` says (.png, .jpg, .webp)."""
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise InputError(f"{path} does not end like a picture; use .png, .jpg or .webp")
    with replacing(path) as temporary:
        image.save(temporary)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Writes `text` as UTF-8."""
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
