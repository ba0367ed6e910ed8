"""Image-text matching of captions: the image's own against another's, or against one with a single word wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from tyro.conf import arg

from coalign.analysis.runs.scores import encoding_scores
from coalign.arguments import PAIRS_HELP, OptionalName, Path
from coalign.data.core.json_files import field_of, read_lines
from coalign.data.core.samples import Source
from coalign.data.questions.items import Item
from coalign.data.questions.pictures import Pictures, image_of, open_pictures
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.evaluation.visual import VisualTask, through
from coalign.extras import optional
from coalign.files import reader
from coalign.types import Batch, Encoding, InputSpec

sklearn_metrics = optional("sklearn.metrics")

DATA_HELP = f"{PAIRS_HELP} Or .jsonl with image, caption and foil (a wrong caption) a line."


@dataclass(frozen=True, kw_only=True)
class Evaluate(VisualTask):
    """Tells an image's caption from a wrong one: accuracy, area under the ROC curve, and how often the right one wins.

    Each image is judged with its first caption and with a wrong one: a foil where the data has foils, otherwise another
    image's caption, drawn by the seed. Chance is one half for all three figures. A model without a matching head is
    judged by the product of its vectors, and has no accuracy.
    """

    data: Annotated[str, arg(metavar="PAIRS", help=DATA_HELP)]
    split: OptionalName = None
    """Only this split, where the data has several."""
    seed: int = 0
    """Draws the wrong captions."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        loaded = self.load()
        triples = read_triples(self.data, self.split, self.seed, self.images)
        pictures = self.pictures_of(loaded.spec)
        items = self.present([item for item, _ in triples], pictures)
        kinds = {item.id: kind for item, kind in triples}

        odds = True

        def read(encoding: Encoding, _: Batch) -> Sequence[Tensor]:
            nonlocal odds
            scores, odds = encoding_scores(loaded.model, encoding)
            return list(scores.view(-1, 2))

        scores = torch.stack(through(loaded, items, pictures, self.batch_size, read, "matching"))
        return measured(scores, [kinds[item.id] for item in items], odds)

    def pictures_of(self, spec: InputSpec) -> Pictures:
        """The images; for models that read pictures those beside the data, where no folder is given."""
        beside = Path(self.data).parent if self.images is None and spec.regions is None else self.images
        return open_pictures(spec, self.regions, beside)


@reader
def read_triples(
    data: str, split: str | None = None, seed: int = 0, images: Path | None = None
) -> list[tuple[Item, str]]:
    """Items of two texts, the right one and a wrong one, and what kind of word is wrong ("" where any is). The paths of
    pairs are relative to `images`, by default to the data's folder, and stay there.

    Raises:
        InputError: the data cannot be read, or all of it is about one image.
    """
    path = Path(data)
    if path.suffix == ".jsonl":
        rows = read_lines(path)
        if "foil" in rows[0][1]:
            triples: list[tuple[Item, str]] = []
            for line, row in rows:
                where = f"{path}, line {line}"
                image, right, wrong = (_text(row, name, where) for name in ("image", "caption", "foil"))
                triples.append((Item(str(line), (image,), (right, wrong)), str(row.get("attribute", ""))))
            return triples
    from coalign.data.pairs.sources import open_source

    return [(item, "") for item in _drawn(open_source(data, images=images, split=split, prefer="test").grouped(), seed)]


def _text(row: Any, name: str, where: str) -> str:
    value = field_of(row, name, where)
    if not isinstance(value, str):
        raise InputError(f"{where}: {name!r} is {value!r}, a text is wanted")
    return value


def _drawn(source: Source, seed: int) -> list[Item]:
    count = len(source)
    if count < 2:
        raise InputError(f"{source.name}: needs two images, so that one has the other's caption")
    generator = torch.Generator().manual_seed(seed)
    other = ((torch.randint(1, count, (count,), generator=generator) + torch.arange(count)) % count).tolist()
    samples = [source[index] for index in range(count)]
    texts = [sample.texts[0] for sample in samples]
    items: list[Item] = []
    for place, (sample, wrong) in enumerate(zip(samples, other, strict=True)):
        if set(texts) <= set(sample.texts):
            raise InputError(f"{sample.where}: every caption of the data is one of this image, so none is wrong")
        while texts[wrong] in sample.texts:  # another image's caption that is right here too
            wrong = (wrong + 1) % count
        items.append(Item(str(place), (image_of(sample),), (sample.texts[0], texts[wrong])))
    return items


def measured(scores: Tensor, kinds: Sequence[str], odds: bool = True) -> TaskResult:
    """Figures of scores [N, 2] of the right and the wrong caption, which are log-odds or, without `odds`, have no zero
    at which right and wrong part; by kind where there are several."""
    right, wrong = scores[:, 0], scores[:, 1]
    wins = ((right > wrong).float() + 0.5 * (right == wrong)).tolist()
    truth = np.concatenate([np.ones(len(scores)), np.zeros(len(scores))])
    metrics = {"accuracy": float(torch.cat([right > 0, wrong <= 0]).float().mean())} if odds else {}
    metrics |= {
        "auc": float(sklearn_metrics.roc_auc_score(truth, torch.cat([right, wrong]).numpy())),
        "right_wins": sum(wins) / len(wins),
    }
    by_kind: dict[str, list[float]] = defaultdict(list)
    for kind, win in zip(kinds, wins, strict=True):
        by_kind[kind].append(win)
    if len(by_kind) > 1:
        metrics |= {f"right_wins, {kind}": sum(each) / len(each) for kind, each in sorted(by_kind.items())}
    return TaskResult(metrics, len(scores), {"chance": 0.5})
