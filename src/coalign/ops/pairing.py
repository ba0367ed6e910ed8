"""Which text goes with which image: mismatched pairs for matching, and pooled vectors of two images side by side."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coalign.types import Text


def draw_partners(
    size: int,
    ids: Int[Tensor, " b"] | None,
    *,
    probability: float = 0.5,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Int[Tensor, " b"]:
    """The item whose text each image gets: its own, or with this probability any other one's, uniformly.

    Items that share an id belong together and are never each other's wrong text; one that has no other keeps its own.
    """
    own = torch.arange(size, device=device)
    others = own[:, None] != own if ids is None else ids[:, None] != ids
    possible = others.any(1)
    weights = torch.where(possible[:, None], others, own[:, None] == own).float()
    swapped = torch.rand(size, generator=generator, device=device) < probability
    drawn = torch.multinomial(weights, 1, generator=generator).squeeze(1) if size else own
    return torch.where(swapped & possible, drawn, own)


def take_texts(text: Text, items: Int[Tensor, " b"]) -> Text:
    """The texts of these items, in this order, repeats allowed."""

    def take(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else text.ids.with_values(rows).select(items).values

    return Text(text.ids.select(items), take(text.types), take(text.words))


def side_by_side(pooled: Float[Tensor, "n d"], images: int) -> Float[Tensor, "b e"]:
    """Joins the vectors of an item's images end to end: [images · B, d], place by place, to [B, images · d]."""
    return torch.cat(pooled.chunk(images), 1) if images > 1 else pooled
