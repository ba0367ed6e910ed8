"""Utterances to a batch, as the model asks for them: its streams, with its text in pieces where it reads one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from coalign.data.series.utterances import SeriesData, Utterance, even_places, word_means
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import reader, regular, replace_file
from coalign.types import Batch, InputSpec, Labels, Layout, Packed, Series, Text, needed

OTHER_NAMES = {"visual": "vision", "acoustic": "audio"}
"""Stream names of models (MAG's code says visual and acoustic), and ours."""
SCALING_FILE = "scaling.safetensors"
MAX_ROWS = 500
"""The most rows of a stream: what is longer is averaged over equal stretches (MulT's data have up to 500)."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """Mean and deviation of every feature over the training split; rows become (x - mean) / deviation."""

    mean: Mapping[str, Tensor]
    std: Mapping[str, Tensor]

    @staticmethod
    def of(items: Sequence[Utterance], names: Sequence[str]) -> Scaling:
        """From utterances; a feature that never changes is only moved to 0."""
        mean: dict[str, Tensor] = {}
        std: dict[str, Tensor] = {}
        for name in names:
            rows = torch.cat([item.streams[name] for item in items if name in item.streams]).double()
            mean[name] = rows.mean(0).float() if len(rows) else torch.zeros(rows.shape[1])
            deviation = rows.std(0, unbiased=False).float() if len(rows) else torch.ones(rows.shape[1])
            std[name] = torch.where(deviation > 1e-6, deviation, 1.0)
        return Scaling(mean, std)

    def save(self, folder: Path) -> None:
        tensors = {f"{name}.{kind}": x for kind in ("mean", "std") for name, x in getattr(self, kind).items()}
        replace_file(folder / SCALING_FILE, lambda part: save_file(tensors, part))

    @staticmethod
    @reader
    def load(folder: Path) -> Scaling | None:
        """The scaling of a run, None where it was trained on features as they are."""
        path = folder / SCALING_FILE
        if not path.is_file():
            return None
        held = load_file(regular(path))
        names = [name.removesuffix(".mean") for name in held if name.endswith(".mean")]
        if any(x.dim() != 1 or not x.isfinite().all() or x.dtype != torch.float32 for x in held.values()) or any(
            held[f"{name}.mean"].shape != held[f"{name}.std"].shape for name in names
        ):
            raise InputError(f"{path}: is damaged: means and deviations are [D] each, and finite")
        return Scaling({name: held[f"{name}.mean"] for name in names}, {name: held[f"{name}.std"] for name in names})

    def apply(self, name: str, rows: Tensor) -> Tensor:
        return (rows - self.mean[name]) / self.std[name]


@dataclass(frozen=True, eq=False)
class Collate:
    """Makes batches for a model with this `spec`; call it with utterances.

    `scaling` standardises the features. Streams longer than `max_rows` are averaged over equal stretches, a stream
    without rows gets one of zeros. Streams by word (`StreamSpec.by_word`) are averaged over each word's rows, by the
    places that the data gives, or with all words equally long.
    """

    spec: InputSpec
    tokenizer: Tokenizer | None = None
    scaling: Scaling | None = None
    max_rows: int = MAX_ROWS
    names: Mapping[str, str] = field(default_factory=lambda: dict(OTHER_NAMES))

    def __call__(self, items: Sequence[Utterance], generator: torch.Generator | None = None) -> Batch:
        del generator  # nothing is drawn
        streams: dict[str, Packed] = {}
        places: dict[str, Tensor] = {}
        layouts: dict[tuple[int, ...], Layout] = {}
        for wanted, width in self.spec.streams.widths.items():
            stream_rows = [self._rows(item, wanted, width) for item in items]
            lengths = tuple(len(rows) for rows, _ in stream_rows)
            layout = layouts.setdefault(lengths, Layout.of(lengths))  # one for all streams that keep step
            streams[wanted] = Packed(torch.cat([rows for rows, _ in stream_rows]), layout)
            places[wanted] = torch.cat([place for _, place in stream_rows])
        text = None
        if self.spec.text is not None:
            text = encode_words(self.tokenizer, [item.words for item in items], self.spec)
        labels = torch.stack([item.label for item in items])
        labels = labels[:, 0] if labels.shape[1] == 1 else labels
        series = Series(streams, places) if streams else None
        return Batch(text=text, series=series, labels=Labels(label=labels))

    def _rows(self, item: Utterance, wanted: str, width: int) -> tuple[Tensor, Tensor]:
        name = wanted if wanted in item.streams else self.names.get(wanted, wanted)
        if name not in item.streams:
            there = ", ".join(item.streams) or "none"
            raise InputError(f"{item.id}: has no stream {wanted!r}, which the model reads; it has: {there}")
        rows = item.streams[name]
        if rows.shape[1] != width:
            raise InputError(f"{item.id}: stream {name!r} has {rows.shape[1]} features, the model reads {width}")
        words = len(item.words) or len(item.streams.get("text", rows))
        place = item.places[name] if name in item.places else even_places(len(rows), words)
        if self.scaling is not None:
            rows = self.scaling.apply(name, rows)
        if self.spec.streams.by_word:
            rows, place = word_means(rows, place, words), torch.arange(words)
        if len(rows) > self.max_rows:
            bins = even_places(len(rows), self.max_rows)
            first = torch.searchsorted(bins, torch.arange(self.max_rows))
            rows, place = word_means(rows, bins, self.max_rows), place[first]
        if not len(rows):
            return rows.new_zeros(1, width), torch.full((1,), -1)
        return rows, place


def encode_words(tokenizer: Tokenizer | None, utterances: Sequence[tuple[str, ...]], spec: InputSpec) -> Text:
    """[CLS] pieces [SEP] of words that are given as words: `Text.words` counts these, whatever is in them."""
    if tokenizer is None:
        raise InputError("this model reads words, and no vocabulary was given")
    if not any(utterances):
        raise InputError(
            "this model reads words, and the data has none, only features of words; MAG's and MMSA's pickles, .csd "
            "files and tables have them"
        )
    own = needed(spec.text, "words")
    room = None if own.max_length is None else own.max_length - 1 - int(own.separator)
    ids: list[int] = []
    words: list[int] = []
    lengths: list[int] = []
    for utterance in utterances:
        pieces = [(piece, n) for n, word in enumerate(utterance) for piece in _pieces(tokenizer, word)][:room]
        ends = [(tokenizer.sep_id, -1)] if own.separator else []
        item = [(tokenizer.cls_id, -1), *pieces, *ends]
        ids += [piece for piece, _ in item]
        words += [word for _, word in item]
        lengths.append(len(item))
    return Text(Packed(torch.tensor(ids), Layout.of(lengths)), words=torch.tensor(words))


@lru_cache(100_000)
def _pieces(tokenizer: Tokenizer, word: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode([word], separator=False).ids.values.tolist()[1:])


def widths_for(data: SeriesData, names: Sequence[str] | None = None) -> dict[str, int]:
    """The streams to read: those named, or all. Errors: `InputError` for a name that the data has not."""
    unknown = [name for name in names or () if name not in data.widths]
    if unknown:
        raise InputError(f"{data.name}: has no stream {unknown[0]!r}; it has: {', '.join(data.widths)}")
    return {name: width for name, width in data.widths.items() if names is None or name in names}
