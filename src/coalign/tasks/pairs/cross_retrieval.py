"""Image-text retrieval by models that read image and text at once (UNITER, section 4.2; ViLT, section 4.4).

Every image has to be read with every text: for Flickr30k's test split (Karpathy and Fei-Fei 2015) 1,000 x 5,000 forward
passes, for COCO's 5,000 x 25,000. Ranks are counted while the scores are made, so that memory does not grow with the
number of pairs. A shortlist by the vectors of another run (an ALBEF) leaves k pairs a query.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from tyro.conf import arg

from coalign.arguments import PAIRS_HELP, OptionalName, OptionalPath, load_run, say
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.repeats import shared_ids
from coalign.data.core.samples import Source
from coalign.data.pairs.loader import Loader
from coalign.data.pairs.sources import open_source
from coalign.data.questions.pictures import image_of, open_pictures
from coalign.errors import InputError
from coalign.evaluation.matching import PairScorer
from coalign.evaluation.visual import VisualTask
from coalign.progress import Bars
from coalign.retrieval.embed import as_encoder, by_modality, encode_corpus
from coalign.retrieval.metrics import CUTS, chance_recall, recall_at, vector_ranks
from coalign.retrieval.rerank import Shortlist, matching_only, reranked_ranks, shortlist
from coalign.tasks.pairs.retrieval import RetrievalResult

TIMED = 256
"""Pairs after which the time of all of them is estimated."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(VisualTask):
    """Recall@K of a model that reads pairs: zero-shot by its matching head, or fine-tuned (retrieval-finetune).

    It reads every image with every text; how many that are, and about how long it takes, is said first. With
    --shortlist another run's vectors (of an ALBEF) propose k answers a query, and only these are read.
    """

    data: Annotated[str, arg(metavar="PAIRS", help=PAIRS_HELP)]
    split: OptionalName = None
    """Only this split, where the data has several."""
    shortlist: OptionalPath = None
    """A run whose vectors propose answers."""
    shortlist_images: OptionalPath = None
    """The folder of the pictures that this run reads. By default the data's own."""
    k: int = 32
    """Proposed answers a query."""

    def evaluate(self) -> RetrievalResult:
        """Measures the run."""
        loaded = self.load()
        source = open_source(self.data, images=self.images, split=self.split, prefer="test").grouped()
        beside = Path(self.data).parent if self.images is None and loaded.spec.regions is None else self.images
        pictures = open_pictures(loaded.spec, self.regions, beside)
        samples = [source[index] for index in range(len(source))]
        missing = pictures.check((image_of(sample) for sample in samples), self.max_missing)
        kept = [index for index, sample in enumerate(samples) if image_of(sample) not in missing]
        if len(kept) < len(samples):
            say(f"{len(samples) - len(kept)} images are missing and left out")
            source, samples = source.without(set(range(len(samples))) - set(kept)), [samples[i] for i in kept]
        images = [image_of(sample) for sample in samples]
        texts = [text for sample in samples for text in sample.texts]
        shared, repeated = shared_ids(np.arange(len(samples)), (sample.texts for sample in samples))
        ids = torch.from_numpy(shared)
        owner = torch.tensor([int(ids[number]) for number, sample in enumerate(samples) for _ in sample.texts])
        scorer = PairScorer(loaded, pictures, images, texts, self.batch_size)
        if self.shortlist is None:
            pairs = len(images) * len(texts)
            with _Clock(pairs, "; with --shortlist RUN only k pairs a query are read") as clock:
                ranks = all_pairs_ranks(scorer, ids, owner, clock.add)
            rows = {"model": _recall(ranks)}
        else:
            rows = self._shortlisted(source, scorer, ids, owner)
        rows["chance"] = {
            "image_to_text": chance_recall(ids, owner, CUTS),
            "text_to_image": chance_recall(owner, ids, CUTS),
        }
        return RetrievalResult(len(images), len(texts), len(missing), rows, repeated=repeated)

    def _shortlisted(self, source: Source, scorer: PairScorer, ids: Tensor, owner: Tensor) -> dict[str, Any]:
        assert self.shortlist is not None
        loaded = load_run(self.shortlist)
        encoder, device = as_encoder(loaded.model), loaded.device
        if self.shortlist_images is not None:
            source = open_source(self.data, split=self.split, images=self.shortlist_images, prefer="test").grouped()
        image_parts, text_parts, quarantine = list[Tensor](), list[Tensor](), Quarantine()
        loader = Loader(source, loaded.spec, loaded.vocabulary, self.batch_size, train=False, quarantine=quarantine)
        for batch in loader:
            for parts, modality, part in zip(
                (image_parts, text_parts), ("image", "text"), by_modality(batch), strict=True
            ):
                parts.append(encode_corpus(encoder, [part.to(device)], modality).vectors)
        if (sum(map(len, image_parts)), sum(map(len, text_parts))) != (len(ids), len(owner)):
            raise InputError(  # rows would not be those of the scorer
                f"{source.name}: --shortlist cannot read all of its pictures ({quarantine.summary()}); "
                "--shortlist-images FOLDER says where they are"
            )
        vectors = {"image": torch.cat(image_parts), "text": torch.cat(text_parts)}
        sides = {
            "image_to_text": (vectors["image"], vectors["text"], ids, owner),
            "text_to_image": (vectors["text"], vectors["image"], owner, ids),
        }
        lists = {name: shortlist(query, gallery, self.k) for name, (query, gallery, _, _) in sides.items()}
        first = {name: vector_ranks(*side) for name, side in sides.items()}
        pairs = sum(each.indices.numel() for each in lists.values())
        with _Clock(pairs) as clock:
            scored = {name: _scored(scorer, each, name, clock.add) for name, each in lists.items()}
        ranks = {
            name: reranked_ranks(scored[name], matching_only, first[name], query_ids, gallery_ids)
            for name, (_, _, query_ids, gallery_ids) in sides.items()
        }
        return {"shortlist": _recall(first), "reranked": _recall(ranks)}


def all_pairs_ranks(
    scorer: PairScorer, ids: Tensor, owner: Tensor, done: Callable[[int], None] | None = None
) -> dict[str, Tensor]:
    """The rank of every query's best right answer, among all; ties count against the model.

    A text answers an image where its `owner` [T] is the image's id, of `ids` [I]. In memory are the scores of one image
    with all texts, and a count a text.
    """
    everything = torch.arange(len(owner))
    own = torch.full((len(owner),), -torch.inf)
    for image, id in enumerate(ids.tolist()):
        mine = (owner == id).nonzero().squeeze(1)
        own[mine] = torch.maximum(own[mine], scorer.row(image, mine))
    above = torch.zeros(len(owner), dtype=torch.int64)
    ranks: list[int] = []
    for image, id in enumerate(ids.tolist()):
        scores = scorer.row(image, everything, done)
        wrong = owner != id
        best = scores[~wrong].max() if bool((~wrong).any()) else scores.new_tensor(-torch.inf)
        ranks.append(int((wrong & ~(scores < best)).sum()) + 1)
        above += wrong & ~(scores < own)
    return {"image_to_text": torch.tensor(ranks), "text_to_image": above + 1}


def _scored(scorer: PairScorer, shortlist: Shortlist, direction: str, done: Callable[[int], None]) -> Shortlist:
    """The shortlist with the scores of its pairs, image by image."""
    queries = torch.arange(len(shortlist.indices))[:, None].expand_as(shortlist.indices)
    image, text = (queries, shortlist.indices) if direction == "image_to_text" else (shortlist.indices, queries)
    image, text = image.flatten(), text.flatten()
    scores = torch.zeros(len(image))
    for number in image.unique().tolist():
        rows = (image == number).nonzero().squeeze(1)
        scores[rows] = scorer.row(number, text[rows], done)
    return Shortlist(shortlist.indices, shortlist.similarity, scores.view(shortlist.indices.shape))


def _recall(ranks: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    return {direction: recall_at(rank, CUTS) for direction, rank in ranks.items()}


class _Clock:
    """Says what the pairs cost, once the first ones have shown it; a bar meanwhile."""

    def __init__(self, pairs: int, hint: str = "") -> None:
        self.pairs, self.hint, self.count = pairs, hint, 0
        self.started, self.estimated = time.perf_counter(), False
        self.bar = Bars(transient=True)

    def __enter__(self) -> _Clock:
        say(f"{self.pairs:,} pairs of image and text are read one by one")
        self.bar.start()
        self.task = self.bar.add_task("matching", total=self.pairs)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def add(self, count: int) -> None:
        self.count += count
        self.bar.advance(self.task, count)
        if not self.estimated and self.count >= TIMED:
            self.estimated = True
            seconds = (time.perf_counter() - self.started) * self.pairs / self.count
            if seconds >= 10:
                say(f"this takes about {seconds / 60:.1f} minutes here{self.hint}")
