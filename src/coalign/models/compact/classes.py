"""Pictures among texts by the names of the classes that a frozen network sees in them: ConSE (Norouzi et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.types import Packed


class ClassNames(nn.Module):
    """A picture's vector is the mean of its classes' names, read as sentences, weighted by their probabilities (section
    3.2, eq. 3, over all classes); a text's is its sentence. Both are taken from the mean of all names, which is what
    texts have in common, and have unit length. Nothing of it is trained."""

    def __init__(self, classes: int, dim: int, width: int) -> None:
        super().__init__()
        self.register_buffer("names", torch.zeros(classes, dim))
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @torch.no_grad()
    def name(self, sentences: Tensor) -> None:
        """Sets the names from the sentences [classes, dim] that they are."""
        self.get_buffer("center").copy_(F.normalize(sentences, dim=-1).mean(0))
        self.get_buffer("names").copy_(F.normalize(sentences, dim=-1) - self.get_buffer("center"))

    @torch.no_grad()
    def standardise(self, pooled: Tensor) -> None:
        """Sets mean and deviation of what the classifier reads, [N, width]."""
        self.get_buffer("mean").copy_(pooled.mean(0))
        self.get_buffer("std").copy_(pooled.std(0) + 0.1)

    def images(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """[B, width + dim]: `pooled` [B, width], standardised, beside the vectors of class logits [B, classes]."""
        return torch.cat([(pooled - self.get_buffer("mean")) / self.get_buffer("std"), self.named(logits)], 1)

    def named(self, logits: Tensor) -> Tensor:
        """[..., dim]: the unit vectors of pictures, or of their cells, by their class logits [..., classes]."""
        return F.normalize(logits.softmax(-1) @ self.get_buffer("names"), dim=-1)

    def similarity(self, logits: Tensor, text: Packed, size: Sequence[int]) -> list[Tensor]:
        """[L_i, *size] of each pair: the cosines of its words, by their states, and its picture's cells, by their class
        logits [B, h, w, classes]."""
        cells, words = self.named(logits), self.texts(text.values).split(text.host_lengths.tolist())
        similarities = [torch.einsum("hwd,ld->lhw", own, each) for own, each in zip(cells, words, strict=True)]
        return [F.interpolate(each[None], size=tuple(size), mode="bilinear")[0] for each in similarities]

    def texts(self, sentences: Tensor) -> Tensor:
        """[T, dim]: the vectors of sentences."""
        return F.normalize(F.normalize(sentences, dim=-1) - self.get_buffer("center"), dim=-1)
