"""Sentences of plain text, by rules that need no data: good enough to cut documents for pre-training."""

from __future__ import annotations

import re

_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9À-ÖØ-Þ])|[。！？]+")
_NO_END = re.compile(
    r"(?:^|[\s(\[\"'“‘])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Gen|Col|Lt|Capt|Rev|Hon|Mt|No|Nos|vs|cf|ca|c|b|d|r|fl|ed|eds"
    r"|vol|pp|p|Fig|Eq|Inc|Ltd|Co|Corp|e\.g|i\.e|approx|est|(?:[A-Za-z]\.)+[A-Za-z])\.\s+$"
)


def split_sentences(text: str, *, lines: bool = False) -> list[str]:
    """The sentences of a text, without outer blanks. Every line ends one; with `lines` nothing else does.

    A sentence ends in . ! or ? before a blank and a capital letter or number, unless an initial or a common
    abbreviation stands there ("J. Smith", "Dr. Who", "U.S. Army").
    """
    sentences: list[str] = []
    for line in text.splitlines():
        begin = 0
        for end in () if lines else _END.finditer(line):
            if not _NO_END.search(line, max(0, end.start() - 20), end.end()):
                sentences.append(line[begin : end.end()].strip())
                begin = end.end()
        sentences.append(line[begin:].strip())
    return [sentence for sentence in sentences if sentence]
