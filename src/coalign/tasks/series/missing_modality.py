"""Answers with a modality missing or noisy: every stream in turn dropped, then noised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from coalign.arguments import OptionalPath, RunFolder
from coalign.errors import InputError
from coalign.evaluation.series import SeriesRun, SeriesSource, main_metric
from coalign.types import Batch, Series, Text

WORDS = "words"
CLEAN = "as it is"
DROPPED = "dropped"


@dataclass(frozen=True)
class MissingModality:
    """Metrics by stream and condition; `rows[stream][condition]`, and those of the clean data."""

    clean: Mapping[str, float]
    rows: Mapping[str, Mapping[str, Mapping[str, float]]]
    count: int
    metric: str

    def to_json(self) -> dict[str, Any]:
        """{"count", "clean": metrics, "streams": {stream: {condition: metrics}}}."""
        return {
            "count": self.count,
            "clean": dict(self.clean),
            "streams": {
                name: {kind: dict(metrics) for kind, metrics in conditions.items()}
                for name, conditions in self.rows.items()
            },
        }

    def table(self) -> str:
        """A line for each stream and condition."""
        lines = [(CLEAN, "", self.clean)]
        lines += [
            (name, kind, metrics) for name, conditions in self.rows.items() for kind, metrics in conditions.items()
        ]
        names = list(self.clean)[:8]
        first, second = (max(len(line[i]) for line in lines) for i in (0, 1))
        head = f"{'':{first}}  {'':{second}}" + "".join(f"{name:>14}" for name in names)
        body = [
            f"{stream:{first}}  {kind:{second}}" + "".join(f"{metrics[name]:14.4f}" for name in names)
            for stream, kind, metrics in lines
        ]
        return "\n".join([f"{self.count} items", head, *body])

    def plot(self, path: Path) -> None:
        """Bars of the main metric, a group a stream, with a line for the clean data."""
        from matplotlib.figure import Figure

        from coalign.files import replacing

        conditions = list(next(iter(self.rows.values())))
        figure = Figure(figsize=(1.8 + 1.7 * len(self.rows), 3.2), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(conditions)
        shades = [str(0.15 + 0.6 * i / max(len(conditions) - 1, 1)) for i in range(len(conditions))]
        for i, kind in enumerate(conditions):
            places = [j - 0.4 + (i + 0.5) * width for j in range(len(self.rows))]
            heights = [row[kind][self.metric] for row in self.rows.values()]
            axes.bar(places, heights, width * 0.92, color=shades[i], label=kind)
        axes.axhline(self.clean[self.metric], color="#c0265d", linewidth=1.2, label=CLEAN)
        axes.set_xticks(range(len(self.rows)), list(self.rows), parse_math=False)
        axes.set_ylabel("mean absolute error" if self.metric == "mae" else self.metric)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right center", frameon=False, fontsize="small")
        with replacing(path) as part:
            figure.savefig(part, dpi=160, format=path.suffix.removeprefix(".") or "png")


@dataclass(frozen=True)
class Evaluate:
    """Missing modalities: every stream dropped, and noised, in turn; a table and, with --plot, a picture."""

    run: RunFolder
    data: SeriesSource
    split: str = "test"
    """Which split of the data."""
    noise: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Noise that is added, in standard deviations of the feature. Of words it is the share that is hidden (half of
    it, at most all)."""
    plot: OptionalPath = None
    """A .png, .svg or .pdf of the main metric."""

    def evaluate(self) -> MissingModality:
        if self.plot is not None and self.plot.suffix not in (".png", ".svg", ".pdf"):
            raise InputError(f"{self.plot}: should end in .png, .svg or .pdf")
        opened = SeriesRun.open(self.run, self.data)
        items = opened.data.split(self.split)
        reads = opened.collate.spec
        names = [WORDS] * (reads.text is not None) + list(reads.streams.widths)
        tokenizer = opened.collate.tokenizer
        mask = 0 if tokenizer is None else tokenizer.mask_id
        rows: dict[str, dict[str, dict[str, float]]] = {}
        for name in names:
            levels = {DROPPED: None, **{f"noise {level:g}": level for level in self.noise}}
            rows[name] = {
                kind: opened.metrics(opened.answers(items, partial(_change, name=name, level=level, mask=mask)), items)
                for kind, level in levels.items()
            }
        clean = opened.metrics(opened.answers(items), items)
        result = MissingModality(clean, rows, len(items), main_metric(opened.data.task))
        if self.plot is not None:
            result.plot(self.plot)
        return result


def _change(batch: Batch, generator: torch.Generator, *, name: str, level: float | None, mask: int) -> Batch:
    return corrupted(batch, name, level, generator, mask)


def corrupted(batch: Batch, name: str, level: float | None, generator: torch.Generator, mask_id: int = 0) -> Batch:
    """The batch without a stream (`level` None), or with noise of `level` standard deviations of each feature on it.

    A dropped stream keeps its rows, all of them 0: the mean, where features are standardised. Of "words" every piece
    is hidden by `mask_id`, or a share of level / 2 of them.
    """
    if name == WORDS:
        text = batch.text
        assert text is not None
        return replace(batch, text=_hidden(text, 1.0 if level is None else min(level / 2, 1.0), generator, mask_id))
    assert batch.series is not None
    streams = dict(batch.series.streams)
    rows = streams[name].values
    if level is None:
        changed = torch.zeros_like(rows)
    else:
        spread = rows.std(0, unbiased=False) if len(rows) else 0.0
        changed = rows + level * spread * torch.randn(rows.shape, generator=generator)
    streams[name] = streams[name].with_values(changed)
    return replace(batch, series=Series(streams, batch.series.places))


def _hidden(text: Text, share: float, generator: torch.Generator, mask_id: int) -> Text:
    """The text with this share of its pieces hidden; [CLS] and [SEP] stay."""
    ids = text.ids.values
    chosen = torch.rand(ids.shape, generator=generator) < share
    if text.words is not None:
        chosen &= text.words >= 0
    return replace(text, ids=text.ids.with_values(ids.masked_fill(chosen, mask_id)))
