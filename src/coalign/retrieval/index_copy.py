"""A small index's rows in one Arrow file beside its table: a cold search reads it at once, and needs no database.

The name of the file says which versions the table had when it was written. A table that was added to since has others,
and is read itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coalign.extras import optional
from coalign.files import regular, replace_file
from coalign.retrieval.index_folder import TABLE
from coalign.retrieval.index_rows import Similarity, schema_of

pa = optional("pyarrow")

PATTERN = f"{TABLE}-*.arrow"
ROWS, BYTES = 20_000, 1 << 26
"""The largest index that is copied."""


class Copy:
    """The rows of a table in memory, in their order."""

    def __init__(self, rows: Any) -> None:
        self.rows: Any = rows
        self.schema: Any = rows.schema
        self._modalities: list[str] = rows.column("modality").to_pylist()

    @classmethod
    def read(cls, index: Path) -> Copy | None:
        """The copy of the table as it is; None where there is none, or it cannot be read."""
        try:
            file = regular(file_of(index))
            if file.stat().st_size > 2 * BYTES:
                return None
            rows = pa.ipc.open_file(pa.py_buffer(file.read_bytes())).read_all()
            rows.validate(full=True)  # offsets could lead anywhere
            width = rows.schema.field("vector").type.list_size
            ours = width > 0 and rows.schema.equals(schema_of(width))
            whole = ours and not any(rows.column(name).null_count for name in ("row", "modality", "vector"))
        except (AttributeError, OSError, KeyError, ValueError, pa.ArrowException):
            return None
        return cls(rows) if whole else None

    def count(self, modality: str | None) -> int:
        return len(self._places(modality))

    def columns(self, names: Sequence[str], modality: str | None) -> Any:
        """Some columns of the rows of one modality, or of all."""
        chosen = self.rows.select(list(names))
        return chosen if modality is None else _taken(chosen, self._places(modality))

    def vectors(self, modality: str | None) -> Tensor:
        """[n, width]."""
        column = self.columns(["vector"], modality).column("vector").combine_chunks()
        flat = torch.from_numpy(column.flatten().to_numpy(zero_copy_only=False).copy())
        return flat.view(-1, self.schema.field("vector").type.list_size)

    def nearest(self, query: Tensor, k: int, modality: str | None, similarity: Similarity) -> list[dict[str, Any]]:
        """The `k` rows nearest to `query` [width], best first, as the table gives them, with their `_distance`."""
        vectors, places = self.vectors(modality), self._places(modality)
        scores = vectors @ query
        if similarity == "cosine":
            scores = scores / (vectors.norm(dim=1) * query.norm())
        best = scores.sort(descending=True, stable=True)
        rows = _taken(self.rows.drop_columns(["vector"]), [places[i] for i in best.indices[:k].tolist()]).to_pylist()
        scored = zip(rows, best.values[:k].tolist(), strict=True)
        return [{**row, "_distance": 1 - score} for row, score in scored]

    def thumbnails(self, rows: Sequence[int]) -> dict[int, bytes | None]:
        """The pictures by row number, None where there is none."""
        place = {row: i for i, row in enumerate(self.rows.column("row").to_pylist())}
        known = [row for row in rows if row in place]
        kept = _taken(self.rows.select(["thumbnail"]), [place[row] for row in known]).column(0).to_pylist()
        return dict(zip(known, kept, strict=True))

    def _places(self, modality: str | None) -> list[int]:
        return [i for i, name in enumerate(self._modalities) if modality is None or name == modality]


def write(index: Path, table: Any) -> None:
    """Copies the rows of a small index's table, and removes older copies."""
    files = (index / f"{TABLE}.lance" / "data").glob("**/*")
    small = table.count_rows() <= ROWS and sum(file.stat().st_size for file in files) <= 4 * BYTES  # versions and all
    rows = table.to_arrow() if small else None
    if rows is not None and rows.nbytes <= BYTES:
        rows = rows.sort_by("row")

        def save(part: Path) -> None:
            with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
                writer.write_table(rows)

        replace_file(file_of(index), save)
    remove(index, but=file_of(index))


def _taken(rows: Any, places: Sequence[int]) -> Any:
    return rows.take(pa.array(places, pa.int64()))  # a type for those of no row


def remove(index: Path, but: Path | None = None) -> None:
    """Removes copies of versions that are no more."""
    for file in index.glob(PATTERN):
        if file != but:
            file.unlink(missing_ok=True)


def file_of(index: Path) -> Path:
    """The copy of the table as it is, be it there or not."""
    versions = sorted(file.name for file in (index / f"{TABLE}.lance" / "_versions").glob("*.manifest"))
    return index / f"{TABLE}-{blake2b(' '.join(versions).encode(), digest_size=8).hexdigest()}.arrow"
