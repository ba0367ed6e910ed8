"""Recurrent layers over packed rows."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from coalign.types import Layout, Packed
from coalign.types.packed import to_device


class LastState(nn.Module):
    """An LSTM's hidden state after the last row of every item [B, D]; zeros for an item without rows."""

    def __init__(self, dim: int, hidden_dim: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.lstm = nn.LSTM(dim, hidden_dim, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, x: Packed) -> Float[Tensor, "b h"]:
        if not x.layout.total:
            return x.values.new_zeros(len(x), self.hidden_dim)
        sequence, _, order = in_steps(x)
        last: Tensor = self.lstm(sequence)[1][0][-1]  # under autocast of another type than the rows
        return last.new_zeros(len(x), self.hidden_dim).index_copy(0, order, last)


def in_steps(x: Packed) -> tuple[PackedSequence, Int[Tensor, " t"], Int[Tensor, " n"]]:
    """The items of `x` that have rows, as recurrent layers read them: the first row of each, the second row of each ...

    Returns the sequence too as row numbers of `x`, and its items in order. Nothing is padded, and the device is asked
    for nothing: what there is to sort is known on the host.
    """
    lengths = x.host_lengths
    real = (lengths > 0).nonzero().flatten()
    sizes, place = lengths[real].sort(descending=True)
    order = real[place]
    begin = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])[order]
    longest = x.max_length
    step, item = (sizes[None, :] > torch.arange(longest)[:, None]).nonzero(as_tuple=True)
    rows = to_device(begin[item] + step, x.layout.device)
    sequence = PackedSequence(x.values[rows], torch.bincount(step, minlength=longest))
    return sequence, rows, to_device(order, x.layout.device)


def by_place(x: Packed, places: Tensor, words: Packed) -> Packed:
    """The rows of `x` grouped by the word they fall in: one item a row of `words`, in the order of these rows.

    `places` [T] is the word of each row of `x` within its item, -1 for none. Which rows there are is asked of the
    device, once.
    """
    places = places.cpu()
    item = torch.arange(len(x)).repeat_interleave(x.host_lengths)
    inside = ((places >= 0) & (places < words.host_lengths[item])).nonzero().flatten()
    first = words.host_lengths.cumsum(0) - words.host_lengths
    word = (first[item] + places)[inside]
    counts = torch.bincount(word, minlength=words.layout.total)
    rows = to_device(inside[word.argsort(stable=True)], x.layout.device)
    return Packed(x.values[rows], Layout.of(counts, x.layout.device))
