"""A folder of images, each with its texts in a `.txt` or `.json` of the same name beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from coalign.data.core.columns import Pairs, PairsBuilder
from coalign.data.core.samples import texts_of
from coalign.data.pairs.tables import TEXT_COLUMNS
from coalign.errors import InputError
from coalign.files import Inside, regular

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2")
)


def read_folder(folder: Path, encoding: str | None = None) -> Pairs:
    """Reads a folder and its sub-folders, in the order of the names; hidden files are passed over.

    A `.txt` holds one text a line; a `.json` a string, a list of strings, or a record with a `text`, `caption` ... .

    Raises:
        InputError: The folder has no images, or none with a text.
    """
    builder = PairsBuilder(folder, folder)
    count, kept = 0, Inside(folder)
    for image in image_files(folder):
        count += 1
        row = image.relative_to(folder).as_posix()
        sidecar = next((side for side in map(image.with_suffix, (".txt", ".json")) if side.is_file()), None)
        if sidecar is None:
            builder.reject(row, f"no {image.stem}.txt or {image.stem}.json beside it", row)
            continue
        try:
            text, note = decode_text(regular(kept.checked(sidecar)).read_bytes(), encoding)
            texts = parse_texts(text, is_json=sidecar.suffix == ".json")
        except (InputError, ValueError, OSError, RecursionError) as error:
            builder.reject(row, f"{sidecar.name}: {error}", row)
            continue
        if note:
            builder.note(row, f"{sidecar.name}: {note}", row)
        builder.add(row, texts, row)
    if not count:
        raise InputError(f"{folder}: has no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in it")
    return builder.build()


def parse_texts(text: str, is_json: bool, keys: tuple[str, ...] = TEXT_COLUMNS) -> list[str]:
    """The texts of a sidecar: the lines that say something, or what JSON holds (of a record, the first of `keys`).

    Raises:
        ValueError: It is not JSON, or a record without any of the keys.
    """
    if not is_json:
        return [line for line in text.splitlines() if line.strip()]
    value: object = json.loads(text)
    if isinstance(value, dict):
        known_key = next((key for key in keys if key in value), None)
        if known_key is None:
            raise ValueError(f"has none of the fields {', '.join(keys)}")
        return texts_of(value[known_key])
    return texts_of(value)


def decode_text(raw: bytes, encoding: str | None = None) -> tuple[str, str]:
    """The text, and a note where it had to be read as Windows-1252.

    Raises:
        ValueError: It is neither.
    """
    if encoding is not None:
        return raw.decode(encoding), ""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16"), ""
    try:
        return raw.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        pass
    try:
        return raw.decode("cp1252"), "is not UTF-8, read as Windows-1252"
    except UnicodeDecodeError as error:
        raise ValueError("is neither UTF-8 nor Windows-1252 text") from error


def image_files(folder: Path) -> Iterator[Path]:
    """The images below a folder in the order of the names, by their endings; hidden ones are passed over.

    Raises:
        InputError: A link leads out of the folder.
    """
    kept = Inside(folder)
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in folders:
            kept.checked(Path(place, name))
        for name in sorted(files):
            file = Path(place, name)
            if not name.startswith(".") and file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
                yield kept.checked(file)
