"""Tasks on utterances: the run's model, its data as it was trained on, and its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from tyro.conf import arg

from coalign.arguments import load_run, run_config, say
from coalign.data.series.collate import MAX_ROWS, Collate, Scaling
from coalign.data.series.utterances import SeriesData, Task, Utterance
from coalign.errors import InputError
from coalign.metrics.sentiment import class_metrics, emotion_metrics, sentiment_metrics
from coalign.types import Batch, Model
from coalign.worlds.speakers import open_series

SOURCE_HELP = (
    "The utterances: a .pkl of MulT, MAG or MMSA; a folder of .csd files, of UR-FUNNY's pickles, or one that coalign "
    "convert-data wrote; or world:joint,lag=2 and the like, a generated world."
)
SeriesSource = Annotated[str, arg(metavar="DATA", help=SOURCE_HELP)]
Array = npt.NDArray[Any]
Change = Callable[[Batch, torch.Generator], Batch]


@dataclass(frozen=True, eq=False)
class SeriesRun:
    """A trained model, the data, and how the model reads it."""

    model: Model
    data: SeriesData
    collate: Collate

    @staticmethod
    def open(run: Path, source: str, data: SeriesData | None = None) -> SeriesRun:
        """The run, and the data, read as for its training where only its source is given.

        Errors: `InputError` where they do not belong together.
        """
        config, loaded = run_config(run), load_run(run)
        how: dict[str, Any] = config.get("series") or {}
        if not how:
            raise InputError(f'{run}: was not trained on utterances (its config.json has no "series")')
        if data is None:
            data = open_series(source, padding=how.get("padding", "strip"), labels=how.get("labels", "sentiment"))
            for note in data.notes:
                say(note)
        if data.task != how["task"] or list(data.label_names) != how["label_names"]:
            raise InputError(
                f"{data.name}: its labels are {data.task} of {', '.join(data.label_names)}, the run answers "
                f"{how['task']} of {', '.join(how['label_names'])}"
            )
        spec = loaded.spec
        tokenizer = loaded.tokenizer if spec.text is not None else None
        return SeriesRun(loaded.model, data, Collate(spec, tokenizer, Scaling.load(run), how.get("max_rows", MAX_ROWS)))

    def answers(self, items: Sequence[Utterance], change: Change | None = None, batch_size: int = 64) -> Array:
        return answers(self.model, self.collate, items, change, batch_size)

    def metrics(self, logits: Array, items: Sequence[Utterance]) -> dict[str, float]:
        return answer_metrics(logits, items, self.data.task, self.data.label_names)


@torch.no_grad()
def answers(
    model: Model, collate: Collate, items: Sequence[Utterance], change: Change | None = None, batch_size: int = 64
) -> Array:
    """Logits [N, O] of the utterances, in eval mode. `change` alters every batch, with a generator of its own."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    generator, encode = torch.Generator().manual_seed(0), model.encode
    logits: list[torch.Tensor] = []
    for begin in range(0, len(items), batch_size):
        batch = collate(items[begin : begin + batch_size])
        batch = batch if change is None else change(batch, generator)
        logits.append(encode(batch.to(device)).pooled["logits"].float().cpu())
    model.train(training)
    return torch.cat(logits).numpy()


def answer_metrics(logits: Array, items: Sequence[Utterance], task: Task, names: Sequence[str]) -> dict[str, float]:
    """The metrics of the labels' kind."""
    truth = np.stack([item.label.numpy() for item in items])
    if task == "regression":
        return sentiment_metrics(logits[:, 0], truth[:, 0])
    return emotion_metrics(logits, truth, names) if task == "emotions" else class_metrics(logits, truth[:, 0])


def main_metric(task: Task) -> str:
    """The metric that models are chosen by, and that plots show."""
    return "mae" if task == "regression" else "accuracy"
