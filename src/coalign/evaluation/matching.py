"""How well a text and an image match, by models that read both at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from coalign.analysis.runs.scores import encoding_scores, text_vectors
from coalign.data.loaded import Loaded
from coalign.data.questions.items import encode_texts
from coalign.data.questions.pictures import Pictures, Seen
from coalign.ops.pairing import take_regions, take_texts
from coalign.types import Batch, Images, Layout, Matcher, Packed

KEPT = 1 << 30
"""Bytes of texts' states that are kept at most."""


class PairScorer:
    """Scores pairs of images and texts, `chunk` texts of one image at a time.

    Models of two streams, which encode regions and words apart before the cross-attention, do so once an image, and
    once a text where the states of all texts fit in `KEPT` bytes. Otherwise no states of either are kept. Models that
    have vectors and no way to match score by their product, each image and text encoded once.
    """

    def __init__(
        self, loaded: Loaded, pictures: Pictures, images: Sequence[str | int], texts: Sequence[str], chunk: int = 64
    ) -> None:
        self.loaded, self.pictures, self.images, self.chunk = loaded, pictures, images, chunk
        self.text = encode_texts(loaded.vocabulary, texts, loaded.spec)
        self.device = loaded.device
        self._apart = loaded.spec.regions is not None and isinstance(loaded.model, Matcher)
        self._texts: Packed | None = None
        self._vectors: Tensor | None = None

    @torch.no_grad()
    def row(self, image: int, texts: Tensor, done: Callable[[int], None] | None = None) -> Tensor:
        """[n] scores of image number `image` with the texts of these numbers [n], on the CPU."""
        seen, scores = self.pictures.batch([self.images[image]]), list[Tensor]()
        if self._vectors is not None:
            shown = self.loaded.model.encode(Batch(images=seen.images, regions=seen.regions).to(self.device))
            own = next(vectors for name, vectors in shown.vectors.items() if name != "text")
            if done is not None:
                done(len(texts))
            return (self._vectors[texts.to(self.device)] @ own[0]).float().cpu()
        states = self._image_states(seen) if self._apart else None
        for part in texts.split(self.chunk):
            part_scores = self._encode_pairs(seen, part) if states is None else self._match(states, part)
            scores.append(part_scores.float().cpu())
            if done is not None:
                done(len(part))
        return torch.cat(scores) if scores else torch.zeros(0)

    def _encode_pairs(self, seen: Seen, texts: Tensor) -> Tensor:
        batch = repeated(seen, len(texts))
        moved = Batch(take_texts(self.text, texts), batch.images, batch.regions).to(self.device)
        scores, odds = encoding_scores(self.loaded.model, self.loaded.model.encode(moved))
        if not odds:  # from the next image on
            self._vectors = self._text_vectors()
        return scores

    def _text_vectors(self) -> Tensor | None:
        """[T, D] of all texts; None where the model has none without their images."""
        parts: list[Tensor] = []
        for part in torch.arange(len(self.text.ids)).split(self.chunk):
            vectors = text_vectors(self.loaded.model, take_texts(self.text, part).to(self.device))
            if vectors is None:
                return None
            parts.append(vectors)
        return torch.cat(parts)

    def _image_states(self, seen: Seen) -> Packed:
        return self.loaded.model.encode(Batch(regions=seen.regions).to(self.device)).tokens["regions"]

    def _match(self, image: Packed, texts: Tensor) -> Tensor:
        first = torch.zeros_like(texts)
        pairs = torch.stack([first, torch.arange(len(texts))], 1).to(self.device)
        assert isinstance(self.loaded.model, Matcher)
        return self.loaded.model.match(image, self._text_states(texts), pairs)

    def _text_states(self, texts: Tensor) -> Packed:
        """The states of these texts, kept or made anew."""
        if self._texts is None:
            sample = self._encode_texts(texts)
            width = sample.values.shape[1] * sample.values.element_size()
            if self.text.ids.layout.total * width > KEPT:
                return sample
            parts = [self._encode_texts(part).to("cpu") for part in torch.arange(len(self.text.ids)).split(self.chunk)]
            lengths = [length for part in parts for length in part.host_lengths.tolist()]
            self._texts = Packed(torch.cat([part.values for part in parts]), Layout.of(lengths))
        return self._texts.select(texts).to(self.device)

    def _encode_texts(self, texts: Tensor) -> Packed:
        return self.loaded.model.encode(Batch(text=take_texts(self.text, texts)).to(self.device)).tokens["text"]


def repeated(seen: Seen, count: int) -> Seen:
    """One image `count` times."""
    if seen.regions is not None:
        return Seen(regions=take_regions(seen.regions, torch.zeros(count, dtype=torch.int64)))
    assert seen.images is not None and seen.images.pixels is not None  # one picture is a batch without padding
    return Seen(images=Images(pixels=seen.images.pixels.expand(count, -1, -1, -1)))
