"""Pictures in a grid with captions and scores, as one image. Pillow alone; no font has to be installed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from coalign.data.images.pictures import Picture, fit, open_picture
from coalign.errors import InputError, visible

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER, INK = (255, 255, 255), (32, 33, 36)
RIGHT, WRONG = (30, 142, 62), (197, 57, 41)
MARGIN = 12
CAPTION_LINES = 2


@dataclass(frozen=True)
class Cell:
    """One picture with its caption. `score` is written before the caption; `right` draws a green frame (true) or a
    red one (false), None draws none."""

    picture: Picture
    caption: str = ""
    score: float | None = None
    right: bool | None = None


def contact_sheet(
    cells: Sequence[Cell], columns: int | None = None, size: int = 160, title: str | None = None
) -> Image.Image:
    """A sheet of all `cells` in reading order.

    Each picture is fitted into `size` by `size` pixels without distortion; a caption takes up to two lines and is cut
    off with an ellipsis. `columns` defaults to about the square root of their number, at most 8; `title` takes one
    line above.
    """
    if not cells:
        raise InputError("a contact sheet needs at least one picture")
    across = min(columns or min(isqrt(len(cells) - 1) + 1, 8), len(cells))
    rows = -(-len(cells) // across)
    line = max(size // 9, 12)
    pictures = [fit(open_picture(cell.picture), size, enlarge=True) for cell in cells]
    captions = [_caption(cell, size, line) for cell in cells]
    tall = max(picture.height for picture in pictures)
    foot = max(len(caption) for caption in captions) * _leading(line) + MARGIN // 2
    head = _leading(line) + MARGIN if title else 0
    step_x, step_y = size + MARGIN, tall + foot + MARGIN
    sheet = Image.new("RGB", (MARGIN + across * step_x, MARGIN + head + rows * step_y), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        heading = wrap(visible(title), font(title, line + 2), across * step_x - MARGIN, 1)
        _write(draw, (MARGIN, MARGIN // 2 + 2), heading, font(title, line + 2), line)
    for number, (cell, picture, caption) in enumerate(zip(cells, pictures, captions, strict=True)):
        x, y = MARGIN + number % across * step_x, MARGIN + head + number // across * step_y
        sheet.paste(picture, (x + (size - picture.width) // 2, y + (tall - picture.height) // 2))
        if cell.right is not None:
            frame = (x - 3, y - 3, x + size + 2, y + tall + 2)
            draw.rectangle(frame, outline=RIGHT if cell.right else WRONG, width=3)
        _write(draw, (x, y + tall + MARGIN // 2), caption, font(cell.caption, line), line)
    return sheet


def _caption(cell: Cell, width: int, line: int) -> list[str]:
    score = "" if cell.score is None else f"{cell.score:.3f} "
    return wrap(score + visible(cell.caption), font(cell.caption, line), width, CAPTION_LINES)


def _leading(size: int) -> int:
    return round(size * 1.3)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], chosen: Font, size: int) -> None:
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * _leading(size)), line, fill=INK, font=chosen)


def wrap(text: str, chosen: Font, width: int, lines: int) -> list[str]:
    """`text` in at most `lines` lines of `width` pixels, broken at spaces, within a word only where it is too long
    by itself, and ended with an ellipsis where it does not fit."""
    out: list[str] = []
    rest = " ".join(text.split())
    while rest and len(out) < lines:
        if chosen.getlength(rest) <= width:
            return [*out, rest]
        last = len(out) == lines - 1
        fitting = _fitting(rest + " ", chosen, width - (chosen.getlength("…") if last else 0.0))
        space = rest.rfind(" ", 0, fitting + 1)
        cut = space if space > 0 and not last else fitting
        out.append(rest[:cut].rstrip() + ("…" if last else ""))
        rest = rest[cut:].lstrip()
    return out


def _fitting(text: str, chosen: Font, width: float) -> int:
    """How many characters of `text` fit into `width` pixels; at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if chosen.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def font(text: str, size: int) -> Font:
    """Pillow's own typeface; for text beyond Western European letters the wider DejaVu Sans that matplotlib brings."""
    wide = any(
        ord(letter) > 0xFF and not 0x2010 <= ord(letter) <= 0x2026 for letter in text
    )  # dashes, quotes, ellipsis
    return _font(wide, size)


@lru_cache(maxsize=32)
def _font(wide: bool, size: int) -> Font:
    if wide:
        import matplotlib  # not needed by sheets without such text

        return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
    return ImageFont.load_default(size)
