"""Vectors of a corpus, of texts or of words as a Parquet table."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from coalign.extras import optional
from coalign.files import guarded, regular, replace_file, replacing
from coalign.retrieval.embed import Entry

pa = optional("pyarrow")
pq = optional("pyarrow.parquet")

ABOUT = b"coalign"
"""The key of a file's own description among the metadata of its schema."""


class VectorTable:
    """A store that fills a Parquet table, one row an image or text: modality, text, image, meta (JSON), vector; with
    `thumbnail` where the schema has it."""

    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer = writer
        self._schema = schema
        self._counts: dict[str, int] = {}

    def count(self, modality: str | None = None) -> int:
        return sum(self._counts.values()) if modality is None else self._counts.get(modality, 0)

    def append(self, vectors: Tensor, entries: Sequence[Entry], modality: str) -> None:
        rows = [
            {
                "modality": modality,
                "text": e.text,
                "image": e.image,
                "thumbnail": e.thumbnail,
                "meta": json.dumps(e.meta),
                "vector": v,
            }
            for e, v in zip(entries, vectors.numpy(), strict=True)
        ]
        self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))
        self._counts[modality] = self._counts.get(modality, 0) + len(rows)


@contextmanager
def vector_table(
    path: Path, width: int, *, thumbnails: bool = False, about: Mapping[str, Any] | None = None
) -> Generator[VectorTable]:
    """A table of vectors of `width` dimensions that gets the name `path` when it is whole, and has `about` (JSON)."""
    schema = table_schema(width, thumbnails)
    if about is not None:
        schema = schema.with_metadata({ABOUT: json.dumps(dict(about)).encode()})
    with replacing(path) as part, pq.ParquetWriter(part, schema, write_page_checksum=True) as writer:
        yield VectorTable(writer, schema)


def table_schema(width: int, thumbnails: bool = False) -> Any:
    strings = [pa.field(name, pa.string()) for name in ("modality", "text", "image", "meta")]
    pictures = [pa.field("thumbnail", pa.binary())] if thumbnails else []
    return pa.schema([*strings, *pictures, pa.field("vector", pa.list_(pa.float32(), width))])


def join_tables(path: Path, parts: Sequence[Path], about: Mapping[str, Any]) -> int:
    """The tables of vectors end to end as one that keeps `about` (JSON) and no thumbnails; returns its rows' number."""
    names = ["modality", "text", "image", "meta", "vector"]
    with guarded(parts[0]):
        schema = pa.schema([pq.read_schema(regular(parts[0])).field(name) for name in names])
    schema = schema.with_metadata({ABOUT: json.dumps(dict(about)).encode()})
    rows = 0
    with replacing(path) as whole, pq.ParquetWriter(whole, schema, write_page_checksum=True) as writer:
        for part in parts:
            for batch in batches_of(part, schema):
                writer.write_batch(batch)
                rows += batch.num_rows
    return rows


def batches_of(table: Path, schema: Any) -> Generator[Any]:
    """The columns of a schema of a table's rows, some at a time. Errors: `InputError` where the table is damaged, which
    the checksums of its pages tell, or lacks one."""
    with guarded(table), pq.ParquetFile(regular(table), page_checksum_verification=True) as file:
        for batch in file.iter_batches(columns=schema.names):
            yield batch.select(schema.names).cast(schema)


def write_vectors(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows as a Parquet table, vectors as lists of float32."""
    kinds = {"row": pa.int64(), "position": pa.int64(), "vector": pa.list_(pa.float32(), len(rows[0]["vector"]))}
    schema = pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in rows[0]])
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    replace_file(path, lambda part: pq.write_table(table, part))
