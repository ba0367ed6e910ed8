"""Marks: pairs that a user finds wrong, in a new file; and the tables that follow from them."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from coalign.errors import InputError
from coalign.serve.gallery import Gallery, IndexGallery

KINDS = ("wrong", "")


class Marks:
    """The marks of one run since the server was started. The first one makes a new file in RUN/marks; each mark is a
    line of it, and an empty one takes the row's earlier mark back."""

    def __init__(self, run: Path) -> None:
        self._folder = run / "marks"
        self.file: Path | None = None
        self.by_row: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def put(self, row: int, mark: str, said: dict[str, Any]) -> None:
        """Writes a mark of a row, with what is known of it."""
        with self._lock:
            if self.file is None:
                self.file = self._new()
            line = json.dumps({"row": row, "mark": mark, **said}, ensure_ascii=False)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            self.by_row.pop(row, None)
            if mark:
                self.by_row[row] = {"row": row, "mark": mark, **said}

    def _new(self) -> Path:
        try:
            self._folder.mkdir(exist_ok=True)
            stamp = f"{datetime.now():%Y-%m-%d-%H%M%S}"
            for number in range(1000):
                path = self._folder / f"{stamp}{f'-{number}' if number else ''}.jsonl"
                try:
                    path.touch(exist_ok=False)
                except FileExistsError:
                    continue
                return path
        except OSError as error:
            raise InputError(f"{self._folder}: marks cannot be written there: {error}") from None
        raise InputError(f"{self._folder}: has too many files of this second")


def marked_table(gallery: Gallery, marks: Marks, of: Literal["kept", "marked"]) -> tuple[str, str, Iterator[bytes]]:
    """Name, media type and content of the table of the pairs that are marked, or of those that are not.

    `coalign train --data TABLE --images FOLDER` takes it: JSON lines with the pictures' full paths, which lie in the
    folder, or Parquet with the pictures themselves where they have none.
    """
    rows = [row for row in gallery.shown if (row in marks.by_row) == (of == "marked")]
    captions = _captions(gallery)
    if not rows:
        raise InputError("no pair is marked yet" if of == "marked" else "all pairs are marked")
    if all(gallery.item(row).image is not None for row in rows[:100]):
        lines = (
            (json.dumps({"image": item.image, "captions": captions(row)}, ensure_ascii=False) + "\n").encode()
            for row in rows
            if (item := gallery.item(row)).image is not None
        )
        return f"{of}.jsonl", "application/x-ndjson", lines
    table = pa.table(
        {
            "image": pa.array([_bytes(picture) for picture in gallery.pictures(rows)], pa.large_binary()),
            "captions": pa.array([captions(row) for row in rows], pa.list_(pa.string())),
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    return f"{of}.parquet", "application/vnd.apache.parquet", iter([out.getvalue()])


def _captions(gallery: Gallery) -> Callable[[int], list[str]]:
    if not isinstance(gallery, IndexGallery):

        def of_pair(row: int) -> list[str]:
            return gallery.item(row).meta.get("texts") or [gallery.item(row).text]

        return of_pair
    by_pair: dict[int, list[str]] = {}
    for row, modality in enumerate(gallery.modalities):
        if modality == "text":
            by_pair.setdefault(int(gallery.pairs[row]), []).append(gallery.item(row).text)

    def of_index(row: int) -> list[str]:
        return by_pair.get(int(gallery.pairs[row]), [gallery.item(row).text])

    return of_index


def _bytes(picture: Any) -> bytes | None:
    return picture if isinstance(picture, bytes) else None
