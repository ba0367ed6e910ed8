"""Image-text retrieval on held-out pairs: Recall@K in both directions, by the vectors alone and after re-ranking.

An image with several texts is one query and has several right answers, as on Flickr30k and COCO (Karpathy and Fei-Fei
2015). Re-ranking is ALBEF's (Li et al. 2021, section 4.1), with both scores: similarity + weight · log P(match).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from tyro.conf import arg

from coalign.arguments import OptionalFloat, OptionalInt, Pairs, RunFolder, load_run, say
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import Source
from coalign.data.loaded import Loaded
from coalign.data.pairs.loader import Loader
from coalign.errors import InputError
from coalign.progress import with_progress
from coalign.retrieval.embed import Corpus, as_encoder, by_modality, encode_corpus, join_items
from coalign.retrieval.metrics import CUTS, chance_recall
from coalign.retrieval.rerank import Evaluation, Reranking, TokenSource, add_log_sigmoid, score_retrieval
from coalign.types import Matcher

Recall = Mapping[str, Mapping[str, float]]
"""{"image_to_text" | "text_to_image": {"R@1": fraction, …}}."""


@dataclass(frozen=True)
class RetrievalResult:
    """Recall by row: "model" (vectors alone), "reranked" where the model matches, "chance" (a random order).

    `images` and `texts` are the sizes of the two galleries; `left_out` samples could not be read. `scored` has the
    ranks and answers of every query. Of `repeated` images all texts stand with another image too: these are right
    answers for each other.
    """

    images: int
    texts: int
    left_out: int
    rows: Mapping[str, Recall]
    reranking: Reranking | None = None
    scored: Evaluation | None = None
    repeated: int = 0

    def to_json(self) -> dict[str, Any]:
        """{"images", "texts", "left_out", "repeated", "model": Recall, "reranked": Recall, "chance": Recall, and
        "reranking"}."""
        names = ("k", "weight", "hubness")
        used = None if self.reranking is None else {name: getattr(self.reranking, name) for name in names}
        sizes = {"images": self.images, "texts": self.texts, "left_out": self.left_out, "repeated": self.repeated}
        return {**sizes, **self.rows, "reranking": used}

    def table(self) -> str:
        """The figures in per cent, as plain text."""
        cuts = list(next(iter(self.rows.values()))["image_to_text"])
        width = 7
        lines = [
            f"{self.images} images, {self.texts} texts; recall in %",
            f"{'':10}{'image to text':>{width * len(cuts)}}   {'text to image':>{width * len(cuts)}}",
            f"{'':10}" + "   ".join("".join(f"{cut:>{width}}" for cut in cuts) for _ in range(2)),
        ]
        for name, recall in self.rows.items():
            halves = (recall["image_to_text"], recall["text_to_image"])
            figures = "   ".join("".join(f"{100 * half[cut]:{width}.1f}" for cut in cuts) for half in halves)
            lines.append(f"{name:10}{figures}")
        if self.repeated:
            lines.append(f"{self.repeated} images have the same texts as another, and are right answers for each other")
        return "\n".join(lines)


@dataclass(frozen=True)
class Evaluate:
    """Retrieval: Recall@1, 5 and 10 from image to text and from text to image, beside chance.

    By the vectors alone and with the best answers re-ranked by the fusion layers. Of data with splits "test" is taken
    unless --split says another.
    """

    run: RunFolder
    pairs: Pairs
    rerank: Annotated[bool, arg(help_behavior_hint="")] = True
    """Leave out re-ranking, which is done where the model can."""
    k: OptionalInt = None
    """How many answers are re-ranked. By default what the run's config.json says, else 32."""
    weight: OptionalFloat = None
    """Score = similarity + weight * log P(match). By default what the run's config.json says, else 0.07."""
    batch_size: int = 64
    """Images at a time."""
    workers: int = 0
    """Processes that read images ahead."""

    def evaluate(self) -> RetrievalResult:
        """Measures the run."""
        loaded = load_run(self.run)
        matches = isinstance(loaded.model, Matcher)
        reranking = None
        if self.rerank and matches:
            given = {"k": self.k, "weight": self.weight}
            chosen = {name: value for name, value in given.items() if value is not None}
            reranking = replace(Reranking.of_run(self.run), **chosen)
        result = evaluate_pairs(
            loaded,
            self.pairs.open(prefer="test"),
            reranking=reranking,
            batch_size=self.batch_size,
            workers=self.workers,
            show_progress=True,
        )
        if result.left_out:
            say(f"{result.left_out} samples could not be read and were left out")
        return result


def evaluate_pairs(
    loaded: Loaded,
    source: Source,
    *,
    reranking: Reranking | None = None,
    batch_size: int = 64,
    workers: int = 0,
    cuts: Sequence[int] = CUTS,
    show_progress: bool = False,
) -> RetrievalResult:
    """Recall of a model on the pairs of `source`, on the model's device.

    The states that re-ranking fuses are kept in main memory, those of every image included (for 5,000 images of
    577 states, 768 wide: 9 GB); without `reranking` the vectors alone are.

    Raises:
        InputError: The model has no vectors of one modality, reads no text, or cannot match; or no sample is usable.
    """
    matcher = None if reranking is None else loaded.model
    if matcher is not None and not isinstance(matcher, Matcher):
        raise InputError(f"{type(loaded.model).__name__} has no matching head, so it cannot re-rank")
    device, quarantine, encoder = loaded.device, Quarantine(), as_encoder(loaded.model)
    loader = Loader(
        source, loaded.spec, loaded.vocabulary, batch_size, workers=workers, train=False, quarantine=quarantine
    )
    images: list[Corpus] = []
    texts: list[Corpus] = []
    keep = reranking is not None
    for batch in with_progress(loader, "embedding", len(loader), show_progress):
        for parts, modality, part in zip((images, texts), ("image", "text"), by_modality(batch), strict=True):
            parts.append(encode_corpus(encoder, [part.to(device)], modality, tokens=keep))
    if not images:
        raise InputError(f"{source.name}: nothing to evaluate: {quarantine.summary()}")
    image, text = _joined(images), _joined(texts)
    scored = score_retrieval(
        image.vectors,
        text.vectors,
        image.ids,
        text.ids,
        matcher,
        _tokens_on(image, device),
        _tokens_on(text, device),
        k=1 if reranking is None else reranking.k,
        bank=None if reranking is None else reranking.bank,
        hubness=0.0 if reranking is None else reranking.hubness,
    )
    rows: dict[str, Recall] = {"model": scored.recall(cuts=cuts)}
    if reranking is not None:
        rows["reranked"] = scored.recall(add_log_sigmoid(reranking.weight), cuts)
    rows["chance"] = {
        "image_to_text": chance_recall(image.ids, text.ids, cuts),
        "text_to_image": chance_recall(text.ids, image.ids, cuts),
    }
    return RetrievalResult(len(image.ids), len(text.ids), quarantine.broken, rows, reranking, scored, loader.repeated)


def _joined(parts: Sequence[Corpus]) -> Corpus:
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return Corpus(
        torch.cat([part.vectors for part in parts]),
        torch.cat([part.ids for part in parts]),
        join_items(tokens) if tokens else None,
    )


def _tokens_on(corpus: Corpus, device: torch.device) -> TokenSource | None:
    tokens = corpus.tokens
    return None if tokens is None else lambda items: tokens.select(items).to(device)
