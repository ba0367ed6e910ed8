"""MulT on CMU-MOSI, CMU-MOSEI, IEMOCAP, UR-FUNNY, or utterances of your own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coalign.arguments import Switch
from coalign.data.series.utterances import SeriesData
from coalign.models.mult.config import MulTConfig, Stream
from coalign.models.mult.model import MulT
from coalign.recipes.series._series import SCHEDULE, Series
from coalign.training.options import RunOptions, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """MulT: sentiment or emotion from streams that need not be aligned (CMU-MOSI and the like).

    The defaults are the authors' (their main.py), but for the number of steps. The paper (table 5) has, for CMU-MOSI,
    --dim 40 --layers 4 --heads 10 --dropout 0.2 --embedding-dropout 0.2; for CMU-MOSEI batches of 16 for 20 epochs and
    --clip 1.0; for IEMOCAP batches of 32 for 30 epochs at --lr 2e-3.
    """

    paper: ClassVar[Schedule] = Schedule(  # table 5, CMU-MOSI: 100 epochs of 1,284 utterances; Adam without decay
        steps=1100, batch_size=128, lr=1e-3, warmup=0.0, decay="constant", weight_decay=0.0, clip=0.8
    )
    series: Series
    dim: int = 30
    """The common width of the streams."""
    heads: int = 5
    layers: int = 5
    """Of the cross-modal transformers; the last part has at least 3."""
    causal: bool = True
    """A step sees no later ones, but for the difference of the lengths."""
    targets: tuple[str, ...] = ()
    """Only these streams look at the others (the authors' --lonly and so on). By default all do."""
    aligned: tuple[str, ...] = ()
    """Streams that a CTC module first moves to the steps of the text; MulT needs none."""
    dropout: float = 0.1
    """Of residuals, of feed-forwards, and of attention to the text."""
    embedding_dropout: float = 0.25
    grouped: Switch = True
    """Run directions of equal shapes as one."""
    schedule: Schedule = SCHEDULE
    options: RunOptions = RunOptions(out=Path("runs/mult-mosi"), save_every=250)

    def run(self, data: SeriesData | None = None) -> None:
        self.series.train("mult-mosi", self.make, self.schedule, self.options, data)

    def make(self, data: SeriesData) -> MulT:
        """The model for these streams and labels. Errors: `InputError` where the data lacks what it reads."""
        streams = tuple(
            Stream(name, width, self.dropout if name == "text" else 0.0)
            for name, width in self.series.widths(data).items()
        )
        every = (item for items in data.splits.values() for item in items)
        words = max((len(item.streams["text"]) for item in every if "text" in item.streams), default=1)
        config = MulTConfig(
            streams,
            targets=self.targets or None,
            dim=self.dim,
            heads=self.heads,
            layers=self.layers,
            causal=self.causal,
            outputs=data.outputs,
            task=data.task,
            memory_attention_dropout=self.dropout,
            embedding_dropout=self.embedding_dropout,
            relu_dropout=self.dropout,
            residual_dropout=self.dropout,
            aligned=self.aligned,
            align_steps=min(words, self.series.max_rows),
            grouped=self.grouped,
        )
        return MulT(config)
