"""Words and patches of the compact system in one space: what its maps show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.layers.attention import FeedForward
from coalign.objectives.late_interaction import LateInteraction
from coalign.types import Candidates, Mosaics, Packed

NAMED = 14.0
"""The weight of the names of classes in maps; 12 to 16 point best on a development split (docs/log.md)."""


class WordPatches(nn.Module):
    """A linear map of the frozen stem's cells and a two-layer one of frozen text states, both to unit vectors.

    Cells are standardised by channel alone, so that a thing's vector is the same wherever it stands.
    """

    def __init__(self, stem: int, text_dim: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.image = nn.Linear(stem, dim)
        self.text = FeedForward(text_dim, hidden, dim, dropout=dropout)
        self.log_scale = Parameter(torch.tensor(math.log(14.0)))
        self.register_buffer("mean", torch.zeros(stem, 1, 1))
        self.register_buffer("std", torch.ones(stem, 1, 1))
        self.objective = LateInteraction()

    @torch.no_grad()
    def standardise(self, grids: Tensor) -> None:
        """Sets mean and deviation of each channel of features [N, C, h, w]."""
        self.get_buffer("mean").copy_(grids.mean((0, 2, 3))[:, None, None])
        self.get_buffer("std").copy_(grids.std((0, 2, 3))[:, None, None] + 1e-3)

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(max=100.0)

    def patches(self, grid: Tensor) -> Tensor:
        """Stem features [B, C, h, w] to unit vectors [B, h, w, dim]."""
        rows = (grid - self.get_buffer("mean")) / self.get_buffer("std")
        return F.normalize(self.image(rows.permute(0, 2, 3, 1)), dim=-1)

    def words(self, states: Tensor) -> Tensor:
        """Text states [T, text_dim] to unit vectors [T, dim]."""
        return F.normalize(self.text(F.normalize(states, dim=-1) * states.shape[1] ** 0.5), dim=-1)

    def maps(self, grid: Tensor, text: Packed, named: Sequence[Tensor] | None = None) -> list[Tensor]:
        """[L_i, h, w] of each pair: how each word's similarity to the patches, softmax over them, is spread. `named`
        are the similarities of the same by the names of classes, added with the weight `NAMED`."""
        patches, words = self.patches(grid), self.words(text.values).split(text.host_lengths.tolist())
        similarity = [torch.einsum("hwd,ld->lhw", p, w) * self.scale for p, w in zip(patches, words, strict=True)]
        if named is not None:
            similarity = [own + NAMED * other for own, other in zip(similarity, named, strict=True)]
        return [s.flatten(1).softmax(1).view_as(s) for s in similarity]

    def loss(
        self, grid: Tensor, pooled: Tensor, ids: Tensor, candidates: Candidates | None, mosaics: Mosaics | None
    ) -> Tensor:
        """Images against texts and, where mosaics come with the batch, words and whole texts against their cells."""
        texts, text_ids = pooled, ids
        if candidates is not None:
            texts, text_ids = torch.cat([pooled, candidates.states]), torch.cat([ids, candidates.ids])
        loss = self.objective(self.patches(grid).flatten(1, 2), self.words(texts), self.scale, ids, text_ids)
        return loss if mosaics is None else loss + self.mosaic_loss(mosaics)

    def mosaic_loss(self, mosaics: Mosaics) -> Tensor:
        assert mosaics.images.grid is not None and mosaics.text.states is not None
        count, cells = mosaics.ids.shape
        side = round(cells**0.5)
        patches = self.patches(mosaics.images.grid)
        patches = patches.unflatten(1, (side, -1)).unflatten(3, (side, -1)).transpose(2, 3)  # [M, side, side, h, w, d]
        patches = patches.flatten(3, 4).flatten(1, 2)
        rows, cell, named = mosaics.rows, mosaics.cells, mosaics.named
        states, mosaic = mosaics.text.states[rows], mosaics.text.ids.layout.item[rows]
        loss = self.objective.cells(patches, self.words(states), self.scale, mosaic, cell)
        # each cell's text as a whole, by the mean of its states in the caption, against all cells
        place = mosaic * cells + cell
        total = states.new_zeros(count * cells, states.shape[1]).index_add(0, place, states)
        ids = mosaics.ids.flatten()[named]
        texts = self.words(total[named])
        return loss + self.objective(patches.flatten(0, 1)[named], texts, self.scale, ids, ids)
