"""Tables with a column of images and columns of texts: CSV, TSV, JSONL, a JSON list of records, Parquet."""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from coalign.data.core.columns import Pairs, PairsBuilder
from coalign.data.core.samples import texts_of
from coalign.errors import InputError
from coalign.extras import optional
from coalign.files import read_json, regular

pa = optional("pyarrow")
pq = optional("pyarrow.parquet")

IMAGE_COLUMNS = (
    *("image", "image_path", "image_file", "img", "img_path", "file_name", "filename", "file_path", "filepath"),
    *("path", "file", "photo", "picture", "jpg", "png"),
)
TEXT_COLUMNS = (
    *("text", "caption", "captions", "texts", "sentence", "sentences", "title", "description"),
    *("alt_text", "alt", "raw", "txt"),
)
SPLIT_COLUMN = "split"

_ESCAPED = re.compile("[\udc80-\udcff]")
"""Bytes that are not UTF-8, as lone surrogates."""
_LOOK_AHEAD = 100  # records of a JSONL file that are looked at for its fields


class AnyOf(tuple[str, ...]):
    """Names by which a column is looked for, where its own name is not known: asked for in the place of a name."""


@dataclass(frozen=True)
class Columns:
    """Which columns to read."""

    image: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A row as it was read, or `broken`: why it could not be. `note` says what had to be mended."""

    number: int
    fields: Mapping[str, object]
    broken: str = ""
    note: str = ""


Opened = tuple[list[str], Callable[[Sequence[str]], Iterator[Row]]]
"""The names of the columns, and what reads rows with (at least) the columns it is given."""


def read_table(
    path: Path,
    *,
    image_column: str | None = None,
    text_column: str | Sequence[str] | None = None,
    images: Path | None = None,
    split: str | None = None,
    prefer: str | None = None,
    encoding: str | None = None,
) -> Pairs:
    """Reads a table; the format goes by the file's ending.

    Rows are those of `split` in the column `split`; None takes `prefer` where there is such a column, and else all.
    Image paths are relative to `images`, by default the table's folder. Text that is not UTF-8 is read as
    Windows-1252 and the row noted, unless `encoding` names the encoding of the whole file.

    Raises:
        InputError: A column is missing (the message lists those there are), or nothing is usable.
    """
    builder = PairsBuilder(path, images or path.parent, needs_text=text_column != ())
    names, rows = _READERS[path.suffix.lower()](path, encoding)
    columns = choose_columns(names, image_column, text_column, str(path))
    if split is not None and SPLIT_COLUMN not in names:
        raise InputError(f"{path}: no column {SPLIT_COLUMN!r} to look for {split!r} in; {there_are(names)}")
    if split is None and SPLIT_COLUMN in names:
        split = prefer
    wanted = [columns.image, *columns.texts, *([] if split is None else [SPLIT_COLUMN])]
    for row in rows(wanted):
        if row.broken:
            builder.reject(row.number, row.broken)
            continue
        if split is not None and row.fields.get(SPLIT_COLUMN) != split:
            continue
        missing = [name for name in (columns.image, *columns.texts) if name not in row.fields]
        if missing:
            builder.reject(row.number, f"has no field {missing[0]!r}")
            continue
        if row.note:
            builder.note(row.number, row.note, str(row.fields[columns.image]))
        texts = [text for name in columns.texts for text in texts_of(row.fields[name])]
        builder.add(image_of(row.fields[columns.image]), texts, row.number)
    return builder.build("" if split is None else f" of the split {split!r}")


def is_table(path: Path) -> bool:
    """Whether the file's ending is one of a table."""
    return path.suffix.lower() in _READERS


def open_rows(path: Path, *, encoding: str | None = None, header: bool = True, quoted: bool = True) -> Opened:
    """The columns of a table and what reads its rows.

    `header=False`: the first line is a row already, and the columns are called "1", "2" ... . `quoted=False`: quotes
    are letters like others, as in the published TSV files of text tasks.

    Raises:
        InputError: There is no such file, its ending is not that of a table, or it is empty.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not is_table(path):
        raise InputError(f"{path}: not a table; the endings are {', '.join(_READERS)}")
    if path.suffix.lower() in (".csv", ".tsv"):
        return _read_delimited(path, encoding, header=header, quoted=quoted)
    return _READERS[path.suffix.lower()](path, encoding)


def choose_columns(
    names: Sequence[str], image_column: str | None, text_column: str | Sequence[str] | None, file: str
) -> Columns:
    """The columns asked for, or those whose names say what they hold; numbered ones (caption_0 ...) all together.

    Raises:
        InputError: There is no such column, or none that is recognised.
    """
    return Columns(choose_image(names, image_column, file), choose_texts(names, text_column, file))


def choose_image(names: Sequence[str], wanted: str | None, file: str) -> str:
    """The image column; see `choose_columns`."""
    if wanted is not None:
        return column(names, wanted, file)
    found = _recognised(names, IMAGE_COLUMNS)
    if not found:
        raise InputError(f"{file}: no column is recognised as the image; {there_are(names)}; name it (image_column)")
    return found[0]


def choose_texts(names: Sequence[str], wanted: str | Sequence[str] | None, file: str) -> tuple[str, ...]:
    """The text columns; see `choose_columns`."""
    if isinstance(wanted, AnyOf):
        found = _recognised(names, wanted)
        if not found:
            raise InputError(f"{file}: no column is recognised as the {wanted[0]}; {there_are(names)}; name it")
        return found[:1]
    if wanted is not None:
        return tuple(column(names, name, file) for name in ([wanted] if isinstance(wanted, str) else wanted))
    found = _recognised(names, TEXT_COLUMNS)
    if not found:
        raise InputError(f"{file}: no column is recognised as the text; {there_are(names)}; name it (text_column)")
    return found


def image_of(value: object) -> object:
    """The path or bytes in an image field; Hugging Face tables hold a record of both."""
    if isinstance(value, Mapping):
        record = cast("Mapping[str, object]", value)
        return record.get("bytes") or record.get("path")
    return value.strip() if isinstance(value, str) else value


def column(names: Sequence[str], wanted: str, file: str) -> str:
    """The column of that name. Errors: `InputError` lists those there are."""
    if wanted not in names:
        raise InputError(f"{file}: no column {wanted!r}; {there_are(names)}")
    return wanted


def there_are(names: Sequence[str]) -> str:
    """The columns of a table, for errors."""
    return f"the columns there are: {', '.join(names)}" if names else "it has no columns"


def _recognised(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The column with the best-known name, or all columns that are that name with a number."""
    plain = {name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in names}
    for candidate in known:
        if candidate in plain:
            return (plain[candidate],)
        numbered = [name for key, name in plain.items() if re.fullmatch(rf"{candidate}_?\d+", key)]
        if numbered:
            return tuple(numbered)
    return ()


# ------------------------------------------------------------------------------------------------- delimited text
def _read_delimited(path: Path, encoding: str | None, *, header: bool = True, quoted: bool = True) -> Opened:
    lines = _lines(path, encoding)
    begin, head = next(((number, line) for number, line in enumerate(lines) if line.strip()), (0, ""))
    if not head:
        raise InputError(f"{path}: is empty")
    delimiter, lines = _delimiter(path, head), chain([head], lines)
    records = _records(lines, delimiter) if quoted else _split(lines, delimiter)
    first = next(records)
    names = [name.strip() for name in first[1] or []]
    if not header:
        names = [str(number) for number in range(1, len(names) + 1)]
        records = chain([first], records)

    def rows(_: Sequence[str]) -> Iterator[Row]:
        for number, fields in records:
            number += begin
            if fields is None:
                yield Row(number, {}, "a quote opens in this line and is not closed as it should be")
            elif len(fields) != len(names):
                mend = "; a text with the separator in it must be quoted" if quoted and len(fields) > len(names) else ""
                yield Row(
                    number, {}, f"has {len(fields)} fields, the {'header' if header else 'first'} {len(names)}{mend}"
                )
            else:
                yield _decoded(number, dict(zip(names, fields, strict=True)))

    return names, rows


def _split(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str] | None]]:
    """(line, fields) of every line that is not empty, quotes being letters like others."""
    for number, line in enumerate(lines, 1):
        if line.strip("\r\n"):
            yield number, line.rstrip("\r\n").split(delimiter)


def _lines(path: Path, encoding: str | None) -> Iterator[str]:
    """The file's lines, one by one. Bytes that are not UTF-8 come out as lone surrogates, which `_decoded` mends."""
    with regular(path).open("rb") as file:
        head = file.read(4096)
    if encoding is None and head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"  # what spreadsheets call Unicode text
    if encoding is None and head.count(0) > len(head) // 5:
        raise InputError(f"{path}: is not UTF-8 text (many NULs); name its encoding, for example encoding='utf-16-le'")
    errors = "surrogateescape" if encoding is None else "strict"
    try:
        with path.open(encoding=encoding or "utf-8-sig", errors=errors, newline="") as file:
            yield from file
    except (UnicodeError, LookupError) as error:
        raise InputError(f"{path}: cannot be read as {encoding}: {error}") from error


def _delimiter(path: Path, header: str) -> str:
    """The separator of a table: a tab in .tsv, else the commonest of the header."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    return max(",;\t|", key=header.count)


def _records(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str] | None]]:
    """(line, fields) of every record; None for a line with a quote that never closes.

    One such quote makes a plain reader take everything up to the next quote as one field. So reading is strict, and
    where it fails the line is read alone and reading begins anew after it.
    """
    rest, again, record = iter(lines), deque[str](), list[str]()

    def fed() -> Iterator[str]:
        """Lines to read again, then the others; those of a record are kept until it ends."""
        while True:
            line = again.popleft() if again else next(rest, None)
            if line is None:
                return
            record.append(line)
            yield line

    at = 1
    while True:
        reader = csv.reader(fed(), delimiter=delimiter, strict=True)
        try:
            for fields in reader:
                if fields:
                    yield at, fields
                at += len(record)
                record.clear()
            return
        except csv.Error:
            yield at, _one_line(record[0], delimiter)
            at += 1
            again.extendleft(reversed(record[1:]))
            record.clear()


def _one_line(line: str, delimiter: str) -> list[str] | None:
    """A line that strict reading refused: None when a quote stays open, else what lenient reading makes of it."""
    try:
        next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error:
        return None


def _decoded(number: int, fields: dict[str, str]) -> Row:
    """The row with bytes that are not UTF-8 read as Windows-1252, and a note of it."""
    broken = [name for name, value in fields.items() if not value.isascii() and _ESCAPED.search(value)]
    if not broken:
        return Row(number, fields)
    try:
        for name in broken:
            fields[name] = fields[name].encode("utf-8", "surrogateescape").decode("cp1252")
    except UnicodeDecodeError:
        return Row(number, {}, f"{broken[0]!r} is neither UTF-8 nor Windows-1252 text")
    return Row(number, fields, note=f"{broken[0]!r} is not UTF-8, read as Windows-1252")


# ------------------------------------------------------------------------------------------------------------ JSON
def _read_jsonl(path: Path, encoding: str | None) -> Opened:
    lines = _lines(path, encoding)
    return _with_names(_parsed(number, line) for number, line in enumerate(lines, 1) if line.strip())


def _parsed(number: int, line: str) -> Row:
    decoded = _decoded(number, {"the line": line})
    if decoded.broken:
        return decoded
    try:
        record: object = json.loads(str(decoded.fields["the line"]))
    except (ValueError, RecursionError) as error:
        return Row(number, {}, f"is not JSON: {error}")
    return _record(number, record, decoded.note)


def _read_json(path: Path, encoding: str | None) -> Opened:
    document = read_json(path, encoding)
    if not isinstance(document, list):
        raise InputError(f"{path}: expected a list of records, COCO captions or a Karpathy split")
    records = cast("list[object]", document)
    return _with_names(_record(number, record) for number, record in enumerate(records, 1))


def _record(number: int, record: object, note: str = "") -> Row:
    if not isinstance(record, dict):
        return Row(number, {}, f"is a {type(record).__name__}, not a record of named fields")
    return Row(number, cast("dict[str, object]", record), note=note)


def _with_names(rows: Iterable[Row]) -> Opened:
    """The fields of the first records, and all rows."""
    rest = iter(rows)
    head = list(islice(rest, _LOOK_AHEAD))
    names = dict.fromkeys(name for row in head for name in row.fields)
    return list(names), lambda _: chain(head, rest)


# --------------------------------------------------------------------------------------------------------- Parquet
def _read_parquet(path: Path, _: str | None) -> Opened:
    try:
        file = pq.ParquetFile(regular(path))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: is no Parquet table: {error}") from error

    def rows(columns: Sequence[str]) -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=1024, columns=list(dict.fromkeys(columns))):
                yield from _records_of(number + 1, batch)
                number += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: is damaged after row {number}: {error}") from error

    return list(file.schema_arrow.names), rows


def _records_of(first: int, batch: Any) -> Iterator[Row]:
    """The rows of a batch, the first of which has this number: value by value where one of them cannot be read, such as
    a text that is no UTF-8, so that it costs its row alone."""
    try:
        records: list[dict[str, Any]] = batch.to_pylist()
    except (ValueError, OverflowError):
        yield from (_record_of(first + row, batch, row) for row in range(len(batch)))
    else:
        yield from (Row(number, record) for number, record in enumerate(records, first))


def _record_of(number: int, batch: Any, row: int) -> Row:
    try:
        names: list[str] = batch.schema.names
        return Row(number, {name: batch.column(place)[row].as_py() for place, name in enumerate(names)})
    except (ValueError, OverflowError) as error:  # UnicodeDecodeError is one
        return Row(number, {}, f"cannot be read: {error}")


_READERS: dict[str, Callable[[Path, str | None], Opened]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
