"""Recurrent layers over packed rows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from coalign.types import Layout, Packed


class LastState(nn.Module):
    """An LSTM's hidden state after the last row of every item [B, D]; zeros for an item without rows."""

    def __init__(self, dim: int, hidden_dim: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.lstm = nn.LSTM(dim, hidden_dim, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, x: Packed) -> Float[Tensor, "b h"]:
        lengths = x.lengths.cpu()
        out = x.values.new_zeros(len(x), self.hidden_dim)
        real = (lengths > 0).nonzero().flatten()
        if not len(real):
            return out
        padded = x.to_padded()[real.to(x.values.device)]
        sequence = pack_padded_sequence(padded, lengths[real], batch_first=True, enforce_sorted=False)
        last: Tensor = self.lstm(sequence)[1][0][-1]
        return out.index_copy(0, real.to(x.values.device), last)


def by_place(x: Packed, places: Tensor, words: Packed) -> Packed:
    """The rows of `x` grouped by the word they fall in: one item a row of `words`, in the order of these rows.

    `places` [T] is the word of each row of `x` within its item, -1 for none. Which rows there are is asked of the
    device.
    """
    lengths = words.lengths[x.layout.item]
    inside = ((places >= 0) & (places < lengths)).nonzero().flatten()
    word = (words.layout.first[x.layout.item] + places)[inside]
    order = word.argsort(stable=True)
    counts = torch.bincount(word, minlength=words.layout.total)
    return Packed(x.values[inside[order]], Layout.of(counts.tolist(), x.values.device))
