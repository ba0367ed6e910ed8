"""Documents, one after the other, from what people have on disk. A corpus need not fit into memory.

* a folder: each .txt below it is a document, in the order of their names;
* a .txt file: documents with blank lines between them (one sentence a line, as BERT's, or not);
* a table (.jsonl, .csv, .tsv, .json, .parquet): its text column, a document a row; .jsonl is streamed;
* what `datasets` saved, or the name of a data set, which is streamed;
* `wiki`: the Wikipedia leads of the extra of that name, whose splits are train, dev and test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

from coalign.data.core.fingerprint import Fingerprint, digest
from coalign.data.core.samples import texts_of
from coalign.data.pairs import hub
from coalign.data.pairs.tables import choose_texts, is_table, open_rows
from coalign.data.texts import wiki
from coalign.errors import InputError
from coalign.files import guarded, inside, reader, regular


@dataclass(frozen=True)
class Documents:
    """The documents of a corpus, lines and all. Every iteration reads it anew; empty documents are left out."""

    name: str
    read: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        documents = self.read()
        while True:
            with guarded(self.name):
                document = next(documents, None)
            if document is None:
                return
            if document.strip():
                yield document.strip()

    def fingerprint(self, first: int = 256) -> Fingerprint:
        """A digest of the `first` documents and the bytes of the file, or of a folder's files of text (a run may lie in
        the same folder, and grows)."""
        path, facts = Path(self.name), {"content": digest(list(islice(iter(self), first)))}
        if not path.exists():
            return facts
        files = (
            [path]
            if path.is_file()
            else [file for file in path.rglob("*") if file.suffix in (".txt", ".arrow") and file.is_file()]
        )
        return {**facts, "bytes": sum(file.stat().st_size for file in files)}


@reader
def open_documents(
    data: str | Path, *, text_column: str | None = None, split: str | None = None, encoding: str | None = None
) -> Documents:
    """Opens a corpus of one of the kinds above.

    Args:
        data: The folder, file or name.
        text_column: Of a table or data set; found by its name where it is not given.
        split: Of data with splits, the one to read; None takes train.
        encoding: Of text files that are not UTF-8.

    Raises:
        InputError: There is no such file or column, or not one document.
    """
    documents = Documents(str(data), _reader(str(data), Path(data), text_column, split, encoding))
    if next(iter(documents), None) is None:
        raise InputError(f"{data}: no document in it: put text into it, with blank lines between documents")
    return documents


def _reader(
    name: str, path: Path, text_column: str | None, split: str | None, encoding: str | None
) -> Callable[[], Iterator[str]]:
    if path.is_dir() and not hub.is_saved(path):
        files = inside(path, sorted(path.rglob("*.txt")))
        if not files:
            raise InputError(f"{path}: no .txt files below this folder")
        return lambda: ("".join(_lines(file, encoding)) for file in files)
    if path.is_file() and not is_table(path):
        return lambda: _between_blank_lines(path, encoding)
    if name == "wiki" and not path.exists():
        return lambda: (lead.text for lead in wiki.leads(split or "train"))
    if path.suffix.lower() == ".jsonl":
        return lambda: _of_rows(name, _records(path, encoding), text_column, split)
    if path.is_file():
        return lambda: _of_table(path, text_column, split, encoding)
    names, records = hub.open_rows(name, split=split, prefer="train", streaming=True)
    (column, *_) = choose_texts(names, text_column, name)
    return lambda: (text for record in records for text in texts_of(record[column]))


def _of_table(path: Path, text_column: str | None, split: str | None, encoding: str | None) -> Iterator[str]:
    names, rows = open_rows(path, encoding=encoding)
    fields = (row.fields for row in rows(names) if not row.broken)
    yield from _of_rows(str(path), fields, text_column, split)


def _of_rows(
    name: str, rows: Iterable[Mapping[str, object]], text_column: str | None, split: str | None
) -> Iterator[str]:
    column: str | None = None
    for row in rows:
        if column is None:
            (column, *_) = choose_texts(list(row), text_column, name)
            if split is not None and "split" not in row:
                raise InputError(f"{name}: no column 'split' to look for {split!r} in")
        if split is None or row.get("split") == split:
            yield from texts_of(row.get(column))


def _records(file: Path, encoding: str | None) -> Iterator[dict[str, object]]:
    """The objects of a JSONL file, a line at a time; a line that is a text alone counts as its field `text`."""
    for number, line in enumerate(_lines(file, encoding), 1):
        if not line.strip():
            continue
        try:
            record: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}: line {number} is not JSON: {error}") from error
        yield cast("dict[str, object]", record) if isinstance(record, dict) else {"text": record}


def _lines(file: Path, encoding: str | None) -> Iterator[str]:
    try:
        with regular(file).open(encoding=encoding or "utf-8-sig") as lines:
            yield from lines
    except (OSError, UnicodeError, LookupError) as error:
        raise InputError(f"{file}: cannot be read as text in {encoding or 'UTF-8'}: {error}") from error


def _between_blank_lines(file: Path, encoding: str | None) -> Iterator[str]:
    kept: list[str] = []
    for line in _lines(file, encoding):
        if line.strip():
            kept.append(line)
        elif kept:
            yield "".join(kept)
            kept = []
    yield "".join(kept)
