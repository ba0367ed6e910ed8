"""When each word is said: from a JSON, CTM or TextGrid file beside the text, or all words equally long.

* JSON: [{"word": "so", "start": 0.1, "end": 0.3}, ...], {"words": [...]}, or Whisper's {"segments": [{"words": ...}]};
  "text" or "w" for "word", "begin", "from" or "s" for "start", "to" or "e" for "end" do as well.
* CTM (NIST): lines of recording, channel, start, duration, word.
* TextGrid (Praat, long or short form): the interval tier "words", or the first one; empty intervals are silence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from coalign.errors import InputError
from coalign.files import read_json, read_text, reader, regular

SUFFIXES = (".json", ".ctm", ".textgrid")
_SILENCE = frozenset({"", "sp", "sil", "<sil>", "<eps>", "spn"})
_WORD, _START, _END = ("word", "text", "w"), ("start", "begin", "from", "s"), ("end", "to", "e")
TimedWords = tuple[tuple[str, ...], Tensor]
"""The words, and their intervals [W, 2] in seconds."""


@reader
def read_word_times(path: Path) -> TimedWords:
    """Reads any of the three, by the file's ending; words come in the order of their beginnings.

    Raises:
        InputError: The file is missing or not of its kind, or an interval ends before it begins.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    kind = path.suffix.lower()
    if kind not in _READERS:
        raise InputError(f"{path}: word times come as {', '.join(SUFFIXES)}")
    entries = sorted(_READERS[kind](path), key=lambda entry: entry[1:])
    for word, start, end in entries:
        if not 0 <= start <= end < math.inf:
            raise InputError(f"{path}: {word!r} lasts from {start} to {end} seconds")
    times = torch.tensor([entry[1:] for entry in entries], dtype=torch.float64).reshape(-1, 2)
    return tuple(word for word, _, _ in entries), times


def uniform_times(words: tuple[str, ...], begin: float, end: float) -> TimedWords:
    """All words equally long, one after the other."""
    edges = torch.linspace(begin, max(end, begin), len(words) + 1, dtype=torch.float64)
    return words, torch.stack([edges[:-1], edges[1:]], 1)


def find_beside(path: Path) -> Path | None:
    """The file of word times with the name of a sound or video, if there is one."""
    beside = {file.suffix.lower(): file for file in path.parent.glob(f"{_escaped(path.stem)}.*")}
    return next((beside[kind] for kind in reversed(SUFFIXES) if kind in beside), None)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _from_json(path: Path) -> Iterator[tuple[str, float, float]]:
    content = read_json(path)
    for number, entry in enumerate(_entries(path, content)):
        word, start, end = (_first(entry, names) for names in (_WORD, _START, _END))
        try:
            yield str(word).strip(), float(start), float(end)
        except (TypeError, ValueError):
            raise InputError(f"{path}: entry {number} should have a word, a start and an end, it is {entry}") from None


def _entries(path: Path, content: Any) -> list[Mapping[str, Any]]:
    if isinstance(content, Mapping):
        whole = cast("Mapping[str, Any]", content)
        if "segments" in whole:
            return [entry for segment in whole["segments"] for entry in segment.get("words", ())]
        content = whole.get("words", whole.get("tokens"))
    if not isinstance(content, list) or not all(isinstance(entry, Mapping) for entry in cast("list[Any]", content)):
        raise InputError(f'{path}: should be a list of {{"word", "start", "end"}}')
    return cast("list[Mapping[str, Any]]", content)


def _first(entry: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((entry[name] for name in names if name in entry), None)


def _from_ctm(path: Path) -> Iterator[tuple[str, float, float]]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split()
        if not fields or line.startswith((";;", "#")):
            continue
        try:
            start, length, word = float(fields[2]), float(fields[3]), fields[4]
        except (IndexError, ValueError):
            raise InputError(f"{path}: line {number} should be: recording channel start duration word") from None
        if word.lower() not in _SILENCE:
            yield word, start, start + length


def _from_textgrid(path: Path) -> Iterator[tuple[str, float, float]]:
    raw = regular(path).read_bytes()
    text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")
    # Long and short form hold the same values in the same order; names, equals signs and brackets are decoration.
    tokens = re.findall(r'"(?:[^"]|"")*"|(?<![\w\[.])-?\d+(?:\.\d+)?(?:[eE]-?\d+)?(?![\w\]])', text)
    tiers: dict[str, list[tuple[str, float, float]]] = {}
    place = 0
    while place < len(tokens):
        if tokens[place] != '"IntervalTier"':
            place += 1
            continue
        try:
            name, count = tokens[place + 1].strip('"'), min(int(tokens[place + 4]), len(tokens))
            values = tokens[place + 5 : place + 5 + 3 * count]
            rows = [(values[i + 2][1:-1], float(values[i]), float(values[i + 1])) for i in range(0, 3 * count, 3)]
        except (IndexError, ValueError):
            raise InputError(f"{path}: an interval tier is not whole") from None
        tiers.setdefault(name.lower(), rows)
        place += 5 + 3 * count
    if not tiers:
        raise InputError(f"{path}: has no interval tier; is it a TextGrid?")
    chosen = next((tiers[name] for name in ("words", "word") if name in tiers), next(iter(tiers.values())))
    for word, start, end in chosen:
        if word.strip().lower() not in _SILENCE:
            yield word.replace('""', '"').strip(), start, end


_READERS = {".json": _from_json, ".ctm": _from_ctm, ".textgrid": _from_textgrid}
