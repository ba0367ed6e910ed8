"""The options of an analysis, and its results: parts, and the study that is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from coalign.analysis.datasets.columns import Columns, Floats, Ints, pick
from coalign.analysis.datasets.cross_modal import Comparison, Grounding, Information
from coalign.analysis.datasets.findings import Finding, Leak
from coalign.analysis.datasets.images import ImageStatistics
from coalign.analysis.datasets.representations import Map, Probes, Senses, Similarity
from coalign.analysis.datasets.series import Agreement, LabelStatistics, Offset, SeriesStatistics, VideoStatistics
from coalign.analysis.datasets.slices import Against, Slice
from coalign.analysis.datasets.texts import TextStatistics

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """Sizes of samples. They are drawn by `seed`, and the report says how large they are."""

    images: int = 20_000
    """Images that are decoded and compared with each other."""
    pairs: int = 4_000
    """Pairs that are encoded."""
    points: int = 1_500
    """Points of a map."""
    words: int = 60
    """Words whose grounding is tried."""
    senses: tuple[str, ...] = ()
    """Words whose occurrences are laid out; without, the three that fall apart most of some common ones."""
    layers: tuple[int, ...] = ()
    """Layers of the encoders that are laid out and compared beside their last; of a word's states, the first."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Each modality by itself, and the labels."""

    texts: TextStatistics | None = None
    label_words: dict[str, dict[str, list[tuple[str, float]]]] = field(default_factory=dict[str, Any])
    images: ImageStatistics | None = None
    series: list[SeriesStatistics] = field(default_factory=list[SeriesStatistics])
    labels: list[LabelStatistics] = field(default_factory=list[LabelStatistics])
    agreements: list[Agreement] = field(default_factory=list[Agreement])
    videos: VideoStatistics | None = None


@dataclass(frozen=True, kw_only=True)
class Representations:
    """The encoders' vectors of the encoded rows, and their figures."""

    maps: list[Map] = field(default_factory=list[Map])
    similarity: Similarity | None = None
    layer_similarity: Similarity | None = None
    probes: list[Probes] = field(default_factory=list[Probes])
    senses: list[Senses] = field(default_factory=list[Senses])
    vectors: dict[str, Floats] = field(default_factory=dict[str, Floats], repr=False)


@dataclass(frozen=True, kw_only=True)
class CrossModal:
    """Images set against texts."""

    comparison: Comparison | None = None
    grounding: Grounding | None = None
    information: list[Information] = field(default_factory=list[Information])
    offset: Offset | None = None


@dataclass(frozen=True)
class Study(CrossModal, Representations, Contents):
    """An analysis of a data set: its parts, and what is derived from them. Parts that the data or the encoders do not
    allow are empty; `notes` say what was drawn and what was left out, and why. `rows` are the encoded pairs, and
    `measures` hold one number for each."""

    name: str
    rows_total: int
    columns: Columns = field(repr=False)
    rows: Ints = field(repr=False)
    leaks: list[Leak] = field(default_factory=list[Leak])
    slices: list[Slice] = field(default_factory=list[Slice])
    against: Against | None = None
    findings: list[Finding] = field(default_factory=list[Finding])
    notes: list[str] = field(default_factory=list[str])
    measures: dict[str, Floats] = field(default_factory=dict[str, Floats], repr=False)


@runtime_checkable
class Show(Protocol):
    """Wraps what a loop goes over in a progress bar with a title."""

    def __call__(self, items: Iterable[T], title: str) -> Iterable[T]: ...


def silent(items: Iterable[T], title: str) -> Iterable[T]:
    """No progress."""
    del title
    return items


def row_table(study: Study) -> dict[str, list[Any]]:
    """The pairs that were looked at as columns: row, text, labels, and every measure."""
    data, rows = study.columns, study.rows
    table: dict[str, list[Any]] = {"row": rows.tolist()}
    if len(data.texts):
        table["text"] = pick(data.texts, rows)
    table |= {name: pick(values, rows) for name, values in data.labels.items()}
    return table | {name: part.tolist() for name, part in study.measures.items()}
