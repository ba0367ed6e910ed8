"""How well a text and an image match, by models that look at both at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from coalign.data.asked import encode_texts
from coalign.data.pictures import Pictures, Seen
from coalign.errors import InputError
from coalign.ops.pairing import take_regions, take_texts
from coalign.tasks._visual import Model
from coalign.tasks.retrieval import device_of
from coalign.types import Batch, Encoding, Images


def match_scores(model: Any, encoding: Encoding) -> Tensor:
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


class PairScorer:
    """Scores pairs of images and texts, `chunk` texts of one image at a time; keeps no states of either."""

    def __init__(
        self, found: Model, pictures: Pictures, images: Sequence[str | int], texts: Sequence[str], chunk: int = 64
    ) -> None:
        self.found, self.pictures, self.images, self.chunk = found, pictures, images, chunk
        self.text = encode_texts(found.tokenizer, texts, found.spec)
        self.device = device_of(found.model)

    @torch.no_grad()
    def row(self, image: int, texts: Tensor, done: Callable[[int], None] | None = None) -> Tensor:
        """[n] scores of image number `image` with the texts of these numbers [n], on the CPU."""
        seen, scores = self.pictures.batch([self.images[image]]), list[Tensor]()
        for part in texts.split(self.chunk):
            batch = repeated(seen, len(part))
            moved = Batch(take_texts(self.text, part), batch.images, batch.regions).to(self.device)
            scores.append(match_scores(self.found.model, self.found.model.encode(moved)).float().cpu())
            if done is not None:
                done(len(part))
        return torch.cat(scores) if scores else torch.zeros(0)


def repeated(seen: Seen, count: int) -> Seen:
    """One image `count` times."""
    if seen.regions is not None:
        return Seen(regions=take_regions(seen.regions, torch.zeros(count, dtype=torch.int64)))
    assert seen.images is not None and seen.images.pixels is not None  # one picture is a batch without padding
    return Seen(images=Images(pixels=seen.images.pixels.expand(count, -1, -1, -1)))
