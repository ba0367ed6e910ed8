"""Baselines of answering from a paragraph: no answer at all, and the words that stand where answers stand most often.

The place, first and last word, is counted in training for each question's first two words ("when did"), over the
questions that have an answer. A baseline reads neither the question's other words nor the paragraph.

    python benchmarks/answer_places.py TRAIN.json TEST.json
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from coalign.data.texts.squad import Question, read_squad
from coalign.metrics.texts import squad_metrics


def kind(row: Question) -> tuple[str, ...]:
    return tuple(row.question.lower().split()[:2])


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    train, test = (read_squad(Path(name)).rows for name in sys.argv[1:])
    places: dict[tuple[str, ...], Counter[tuple[int, int]]] = {}
    for row in train:
        if row.start is not None and row.end is not None:
            places.setdefault(kind(row), Counter())[row.start, row.end] += 1
    usual = {words: counted.most_common(1)[0][0] for words, counted in places.items()}
    guesses = {row.id: usual.get(kind(row), (0, 0)) for row in test}
    answers = {
        "no answer": {row.id: "" for row in test},
        "the usual place": {row.id: " ".join(row.words[guesses[row.id][0] : guesses[row.id][1] + 1]) for row in test},
    }
    for name, given in answers.items():
        found = squad_metrics({row.id: row.answers for row in test}, given)
        print(f"{name}: " + ", ".join(f"{metric} {value:.2f}" for metric, value in found.items()))


if __name__ == "__main__":
    main()
