"""How well text and image belong together by a model's own account: a matching head, or the product of vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from coalign.errors import InputError
from coalign.ops.pairing import take_images, take_regions, take_texts
from coalign.types import Batch, Encoding, Matcher, Text


@runtime_checkable
class Encodes(Protocol):
    """A model that encodes."""

    def encode(self, batch: Batch) -> Encoding: ...


def match_scores(model: object, encoding: Encoding) -> Tensor:
    """[B] the log-odds that text and image of each item match; a retrieval head's score where the model has one.

    Raises:
        InputError: the model does not match.
    """
    pooled = encoding.pooled
    if "match_logits" in pooled:
        match = int(getattr(model, "match_class", 1))
        return pooled["match_logits"][:, match] - pooled["match_logits"][:, 1 - match]
    if "logits" in pooled and pooled["logits"].shape[-1] == 1:
        return pooled["logits"][:, 0]
    raise InputError(
        f"{type(model).__name__} has no matching head: use a pre-trained model, or one fine-tuned to retrieve"
    )


def vector_scores(encoding: Encoding) -> Tensor | None:
    """[B] the product of each item's two vectors, None where there are not two."""
    if "text" not in encoding.vectors or len(encoding.vectors) < 2:
        return None
    other = next(vectors for name, vectors in encoding.vectors.items() if name != "text")
    return (encoding.vectors["text"] * other).sum(-1)


def has_score(model: object) -> bool:
    """Whether a model can be asked for scores: it encodes."""
    return callable(getattr(model, "encode", None))


@torch.no_grad()
def scores_of_pairs(model: Encodes, shown: Batch, texts: Text, pairs: Tensor, *, chunk: int = 64) -> Tensor:
    """[P] scores of pairs [P, 2] of (image, text) numbers, on the CPU, `chunk` at a time.

    Models that see images and texts apart, before they match them or by vectors alone, see each once.

    Raises:
        InputError: the model has no score of text and image.
    """
    device = texts.ids.layout.device
    if isinstance(model, Matcher):
        seen, read = model.encode(shown).tokens, model.encode(Batch(text=texts)).matched("text")
        image = next(seen[name] for name in ("image", "regions", "video") if name in seen)
        return torch.cat([model.match(image, read, part.to(device)).float().cpu() for part in pairs.split(chunk)])
    vectors = text_vectors(model, texts)
    if vectors is not None:
        image = next(own for name, own in model.encode(shown).vectors.items() if name != "text")
        return (image[pairs[:, 0].to(device)] * vectors[pairs[:, 1].to(device)]).sum(-1).float().cpu()
    return torch.cat(
        [
            pair_scores(
                model, replace(take(shown, part[:, 0].to(device)), text=take_texts(texts, part[:, 1].to(device)))
            )
            for part in pairs.split(chunk)
        ]
    ).cpu()


def text_vectors(model: Encodes, texts: Text) -> Tensor | None:
    """[B, D] the vectors of texts alone; None where the model has none, or reads no text without its image."""
    try:
        return model.encode(Batch(text=texts)).vectors.get("text")
    except InputError:
        return None


def take(batch: Batch, items: Tensor) -> Batch:
    """These items of a batch, in this order, repeats allowed; ids and labels are left out."""
    video = batch.video
    if video is not None:
        frames = None if video.frames is None else video.frames[items]
        features = None if video.features is None else video.features.select(items)
        video = replace(video, frames=frames, features=features, times=None)
    return Batch(
        text=None if batch.text is None else take_texts(batch.text, items),
        images=None if batch.images is None else take_images(batch.images, items),
        regions=None if batch.regions is None else take_regions(batch.regions, items),
        video=video,
    )


@torch.no_grad()
def pair_scores(model: Encodes, batch: Batch, *, probability: bool = False) -> Tensor:
    """[B] the log-odds of a match where the model matches, else the product of its vectors.

    With `probability`, log-odds become probabilities; a product stays as it is.

    Raises:
        InputError: the model has neither.
    """
    scores, odds = encoding_scores(model, model.encode(batch))
    return scores.sigmoid() if probability and odds else scores


def encoding_scores(model: object, encoding: Encoding) -> tuple[Tensor, bool]:
    """[B] the log-odds of a match, and True; of a model that does not match the product of its vectors, and False.

    Raises:
        InputError: the model has neither.
    """
    product = vector_scores(encoding)
    if "match_logits" not in encoding.pooled and product is not None:
        return product.float(), False
    return match_scores(model, encoding).float(), True
