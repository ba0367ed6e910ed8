"""Every figure of a report as something that a part of the data has too, so that parts can be set against the rest.

Most figures are means of one number a row (`row_measures`). What is not, such as the similarity of two representations
or the size of the vocabulary, is a function of a set of rows (`set_figures`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.special import gammaln

from coalign.analysis.datasets.columns import Columns, Floats, Ints, pick, sample_rows
from coalign.analysis.datasets.cross_modal import skewness
from coalign.analysis.datasets.images import ImageStatistics
from coalign.analysis.datasets.parts import Study
from coalign.analysis.datasets.representations import linear_cka, reduced
from coalign.analysis.datasets.slices import SetFigure
from coalign.analysis.datasets.texts import language_of, script_of, words_of
from coalign.data.words.tokenizer import Tokenizer

VALUES = 12  # values of a label whose shares are compared
CKA_ROWS, CKA_WIDTH = 1000, 32
WORDS_DRAWN = 1000


# ------------------------------------------------------------------------------------------------------ a number a row
def row_measures(study: Study, tokenizer: Tokenizer | None = None) -> dict[str, Floats]:
    """By name, one number for each of the study's `rows`; NaN where a row has none."""
    parts = (_texts(study, tokenizer), _images(study), _columns(study), _across(study), _vectors(study))
    return {name: np.asarray(values, float) for part in parts for name, values in part}


def at_images(columns: Columns, rows: Ints, images: ImageStatistics) -> Ints:
    """For each of `rows`, the place of its image in `images.rows`."""
    place = {group: i for i, group in enumerate(columns.groups[images.rows].tolist())}
    return np.array([place[group] for group in columns.groups[rows].tolist()], np.int64)


Measures = Iterator[tuple[str, npt.NDArray[Any]]]


def _texts(study: Study, tokenizer: Tokenizer | None) -> Measures:
    part, rows = study.texts, study.rows
    if part is None:
        return
    yield "length", part.words[rows]
    yield "characters", part.characters[rows]
    texts = pick(study.columns.texts, rows)
    words = [words_of(text) for text in texts]
    rare = [np.mean([part.counts[word] < 3 for word in own]) if own else np.nan for own in words]
    yield "rare words", np.array(rare)
    yield "repeats a text", _among(rows, (row for group in part.duplicates for row in group))
    yield "nearly repeats a text", _among(rows, (row for a, b, _ in part.near_duplicates for row in (a, b)))
    scripts = [name for name, share in part.scripts.items() if share >= 0.01]
    if len(scripts) > 1:
        own = [script_of(text) for text in texts]
        yield from ((f"in {name} script", np.array([script == name for script in own])) for name in scripts)
    languages = [name for name, share in part.languages.items() if share >= 0.05]
    if len(languages) > 1:
        guessed = [language_of(text) for text in texts]
        for name in languages:
            yield f"language {name}", np.array([np.nan if g is None else float(g == name) for g in guessed])
    if tokenizer is not None:
        pieces = [(tokenizer.ids(text), len(tokenizer.words(text))) for text in texts]
        yield "pieces a word", np.array([len(ids) / n if n else np.nan for ids, n in pieces])
        unk = tokenizer.unk_id
        yield "unknown pieces", np.array([ids.count(unk) / len(ids) if ids else np.nan for ids, _ in pieces])


def _images(study: Study) -> Measures:
    part = study.images
    if part is None:
        return
    at = at_images(study.columns, study.rows, part)
    yield from ((name.removeprefix("image "), values[at]) for name, values in part.measures().items())
    own = part.rows[at]
    yield "repeats an image", _among(own, (row for group in part.duplicates for row in group))
    yield "nearly of one colour", _among(own, part.blank)


def _columns(study: Study) -> Measures:
    data, rows = study.columns, study.rows
    for name, values in data.numbers.items():
        own = np.asarray(values, float)[rows]
        if own.ndim == 1:
            yield name, own
        else:
            yield f"{name}, missing", np.isnan(own).mean(1)
    for name, stream in data.series.items():
        parts = [np.asarray(stream[row], float) for row in rows.tolist()]
        yield f"{name} steps", np.array([len(part) for part in parts])
        yield f"{name} missing", np.array([np.isnan(part).mean() if part.size else np.nan for part in parts])
        yield (
            f"{name} steps of zeros",
            np.array([(part == 0).all(1).mean() if part.size else np.nan for part in parts]),
        )
    for name, values in data.labels.items():
        own = pick(values, rows)
        if any(value is None for value in own):
            yield f"{name} missing", np.array([value is None for value in own])
        counts = Counter(value for value in own if value is not None)
        if 2 <= len(counts) <= 60:
            for value, _ in counts.most_common(VALUES):
                yield f"{name} = {value}", np.array([np.nan if v is None else float(v == value) for v in own])
    for name, answers in data.annotators.items():
        yield f"agreeing answers: {name}", np.array([_agreeing(answers[row]) for row in rows.tolist()])


def _across(study: Study) -> Measures:
    part = study.comparison
    if part is None:
        return
    yield "similarity", part.matched
    yield "match score", part.score
    yield "matched above mismatched", part.above
    yield "rank of its text", part.rank
    yield "rank of its image", part.text_rank
    yield "found at 1", part.rank == 1
    yield "found at 10", part.rank <= 10
    yield "image found at 1", part.text_rank == 1
    yield "image found at 10", part.text_rank <= 10
    yield "modality gap along its line", part.apart
    if part.usable:
        yield "mismatched", part.mismatch
    for kind, counts in part.near.items():
        yield f"times among the 10 nearest {kind}", counts
    if study.grounding is not None and study.grounding.words:
        yield "fall without a word", study.grounding.by_row


def _vectors(study: Study) -> Measures:
    rows = study.rows
    for probes in study.probes:
        at = np.searchsorted(rows, probes.rows)
        for part in probes.probes:
            yield f"{probes.label} told by {part.name}", _spread(part.correct, at, len(rows))
    for part in study.information:
        probes = next(p for p in study.probes if p.label == part.label)
        at = np.searchsorted(rows, probes.rows)
        gained = {p.name: p.gained for p in probes.probes}
        image, text, both = gained[part.sides[0]], gained[part.sides[1]], gained["both together"]
        for name, values in (
            (part.sides[1], text),
            (part.sides[0], image),
            ("both", both),
            (f"only {part.sides[1]}", both - image),
            (f"only {part.sides[0]}", both - text),
            ("redundancy", text + image - both),
        ):
            yield f"bits about {part.label}: {name}", _spread(values, at, len(rows))
    if study.similarity is not None:
        at = study.similarity.rows
        for (a, b), shared in study.similarity.shared.items():
            yield f"neighbours shared by {a} and {b}", _spread(shared, at, len(rows))
    for part in study.maps:
        at = np.searchsorted(rows, part.rows)
        for number in range(len(part.cluster_sizes)):
            words = ", ".join(part.cluster_words[number][:2])
            inside = (part.cluster == number).astype(float)
            yield f"{part.name}, cluster {number + 1}{f' ({words})' if words else ''}", _spread(inside, at, len(rows))


def _among(rows: Ints, chosen: Any) -> Floats:
    return np.isin(rows, np.fromiter(chosen, np.int64)).astype(float)


def _spread(values: Floats, at: Ints, count: int) -> Floats:
    column = np.full(count, np.nan)
    column[at] = values
    return column


def _agreeing(answers: Sequence[str | None]) -> float:
    counts = Counter(answer for answer in answers if answer is not None)
    n = sum(counts.values())
    return sum(c * (c - 1) for c in counts.values()) / (n * (n - 1)) if n > 1 else float("nan")


# ---------------------------------------------------------------------------------------------------- a number a set
def set_figures(study: Study) -> list[SetFigure]:
    """The figures of a study that are no means, over its `rows`."""
    rows, made = study.rows, list[SetFigure]()
    if study.texts is not None:
        texts = np.array(pick(study.columns.texts, rows), dtype=object)
        made.append(SetFigure(f"different words among {WORDS_DRAWN:,} drawn", (texts,), _richness))
    for name, values in study.columns.labels.items():
        own = pick(values, rows)
        if 2 <= len({value for value in own if value is not None}) <= 60:
            made.append(SetFigure(f"evenness of {name}", (np.array([v or "" for v in own], dtype=object),), _evenness))
    if study.comparison is not None:
        for kind, counts in study.comparison.near.items():
            made.append(SetFigure(f"hubness of {kind}", (counts,), _hubness))
    main = [name for name in study.vectors if ", layer " not in name]
    for i, a in enumerate(main):
        for b in main[:i]:
            made.append(SetFigure(f"CKA of {b} and {a}", (study.vectors[b], study.vectors[a]), _alike))
    return made


def _richness(texts: Any) -> Callable[[Ints], float]:
    """The expected number of different words among so many drawn from those of a set (rarefaction, Hurlbert 1971)."""
    number: dict[str, int] = {}
    columns: list[int] = []
    ends = [0]
    for text in texts.tolist():
        columns += [number.setdefault(word, len(number)) for word in words_of(text)]
        ends.append(len(columns))
    table = csr_matrix((np.ones(len(columns)), columns, ends), (len(texts), max(len(number), 1)))

    def figure(at: Ints) -> float:
        weight = np.bincount(at, minlength=len(texts)).astype(float)
        counts = np.asarray(table.T @ weight)
        counts = counts[counts > 0]
        total = counts.sum()
        if total < WORDS_DRAWN:
            return float("nan")
        rest = total - counts
        missed = np.where(
            rest >= WORDS_DRAWN,
            np.exp(
                gammaln(rest + 1)
                - gammaln(np.maximum(rest - WORDS_DRAWN, 0) + 1)
                - gammaln(total + 1)
                + gammaln(total - WORDS_DRAWN + 1)
            ),
            0.0,
        )
        return float((1 - missed).sum())

    return figure


def _hubness(counts: Floats) -> Callable[[Ints], float]:
    return lambda at: skewness(counts[at])


def _evenness(values: Any) -> Callable[[Ints], float]:
    """The entropy of the values over that of equal shares of all values."""
    names, numbers = np.unique(values.astype(str), return_inverse=True)
    place = np.where((names == "")[numbers], -1, numbers)
    kinds = int((names != "").sum())

    def figure(at: Ints) -> float:
        own = place[at]
        counts = np.bincount(own[own >= 0], minlength=len(names)).astype(float)
        share = counts[counts > 0] / max(counts.sum(), 1)
        return float((share * np.log(1 / share)).sum() / np.log(kinds)) if len(share) else float("nan")

    return figure


def _alike(x: Floats, y: Floats) -> Callable[[Ints], float]:
    """Linear CKA, of at most 1,000 rows drawn and 32 principal components of each."""
    kept = np.zeros(len(x), bool)
    kept[sample_rows(len(x), CKA_ROWS)] = True
    a, b = (reduced(part.astype(float), CKA_WIDTH) for part in (x, y))

    def figure(at: Ints) -> float:
        own = at[kept[at]]
        return linear_cka(a[own], b[own]) if len(own) >= 8 else float("nan")

    return figure
