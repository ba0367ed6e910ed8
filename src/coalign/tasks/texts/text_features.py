"""Vectors of texts and of words in their context, as a table: what representation studies start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from coalign.data.prepare import prepare
from coalign.data.texts.text_tables import read_texts
from coalign.errors import InputError
from coalign.files import replace_file
from coalign.retrieval.text_features import Pool, text_vectors, word_vectors
from coalign.tasks.pairs.retrieval import as_encoder, device_of, inputs_of, with_progress


def read_lines(path: str, column: str | None = None) -> list[str]:
    """The texts of a .txt file, one a line, or of a table's column.

    Raises:
        InputError: There is no such file or column, or no text in it.
    """
    if not path.lower().endswith(".txt"):
        rows = read_texts(path, text_columns=[] if column is None else [column], texts=1)
        return [row.texts[0] for row in rows.rows]
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise InputError(f"{path}: has no text in it")
    return texts


def embed_texts(
    model: Any,
    texts: Sequence[str],
    *,
    layer: int | None = None,
    pool: Pool = "model",
    words: Sequence[str] = (),
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """One row a text, with its unit vector; with `words` one an occurrence of any of them, with its state.

    Rows have `row` (the text's number from 1), `text`, `vector`; of words also `word` and `position`, its number among
    the text's words from 1.
    """
    encoder, device = as_encoder(model), device_of(model)
    _, tokenizer = inputs_of(model)
    rows: list[dict[str, Any]] = []
    starts = range(0, len(texts), batch_size)
    for start in with_progress(starts, "embedding", len(starts), True):
        some = texts[start : start + batch_size]
        batch = prepare(model, texts=some).to(device)
        if not words:
            for number, vector in enumerate(text_vectors(encoder, batch, layer, pool).float().cpu().tolist()):
                rows.append({"row": start + number + 1, "text": some[number], "vector": vector})
            continue
        split = [tokenizer.words(text) for text in some]
        for found in word_vectors(encoder, batch, split, words, layer):
            rows.append(
                {
                    "row": start + found.text + 1,
                    "text": some[found.text],
                    "word": split[found.text][found.word],
                    "position": found.word + 1,
                    "vector": found.vector.float().cpu().tolist(),
                }
            )
    return rows


def write_vectors(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows as a Parquet table, vectors as lists of float32."""
    kinds = {"row": pa.int64(), "position": pa.int64(), "vector": pa.list_(pa.float32(), len(rows[0]["vector"]))}
    schema = pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in rows[0]])
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    replace_file(path, lambda part: pq.write_table(table, part))
