"""Parts of a data set that somebody has an idea about, and two data sets against each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import fisher_exact, mannwhitneyu, norm

from coalign.analysis.datasets.columns import Floats, Ints
from coalign.analysis.datasets.drawing import bars
from coalign.analysis.datasets.representations import probe, resampled_means
from coalign.errors import InputError

Bools = npt.NDArray[np.bool_]
Row = Mapping[str, Any]
Predicate = Callable[[Row], bool]

_TOKEN = re.compile(r"""\s*(?:(>=|<=|==|!=|>|<|\(|\))|"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s()<>=!"']+))""")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">": lambda a, b: float(a) > float(b),
    "<": lambda a, b: float(a) < float(b),
    ">=": lambda a, b: float(a) >= float(b),
    "<=": lambda a, b: float(a) <= float(b),
    "==": lambda a, b: _equal(a, b),
    "!=": lambda a, b: not _equal(a, b),
    "contains": lambda a, b: re.search(rf"(?<!\w){re.escape(str(b))}(?!\w)", str(a), re.IGNORECASE) is not None,
    "matches": lambda a, b: re.search(str(b), str(a)) is not None,
}
DRAWS = 200  # resamples and random parts for a figure of sets
GRAMMAR = "COLUMN OPERATOR VALUE, the operators being > < >= <= == != contains matches, joined by and, or, not, ( )"


def parse_slice(text: str, names: Sequence[str]) -> Predicate:
    """The predicate of `--slice "length > 20 and not text contains 'not'"`. Nothing is evaluated as code.

    `contains` looks for whole words, `matches` for a regular expression.

    Raises:
        InputError: It cannot be read, or names no column that there is.
    """
    tokens = list(_tokens(text))
    place = 0

    def peek() -> str:
        return tokens[place][0] if place < len(tokens) else ""

    def take() -> tuple[str, bool]:
        nonlocal place
        if place >= len(tokens):
            raise InputError(f"slice {text!r}: ends too early; it is {GRAMMAR}")
        place += 1
        return tokens[place - 1]

    def either() -> Predicate:
        parts = [both()]
        while peek() == "or":
            take()
            parts.append(both())
        return parts[0] if len(parts) == 1 else lambda row: any(part(row) for part in parts)

    def both() -> Predicate:
        parts = [single()]
        while peek() == "and":
            take()
            parts.append(single())
        return parts[0] if len(parts) == 1 else lambda row: all(part(row) for part in parts)

    def single() -> Predicate:
        word, quoted = take()
        if word == "not" and not quoted:
            inner = single()
            return lambda row: not inner(row)
        if word == "(" and not quoted:
            inner = either()
            if take()[0] != ")":
                raise InputError(f"slice {text!r}: a bracket is not closed")
            return inner
        if word not in names:
            raise InputError(f"slice {text!r}: no column {word!r}; there are: {', '.join(names)}")
        operator = take()[0]
        if operator not in _OPERATORS:
            raise InputError(f"slice {text!r}: {operator!r} is no operator; it is {GRAMMAR}")
        value = take()[0]
        if operator in (">", "<", ">=", "<="):
            try:
                float(value)
            except ValueError:
                raise InputError(f"slice {text!r}: {value!r} is no number to compare {word!r} with") from None
        if operator == "matches":
            try:
                re.compile(value)
            except re.error as error:
                raise InputError(f"slice {text!r}: {value!r} is no regular expression: {error}") from None
        holds = _OPERATORS[operator]

        def test(row: Row) -> bool:
            own = row[word]
            try:
                return own is not None and holds(own, value)
            except ValueError:
                raise InputError(f"slice {text!r}: {word!r} is {own!r} in some row, which is no number") from None

        return test

    predicate = either()
    if place < len(tokens):
        raise InputError(f"slice {text!r}: cannot be read from {tokens[place][0]!r} on; it is {GRAMMAR}")
    return predicate


def load_slices(path: Path) -> dict[str, Predicate]:
    """The functions of a Python file of the user's, by name: each takes a row (a dictionary of its columns) and says
    whether it belongs to the slice. The file is run: give only files of your own.

    Raises:
        InputError: It is not there, fails, or defines no function.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of slices")
    space: dict[str, Any] = {"__name__": path.stem}
    try:
        exec(compile(path.read_text("utf-8"), str(path), "exec"), space)
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    names: dict[str, Predicate] = {
        name: value  # pyright: ignore[reportAssignmentType]
        for name, value in space.items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == path.stem
    }
    if not names:
        raise InputError(f"{path}: defines no function of a row")
    return names


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    place = 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if match is None:
            raise InputError(f"slice {text!r}: cannot be read from {text[place:]!r} on; it is {GRAMMAR}")
        symbol, double, single, word = match.groups()
        quoted = double if double is not None else single
        yield (quoted, True) if quoted is not None else (symbol or word, False)
        place = match.end()


def _equal(a: Any, b: str) -> bool:
    try:
        return float(a) == float(b)
    except (TypeError, ValueError):
        return str(a) == b


# ------------------------------------------------------------------------------------------------------- comparisons
@dataclass(frozen=True)
class Difference:
    """A measure inside a slice and outside it: means, their difference with its 95% bootstrap interval, the p-value
    (Fisher's exact test of yes-or-no measures, else Mann-Whitney; of figures that are no means, by random parts of the
    same sizes), and the same corrected over all slices and measures (Holm 1979)."""

    measure: str
    inside: float
    outside: float
    difference: float
    low: float
    high: float
    p: float
    corrected: float


@dataclass(frozen=True)
class Slice:
    """A slice: `size` rows of `of`, and every measure against the rest, the surest difference first."""

    name: str
    size: int
    of: int
    differences: list[Difference]

    def plot(self) -> Any:
        """Differences in deviations of the measure are not comparable; those of shares are: this shows p by measure."""
        strength = {d.measure: -np.log10(max(d.corrected, 1e-12)) for d in self.differences}
        return bars(strength, "-log10 of the corrected p")


@dataclass(frozen=True)
class SetFigure:
    """A figure that a set of rows has and a single one has not.

    `parts` are arrays with a value a row; those of two data sets can be joined. `make(*parts)` gives the function from
    row numbers (with repeats, in a bootstrap) to the figure, NaN where they are too few.
    """

    name: str
    parts: tuple[Any, ...]
    make: Callable[..., Callable[[Ints], float]]

    def joined(self, other: SetFigure) -> SetFigure:
        """The figure over the rows of both."""
        both = tuple(np.concatenate([a, b]) for a, b in zip(self.parts, other.parts, strict=True))
        return SetFigure(self.name, both, self.make)


def compare_slices(
    masks: Mapping[str, Any], measures: Mapping[str, Floats], seed: int = 0, figures: Sequence[SetFigure] = ()
) -> list[Slice]:
    """Every measure [n] (NaN where a row has none) and every figure inside each mask [n] against the rest."""
    made = [(figure.name, figure.make(*figure.parts)) for figure in figures]
    raw: list[tuple[str, Ints, list[Difference]]] = []
    for name, mask in masks.items():
        inside = np.asarray(mask, bool)
        differences = _of_rows(inside, measures, seed)
        for title, function in made:
            difference = _of_sets(title, inside, function, seed)
            differences += [] if difference is None else [difference]
        raw.append((name, inside.astype(np.int64), differences))
    corrected = iter(holm([d.p for _, _, differences in raw for d in differences]))
    slices: list[Slice] = []
    for name, inside, differences in raw:
        sure = [replace(d, corrected=next(corrected)) for d in differences]
        slices.append(Slice(name, int(inside.sum()), len(inside), sorted(sure, key=lambda d: (d.corrected, d.p))))
    return slices


def _of_rows(inside: Bools, measures: Mapping[str, Floats], seed: int) -> list[Difference]:
    """The differences of the measures; all are resampled together."""
    kept: dict[str, Floats] = {}
    for name, values in measures.items():
        real = np.isfinite(values)
        if min((inside & real).sum(), (~inside & real).sum()) >= 2 and np.ptp(values[real]) > 0:
            kept[name] = values
    if not kept:
        return []
    table = np.stack(list(kept.values()), 1)
    drawn = resampled_means(table[inside], seed) - resampled_means(table[~inside], seed + 1)
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    differences: list[Difference] = []
    for i, (name, values) in enumerate(kept.items()):
        real = np.isfinite(values)
        a, b = values[inside & real], values[~inside & real]
        means = float(a.mean()), float(b.mean())
        p = _p_value(a, b)
        differences.append(Difference(name, *means, means[0] - means[1], float(low[i]), float(high[i]), p, p))
    return differences


def _of_sets(name: str, inside: Bools, function: Callable[[Ints], float], seed: int) -> Difference | None:
    """The difference of a figure of sets. Its p-value: how far it is out, in deviations, among differences between
    random parts of the same sizes."""
    generator = np.random.default_rng(seed)
    a, b = np.nonzero(inside)[0], np.nonzero(~inside)[0]
    values = function(a), function(b)
    if not np.isfinite(values).all():
        return None
    both, null, drawn = np.concatenate([a, b]), list[float](), list[float]()
    for _ in range(DRAWS):
        mixed = generator.permutation(both)
        null.append(function(mixed[: len(a)]) - function(mixed[len(a) :]))
        drawn.append(function(generator.choice(a, len(a))) - function(generator.choice(b, len(b))))
    difference, spread = values[0] - values[1], float(np.nanstd(null))
    if max(spread, abs(difference)) < 1e-9:
        return None
    out = abs(difference - float(np.nanmean(null)))
    p = float(2 * norm.sf(out / spread)) if spread > 1e-9 else 1 / (DRAWS + 1)
    # a resample holds fewer different rows than the set, which moves such figures: the interval is set about the value
    shift = difference - float(np.nanmean(drawn))
    low, high = np.nanquantile(drawn, [0.025, 0.975]) + shift
    return Difference(name, *values, difference, float(low), float(high), p, p)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979)."""
    order, corrected, largest = np.argsort(p, kind="stable"), [0.0] * len(p), 0.0
    for place, i in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p) - place) * p[i]))
        corrected[i] = largest
    return corrected


def _p_value(a: Floats, b: Floats) -> float:
    if set(np.unique(a)) | set(np.unique(b)) <= {0.0, 1.0}:
        table = [[int(a.sum()), len(a) - int(a.sum())], [int(b.sum()), len(b) - int(b.sum())]]
        return float(fisher_exact(table)[1])  # pyright: ignore[reportArgumentType]
    return float(mannwhitneyu(a, b).pvalue)


# ------------------------------------------------------------------------------------------------ one set, another set
@dataclass(frozen=True)
class Shift:
    """A classifier two-sample test (Lopez-Paz and Oquab 2017): how often a probe tells, on rows that it was not fitted
    on, which of the two sets a row is from, with its 95% interval; 0.5 is chance, since as many rows of each are
    taken. `p` is that of a binomial with one half."""

    by: str
    accuracy: float
    low: float
    high: float
    p: float
    rows: int


@dataclass(frozen=True)
class Against:
    """Two data sets: shifts by representation, and every measure in the one against the other (see `Difference`)."""

    name: str
    other: str
    shifts: list[Shift]
    measures: Slice
    correct: dict[str, Floats] = field(default_factory=dict[str, Floats], repr=False)

    def plot(self) -> Any:
        return bars(
            {shift.by: shift.accuracy for shift in self.shifts},
            "share of rows whose set is told right",
            {shift.by: (shift.low, shift.high) for shift in self.shifts},
        )


def two_sample_test(by: str, x: Floats, y: Floats, x_groups: Ints, y_groups: Ints, seed: int = 0) -> Shift:
    """Tells [N, D] rows of one set from [M, D] rows of another; folds keep the rows of one group together."""
    from scipy.stats import binomtest

    generator, size = np.random.default_rng(seed), min(len(x), len(y))
    if size < 20:
        raise InputError("telling two data sets apart needs at least 20 rows of each")
    i, j = (np.sort(generator.choice(len(part), size, replace=False)) for part in (x, y))
    groups = np.concatenate([x_groups[i], x_groups.max() + 1 + y_groups[j]])
    target = np.repeat([0, 1], size)
    result = probe(by, np.concatenate([x[i], y[j]]), target, groups, seed)
    p = float(binomtest(int(result.correct.sum()), len(target), 0.5, "greater").pvalue)
    return Shift(by, result.accuracy, result.low, result.high, p, len(target))
