"""Alignment learnt with CTC: a stream's rows moved to the steps of another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.recurrent import in_steps
from coalign.types import Layout, Packed


class CtcAlignment(nn.Module):
    """A stream of any length at the steps of a reference, such as the words of the text (MulT, section 4.1).

    A two-layer LSTM says for every row which step it belongs to, or none (blank); a step is the sum of the rows,
    weighted by their probability to belong to it. The CTC loss (Graves et al. 2006) asks that the steps come in order.
    Systems that need aligned streams are compared with MulT in this way.
    """

    def __init__(self, dim: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.place = nn.LSTM(dim, steps + 1, num_layers=2, batch_first=True)

    def forward(self, x: Packed, reference: Layout) -> tuple[Packed, Tensor]:
        """Rows with the layout `reference`, and logits [B, L, 1 + steps] of each row's step; place 0 is blank."""
        if reference.max_length > self.steps:
            raise InputError(f"a reference of {reference.max_length} steps, this alignment knows {self.steps}")
        padded = x.to_padded()
        sequence, rows, _ = in_steps(x)
        placed: Tensor = self.place(sequence)[0].data
        logits = x.with_values(torch.empty_like(placed).index_copy(0, rows, placed)).to_padded()
        share = logits.softmax(-1)[:, :, 1:] * x.padding_mask().unsqueeze(-1)
        steps = share.transpose(1, 2) @ padded
        return Packed(steps.flatten(0, 1)[reference.item * self.steps + reference.position], reference), logits

    @staticmethod
    def loss(logits: Tensor, x: Layout, reference: Layout) -> Tensor:
        """The CTC loss, a mean over items: each item's steps 1, 2 ... in order.

        An item with fewer rows than steps cannot be aligned and adds nothing.
        """
        target = Packed(reference.position + 1, reference).to_padded()
        chances = logits.log_softmax(-1).transpose(0, 1)
        lost = F.ctc_loss(chances, target, x.lengths, reference.lengths, reduction="none", zero_infinity=True)
        return lost.mean()
