"""Choosing and hiding words, patches and features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from coalign.types import Layout, Packed
from coalign.types.packed import to_device

IGNORED = -100
"""The label of a position that is not predicted."""


def mask_tokens(
    ids: Int[Tensor, " t"],
    maskable: Bool[Tensor, " t"],
    *,
    probability: float,
    mask_id: int,
    vocab_size: int,
    generator: torch.Generator | None = None,
    words: Int[Tensor, " t"] | None = None,
) -> tuple[Int[Tensor, " t"], Int[Tensor, " t"]]:
    """Hides each maskable id with this probability: 80 % become [MASK], 10 % a random id, 10 % stay (BERT, 3.1).

    Draws on the host. With `words`, the word of each piece (-1 at special tokens), all pieces of a word are hidden or
    none (whole-word masking). Returns the ids with words hidden, and labels: the true id where one is to be
    predicted, `IGNORED` elsewhere.
    """
    chance = to_device(torch.rand((3, *ids.shape), generator=generator), ids.device)
    if words is not None:
        place = torch.arange(words.shape[0], device=words.device)
        continued = (words == words.roll(1)) & (words >= 0) & (place > 0)
        chance[0] = chance[0][place.masked_fill(continued, 0).cummax(0).values]
    chosen = maskable & (chance[0] < probability)
    labels = torch.where(chosen, ids, IGNORED)
    hidden = torch.where(chosen & (chance[1] < 0.8), mask_id, ids)
    random = to_device(torch.randint(vocab_size, ids.shape, generator=generator), ids.device)
    return torch.where(chosen & (chance[1] >= 0.9), random, hidden), labels


def mask_features(
    features: Float[Tensor, "t d"],
    *,
    probability: float,
    zero: float = 0.8,
    random: float = 0.1,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "t d"], Bool[Tensor, " t"]]:
    """Hides each region's feature with this probability: of the chosen, `zero` become 0, `random` another row's.

    Draws on the host. Returns the features with some hidden, and which were chosen (there): those to predict.
    LXMERT (Tan & Bansal 2019, 3.1.2) has 0.8 and 0.1, ViLBERT (Lu et al. 2019, 3.1) 0.9 and 0.
    """
    count = features.shape[0]
    device = features.device
    chance = torch.rand((2, count), generator=generator)
    chosen = chance[0] < probability
    hidden = features.masked_fill(to_device(chosen & (chance[1] < zero), device)[:, None], 0.0)
    if random and count:
        others = torch.randint(count, (count,), generator=generator)
        replaced = chosen & (chance[1] >= zero) & (chance[1] < zero + random)
        hidden = torch.where(to_device(replaced, device)[:, None], features[to_device(others, device)], hidden)
    return hidden, chosen


def draw_regions(layout: Layout, probability: float, generator: torch.Generator | None) -> Bool[Tensor, " t"]:
    """Hides each region with this probability, and at least one an image (the one with the lowest draw)."""
    chance = torch.rand(layout.total, generator=generator, device=layout.device)
    lowest = chance.new_ones(len(layout)).scatter_reduce(0, layout.item, chance, "amin")
    return (chance < probability) | (chance == lowest[layout.item])


def predicted_rows(labels: Shaped[Tensor, " t"]) -> Int[Tensor, " n"]:
    """The positions to predict: those whose label is not negative, or that a mask has. For labels on the host: how many
    there are decides sizes."""
    return (labels if labels.dtype == torch.bool else labels >= 0).nonzero().squeeze(1)


class Drawn(Mapping[str, Tensor]):
    """A step's random choices by name, on the device; `host` has them where they were drawn."""

    def __init__(self, host: Mapping[str, Tensor], device: torch.device) -> None:
        self.host, self.device = host, device
        self._moved: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._moved:
            self._moved[name] = to_device(self.host[name], self.device)
        return self._moved[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.host)

    def __len__(self) -> int:
        return len(self.host)

    def rows(self, name: str) -> Int[Tensor, " n"]:
        """`predicted_rows` of these labels or this mask, on the device."""
        return to_device(self.host_rows(name), self.device)

    def host_rows(self, name: str) -> Int[Tensor, " n"]:
        """The same on the host: what says which rows a block computes."""
        return predicted_rows(self.host[name])


def next_tokens(ids: Packed) -> Int[Tensor, " t"]:
    """The label of each row when predicting the following id of its text; `IGNORED` at ends and before hidden rows."""
    layout, values = ids.layout, ids.values
    if layout.total == 0:
        return values
    following = torch.cat([values[1:], values[:1]])
    last = torch.cat([layout.item[1:] != layout.item[:-1], layout.item.new_ones(1, dtype=torch.bool)])
    if layout.hidden is not None:
        last = last | torch.cat([layout.hidden[1:], layout.hidden[:1]]) | layout.hidden
    return following.masked_fill(last, IGNORED)
