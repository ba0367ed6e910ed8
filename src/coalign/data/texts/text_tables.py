"""Rows of one text or of two with a label: GLUE's TSV files, and any table with such columns.

The layouts of the published files (Wang et al. 2019, GLUE) are recognised by their headers; CoLA's training file, which
has none, by its four fields. In a .tsv file quotes are letters like others, as all published ones have it; a .csv file
quotes a text that holds the separator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coalign.data.core.samples import Problem, Where, clean_texts
from coalign.data.pairs.hub import is_saved
from coalign.data.pairs.hub import open_rows as open_hub_rows
from coalign.data.pairs.tables import Opened, Row, column, is_table, open_rows, there_are
from coalign.errors import InputError
from coalign.files import read_text, reader

PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("#1 String", "#2 String"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
)
SINGLE_COLUMNS = ("sentence", "text", "content", "review", "tweet", "message", "title", "question", "utterance")
LABEL_COLUMNS = (
    *("gold_label", "label", "labels", "is_duplicate", "Quality", "score", "similarity", "class", "category"),
    *("target", "sentiment", "topic", "intent", "tag", "stars", "rating"),
)
ID_COLUMNS = ("index", "id", "idx", "pairID", "guid")
NO_LABEL = ("", "-")
"""The mark where annotators found no common label (SNLI, MNLI), or a test file has none."""


@dataclass(frozen=True)
class TextRow:
    """One text, or two; its label as the file writes it, None where it has none; `id` is the file's, or the row."""

    texts: tuple[str, ...]
    label: str | None
    where: Where
    id: str


@dataclass(frozen=True)
class TextRows:
    """The rows of a file. `problems`: rows that were left out, and why; `label_column` None where there is none."""

    name: str
    rows: tuple[TextRow, ...]
    text_columns: tuple[str, ...]
    label_column: str | None
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)


@reader
def read_texts(
    data: str | Path,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    texts: int | None = None,
    split: str | None = None,
    prefer: str | None = None,
    need_labels: bool = False,
    encoding: str | None = None,
) -> TextRows:
    """Reads a table (.csv, .tsv, .jsonl, .json, .parquet), a folder that `datasets` saved, or a `datasets` name.

    Args:
        data: The file, folder or name.
        text_columns: One column or two; found by their names where they are not given. Numbers ("2") mean columns of
            a file without a header, the first being 1.
        label_column: Likewise.
        texts: 1 or 2 where the columns of a file could be both; None takes a pair where there is one.
        split, prefer: Of data with splits, the one to take, or to take if there is one.
        need_labels: Leave rows out that have no label, and refuse a file without such a column.
        encoding: The encoding of a text file that is not UTF-8.

    Raises:
        InputError: There is no such file or column (the message lists those there are), or no row is usable.
    """
    name = str(data)
    names, rows = _open(
        data, [*text_columns, *([] if label_column is None else [label_column])], split, prefer, encoding
    )
    chosen = _text_columns(names, text_columns, texts, name)
    label = _label_column(names, label_column, chosen, name, need_labels)
    key = next((column for column in ID_COLUMNS if column in names), None)
    kept: list[TextRow] = []
    problems: list[Problem] = []
    for row in rows:
        where = Where(name, row.number)
        problem = row.broken or _missing(row.fields, [*chosen, *([label] if label and need_labels else [])])
        parts = () if problem else tuple(" ".join(clean_texts([as_text(row.fields[column])])) for column in chosen)
        if not problem and not all(parts):
            problem = f"{chosen[parts.index('')]!r} is empty"
        value = None if label is None else as_text(row.fields.get(label)).strip()
        value = None if value in NO_LABEL else value
        if not problem and need_labels and value is None:
            problem = f"{label!r} has no label"
        if problem:
            problems.append(Problem(where, problem))
            continue
        identity = as_text(row.fields.get(key)) if key else ""
        kept.append(TextRow(parts, value, where, identity or str(row.number)))
    if not kept:
        raise InputError(f"{name}: no row is usable{f'; the first: {problems[0]}' if problems else ''}")
    return TextRows(name, tuple(kept), chosen, label, tuple(problems))


def as_text(value: object) -> str:
    """A field as text: numbers that are whole without a point, None as ""."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


# ---------------------------------------------------------------------------------------------------------- labels
def label_names(rows: Iterable[TextRow]) -> tuple[str, ...]:
    """The labels there are, in the order of their numbers or letters: a label's class is its place.

    Raises:
        InputError: There are fewer than two, so that nothing can be learned.
    """
    labels = {row.label for row in rows if row.label is not None}
    if len(labels) < 2:
        raise InputError(f"a classifier needs at least two labels, the data has {', '.join(sorted(labels)) or 'none'}")
    try:
        return tuple(sorted(labels, key=float))
    except ValueError:
        return tuple(sorted(labels))


def class_of(label: str, names: Sequence[str], where: Where) -> int:
    """The class of a label. Raises InputError that lists the labels there are."""
    if label not in names:
        raise InputError(f"{where}: label {label!r} is not in the set that the model knows: {listed(names)}")
    return names.index(label)


def score_of(label: str, where: Where) -> float:
    """The number of a score."""
    try:
        return float(label)
    except ValueError:
        raise InputError(f"{where}: {label!r} is no number; scores are (for classes leave out --regression)") from None


def listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" ... ({len(names)} in all)" if len(names) > most else "")


# ----------------------------------------------------------------------------------------------------------- columns
def read_rows(
    data: str | Path,
    numbered: bool = False,
    *,
    split: str | None = None,
    prefer: str | None = None,
    encoding: str | None = None,
) -> tuple[list[str], Iterable[Row]]:
    """Columns and rows of a file or of a data set; `numbered` is a file without a header."""
    path = Path(data)
    if path.is_file() or (is_table(path) and not is_saved(path)):
        quoted = path.suffix.lower() != ".tsv"
        names, read = open_rows(path, encoding=encoding, quoted=quoted, header=not numbered)
        if _is_cola(path, names):
            names, read = _cola(open_rows(path, encoding=encoding, quoted=False, header=False))
        rows = read(names)
        if split is not None and "split" not in names:
            raise InputError(f"{path}: no column 'split' to look for {split!r} in; {there_are(names)}")
        wanted = split or (prefer if "split" in names else None)
        return names, rows if wanted is None else _of_split(rows, wanted)
    if path.is_dir() and not is_saved(path):
        raise InputError(f"{path}: is a folder; name the file in it")
    names, records = open_hub_rows(str(data), split=split, prefer=prefer)
    return names, (Row(number, record) for number, record in enumerate(records, 1))


def _open(
    data: str | Path, wanted: Sequence[str], split: str | None, prefer: str | None, encoding: str | None
) -> tuple[list[str], Iterable[Row]]:
    if wanted and all(name.isdecimal() for name in wanted):
        return read_rows(data, True, encoding=encoding)
    return read_rows(data, split=split, prefer=prefer, encoding=encoding)


def _of_split(rows: Iterable[Row], split: str) -> Iterable[Row]:
    return (row for row in rows if row.broken or row.fields.get("split") == split)


def _missing(fields: Mapping[str, object], wanted: Sequence[str]) -> str:
    return next((f"has no field {name!r}" for name in wanted if name not in fields), "")


def _text_columns(names: Sequence[str], wanted: Sequence[str], texts: int | None, name: str) -> tuple[str, ...]:
    if wanted:
        if len(wanted) > 2 or texts not in (None, len(wanted)):
            raise InputError(f"{name}: {len(wanted)} text columns were named; this needs {texts or 'one or two'}")
        return tuple(column(names, one, name) for one in wanted)
    plain = {one.lower(): one for one in names}
    if texts != 1:
        for first, second in PAIR_COLUMNS:
            if first.lower() in plain and second.lower() in plain:
                return plain[first.lower()], plain[second.lower()]
    if texts != 2:
        for one in SINGLE_COLUMNS:
            if one in plain:
                return (plain[one],)
    what = {1: "the text", 2: "the two texts"}.get(texts or 0, "the text or the two texts")
    raise InputError(f"{name}: no column is recognised as {what}; {there_are(names)}; name them (--text-columns)")


def _label_column(
    names: Sequence[str], wanted: str | None, texts: Sequence[str], name: str, needed: bool
) -> str | None:
    if wanted is not None:
        return column(names, wanted, name)
    plain = {one.lower(): one for one in names if one not in texts}
    known = next((plain[one.lower()] for one in LABEL_COLUMNS if one.lower() in plain), None)
    if known is None and needed:
        raise InputError(f"{name}: no column is recognised as the label; {there_are(names)}; name it (--label-column)")
    return known


def _is_cola(path: Path, names: Sequence[str]) -> bool:
    """CoLA's train.tsv and dev.tsv: source, label, the authors' mark, sentence, and no header."""
    return path.suffix.lower() == ".tsv" and len(names) == 4 and names[1] in ("0", "1") and names[2] in ("", "*", "?*")


def _cola(opened: Opened) -> Opened:
    names = ["source", "label", "mark", "sentence"]
    _, read = opened

    def rows(_: Sequence[str]) -> Iterable[Row]:
        for row in read(["1", "2", "3", "4"]):
            fields = dict(zip(names, row.fields.values(), strict=False))
            yield Row(row.number, fields, row.broken, row.note)

    return names, lambda wanted: iter(rows(wanted))


def read_lines(path: str, column: str | None = None) -> list[str]:
    """The texts of a .txt file, one a line, or of a table's column.

    Raises:
        InputError: There is no such file or column, or no text in it.
    """
    if not path.lower().endswith(".txt"):
        rows = read_texts(path, text_columns=[] if column is None else [column], texts=1)
        return [row.texts[0] for row in rows.rows]
    texts = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if not texts:
        raise InputError(f"{path}: has no text in it")
    return texts
