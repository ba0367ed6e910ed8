"""Maps of a text's pieces over an image's patches, of models whose towers meet in one vector each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.ops.alignment import cosines, pooled
from coalign.types import Batch, Images, Packed


@dataclass(frozen=True, eq=False)
class TokenRows:
    """A pass over pairs. `words` and `patches` are their rows in the space of the vectors; `image` [B, d] the images'
    vectors; `attention` [B, H, q, n] that of the block or pool that makes them, whose first query is the vector's and
    whose keys from `first` on are the patches; `grids` the rows and columns of each image's patches."""

    words: Packed
    patches: Packed
    image: Tensor
    attention: Tensor
    first: int
    grids: Sequence[tuple[int, int]]

    def shaped(self, item: int, weights: Tensor) -> Tensor:
        """[..., rows, columns] of an item's weights [..., n] over all keys."""
        rows, columns = self.grids[item]
        return weights[..., self.first : self.first + rows * columns].unflatten(-1, (rows, columns))


class TokenMaps(Aligning):
    """Of a model that gives `token_rows`:

    * "similarity": the cosine of each piece's row with each patch's, both in the space of the vectors;
    * "cross_attention": what the image's vector attends to where it is pooled, the same for all pieces;
    * "grad_cam": that attention times the positive part of the gradient of the piece's cosine with the image's vector
      (Selvaraju et al. 2017), a backward pass a piece.
    """

    METHODS = ("similarity", "cross_attention", "grad_cam")

    def token_rows(self, batch: Batch) -> TokenRows:
        """A pass over pairs of text and image."""
        raise NotImplementedError

    def alignment(
        self,
        batch: Batch,
        method: str | None = None,
        *,
        layer: int | None = None,
        head: int | None = None,
        back: bool = False,
    ) -> list[Tensor]:
        """[pieces, rows, columns] a pair; `back` makes of attention each piece's share in what is drawn on a place."""
        wanted = self.checked(method)
        if layer is not None or (wanted == "similarity" and head is not None):
            raise InputError(f"{wanted!r} has no layers" + (" and no heads" if wanted == "similarity" else ""))
        if wanted == "similarity":
            with torch.no_grad():
                rows = self.token_rows(batch)
            return [
                own.unflatten(1, grid) for own, grid in zip(cosines(rows.words, rows.patches), rows.grids, strict=True)
            ]
        maps = self._attended(batch, head) if wanted == "cross_attention" else self._grad_cam(batch, head)
        return [own / own.sum(0).clamp(min=torch.finfo(own.dtype).tiny) for own in maps] if back else maps

    @torch.no_grad()
    def _attended(self, batch: Batch, head: int | None) -> list[Tensor]:
        rows = self.token_rows(batch)
        seen, counts = pooled(rows.attention, head)[:, 0], rows.words.host_lengths.tolist()
        return [
            rows.shaped(i, own).expand(count, -1, -1) for i, (own, count) in enumerate(zip(seen, counts, strict=True))
        ]

    @torch.enable_grad()
    def _grad_cam(self, batch: Batch, head: int | None) -> list[Tensor]:
        assert batch.images is not None
        rows = self.token_rows(replace(batch, images=_in_graph(batch.images)))
        layout = rows.words.layout
        near = (F.normalize(rows.words.values, dim=-1) * F.normalize(rows.image, dim=-1)[layout.item]).sum(-1)
        maps: list[list[Tensor]] = [[] for _ in rows.grids]
        for place in range(layout.max_length):
            (slope,) = torch.autograd.grad(near[layout.position == place].sum(), rows.attention, retain_graph=True)
            seen = pooled(rows.attention.detach() * slope.clamp(min=0), head)[:, 0]
            for item, count in enumerate(rows.words.host_lengths.tolist()):
                if place < count:
                    maps[item].append(rows.shaped(item, seen[item]))
        return [torch.stack(own) for own in maps]


def _in_graph(images: Images) -> Images:
    """The images with gradients, which locked towers need."""
    if images.patches is not None:
        values = images.patches.rows.values.detach().requires_grad_()
        return replace(images, patches=replace(images.patches, rows=images.patches.rows.with_values(values)))
    return images if images.pixels is None else replace(images, pixels=images.pixels.detach().requires_grad_())
