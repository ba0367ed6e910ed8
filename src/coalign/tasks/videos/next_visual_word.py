"""Forecasting with VideoBERT: which visual word comes next? Beside a bigram model of the training videos."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from tyro.conf import arg

from coalign.arguments import OptionalPath, RunFolder
from coalign.data.videos.clip_features import ClipFeatures
from coalign.data.videos.visual_words import WORDS, read_examples
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.models.videobert.model import VideoBert
from coalign.progress import with_progress
from coalign.tasks.videos._visual_words import load_videobert
from coalign.types import Packed

CUTS = (1, 5)
ROWS = 5  # videos in the picture
PAST = 4  # clips before the forecast that it shows


@dataclass(frozen=True)
class Evaluate:
    """The next visual word of a video from those before it: how often it is among the first 1 and 5.

    Every clip but a video's first is forecast from up to --context clips before it. The bigram model counts in the
    training videos which word follows which (where a word was not seen, which words are frequent); "same" says that the
    word stays; "frequent" always says the same words.
    """

    run: RunFolder
    features: Annotated[Path, arg(metavar="FOLDER")]
    """Features of held-out videos (`coalign extract video`)."""
    train: Annotated[Path, arg(metavar="FOLDER")]
    """Features of the training videos, for the bigram model."""
    context: int = 15
    """The most clips that are seen."""
    stride: int = 1
    """Takes every n-th clip only."""
    batch_size: int = 64
    out: OptionalPath = None
    """A .png to write: what was seen, what came, and the likeliest words, by real frames. Needs both folders below."""
    videos: OptionalPath = None
    """The held-out videos."""
    train_videos: OptionalPath = None
    """The training videos, whose frames show the words."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        model, _ = load_videobert(self.run)
        if self.out is not None and (self.videos is None or self.train_videos is None):
            raise InputError("--out draws frames: it needs --videos and --train-videos")
        held, known = (ClipFeatures(folder) for folder in (self.features, self.train))
        windows = [
            (name, end, rows[max(end - self.context, 0) : end])
            for name in held.names
            for rows in [held.read(name)[0][:: self.stride].float()]
            for end in range(1, len(rows))
        ]
        if not windows:
            raise InputError(f"{self.features}: no video has two clips")
        truth = words_of(model, [held.read(name)[0][:: self.stride][end][None].float() for name, end, _ in windows])
        last = words_of(model, [rows[-1:] for _, _, rows in windows])
        scores = self.forecasts(model, [rows for _, _, rows in windows])
        table = bigrams(
            [words_of(model, [known.read(name)[0][:: self.stride].float()]) for name in known.names],
            scores.shape[1],
        )
        frequent = table.sum(0).expand(len(truth), -1)
        said = {
            "videobert": scores,
            "bigram": backed_off(table)[last],
            "same": torch.nn.functional.one_hot(last, scores.shape[1]).float(),
            "frequent": frequent,
        }
        metrics = {
            f"{name}_top{cut}": hits(narrations, truth, cut)
            for name, narrations in said.items()
            for cut in CUTS
            if name != "same" or cut == 1
        }
        if self.out is not None:
            print(f"{self.draw(windows, scores, truth)}: what was seen, what came, what was forecast", file=sys.stderr)
        occurring = int(truth.unique().numel())
        return TaskResult(metrics, len(truth), {"words": scores.shape[1], "words_in_test": occurring})

    def forecasts(self, model: VideoBert, windows: Sequence[Tensor]) -> Tensor:
        """[N, words] scores of what comes after each."""
        device = next(model.parameters()).device
        starts = range(0, len(windows), self.batch_size)
        parts = [
            model.forecast(Packed.from_items(list(windows[at : at + self.batch_size])).to(device)).float().cpu()
            for at in with_progress(starts, "forecasting", len(starts), True)
        ]
        return torch.cat(parts)

    def draw(self, windows: Sequence[tuple[str, int, Tensor]], scores: Tensor, truth: Tensor) -> Path:
        """Some videos: the clips before, what came (framed), and the three likeliest words."""
        from PIL import Image

        from coalign.analysis.runs.contact_sheet import Cell, contact_sheet
        from coalign.analysis.runs.visual_words import Frames
        from coalign.data.images.pictures import save_picture

        assert self.out is not None and self.videos is not None and self.train_videos is not None
        held, shown, features = Frames(self.videos), Frames(self.train_videos), ClipFeatures(self.features)
        examples = read_examples(self.run / WORDS)
        enough = [place for place, (_, end, _) in enumerate(windows) if end >= PAST] or list(range(len(windows)))
        chosen = enough[:: max(len(enough) // ROWS, 1)][:ROWS]
        cells: list[Cell] = []
        for place in chosen:
            name, end, _ = windows[place]
            times = features.read(name)[1][:: self.stride].mean(1).tolist()
            past = list(range(max(end - PAST, 0), end))
            blank = Image.new("RGB", (held.side, held.side), (255, 255, 255))
            cells += [Cell(blank)] * (PAST - len(past))
            cells += [Cell(held.at(name, times[at]), f"{times[at]:.1f} s") for at in past]
            cells.append(Cell(held.at(name, times[end]), "what came"))
            likely = scores[place].softmax(-1).topk(min(3, scores.shape[1]))
            for word, share in zip(likely.indices.tolist(), likely.values.tolist(), strict=True):
                example = next(iter(examples.get(word, ())), None)
                picture = blank if example is None else shown.of(example)
                cells.append(Cell(picture, f"{share:.0%} word {word}", right=word == int(truth[place])))
        title = "Seen · what came · the likeliest next visual words"
        across = PAST + 1 + min(3, scores.shape[1])
        return save_picture(contact_sheet(cells, across, held.side, title), self.out)


def words_of(model: VideoBert, parts: Sequence[Tensor]) -> Tensor:
    """[N] the visual words of all these clips."""
    device = next(model.parameters()).device
    return model.visual(torch.cat(list(parts)).to(device)).cpu()


def bigrams(sequences: Sequence[Tensor], words: int) -> Tensor:
    """[words, words] how often word j comes after word i."""
    table = torch.zeros(words * words)
    for sequence in sequences:
        pairs = sequence[:-1] * words + sequence[1:]
        table += torch.bincount(pairs, minlength=len(table))
    return table.view(words, words)


def backed_off(table: Tensor) -> Tensor:
    """[words, words] shares of what comes after a word: its own counts, and a little of all words' where they end."""
    frequent = table.sum(0) / table.sum().clamp(min=1)
    return (table + 0.1 * frequent) / (table.sum(1, keepdim=True) + 0.1)


def hits(scores: Tensor, truth: Tensor, cut: int) -> float:
    """The share of rows [N, C] of which the true column is among the `cut` highest; ties share what is left of them."""
    own = scores.gather(1, truth[:, None])
    above, alike = (scores > own).sum(1), (scores == own).sum(1)
    return float(((cut - above) / alike).clamp(0, 1).mean())
