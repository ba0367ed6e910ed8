"""Two modalities in one stream: text rows, then the other's, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from coalign.errors import InputError
from coalign.layers.transformer import Encoder
from coalign.ops.alignment import AlignmentRecord, Attended, Rows, cosines
from coalign.ops.attention import Mask
from coalign.types import Layout, Packed, Record, Text


@dataclass(frozen=True, eq=False)
class Joint:
    """Rows of one stream and where each modality's lie; `other` is None for text alone."""

    rows: Packed
    text: Layout
    other: Layout | None

    @staticmethod
    def of(text: Packed, other: Packed | None) -> Joint:
        if other is None:
            return Joint(text, text.layout, None)
        if len(text) != len(other):
            raise InputError(f"{len(text)} texts cannot be paired with {len(other)} images")
        return Joint(Packed.concat(text, other), text.layout, other.layout)

    def through(
        self, encoder: Encoder, record: Record | None = None, name: str = "joint.", *, first: bool = False
    ) -> Joint:
        """The same after the blocks, in which all rows of an item see each other. With `first` the result holds the
        first row of each item alone, as a stream of text, and no other is computed by the last block."""
        mask, start = Mask.within(self.rows), self.rows.layout.first[:, None]
        rows = encoder(self.rows.values, mask, rows=start if first else None, record=record, name=name)
        if first:
            return Joint.of(Packed.uniform(rows[:, None]), None)
        return Joint(self.rows.with_values(rows), self.text, self.other)

    def read(self, encoder: Encoder, text: Tensor | None = None, other: Tensor | None = None) -> Read:
        """The states after the blocks of the first rows, of these rows of the texts, and of these of the other
        modality, numbers [n] of either on the host; the last block computes no others."""
        begin = self.rows.layout.host_first
        places = [begin]
        for rows, layout, before in ((text, self.text, 0), (other, self.other, self.text.host_lengths)):
            if rows is None or layout is None:
                places.append(begin[:0])
            else:
                item = torch.searchsorted(layout.host_lengths.cumsum(0), rows, right=True)
                places.append(rows + (begin + before - layout.host_first)[item])
        states = encoder(self.rows.values, Mask.within(self.rows), rows=torch.cat(places))
        return Read(*states.split([len(rows) for rows in places]))

    def split(self) -> tuple[Packed, Packed]:
        """The text rows and the other modality's."""
        if self.other is None:
            raise InputError("this stream holds text alone")
        return self.rows.split(self.text, self.other)

    def tokens(self, other: str) -> dict[str, Packed]:
        """States by modality: "text", the other's by its name, and "fused", all of them."""
        if self.other is None:
            return {"text": self.rows, "fused": self.rows}
        text, second = self.split()
        return {"text": text, other: second, "fused": self.rows}

    def alignment(
        self,
        record: Record,
        name: str = "joint.",
        *,
        before: int = 0,
        after: int = 0,
        score: Tensor | None = None,
        plan: Sequence[Tensor] | None = None,
    ) -> AlignmentRecord:
        """Attention recorded under `name` between text rows and the other modality's, as a row of
        places an item. Of the latter, `before` rows at the beginning and `after` at the end are no places."""
        if self.other is None:
            raise InputError("this stream holds text alone")
        words, rows = self.text.host_lengths.tolist(), self.other.host_lengths.tolist()
        counts = [count - before - after for count in rows]
        depth = sum(key.startswith(name) and key.endswith(".attention") for key in record)
        layers = [[Attended("joint", "joint", record[f"{name}{i}.attention"])] for i in range(depth)]
        pairs = [pair[:, before : before + count] for pair, count in zip(cosines(*self.split()), counts, strict=True)]
        return AlignmentRecord(
            Rows.of("joint", words),
            Rows.of("joint", counts, [own + before for own in words]),
            [(count,) for count in counts],
            layers,
            score=score,
            plan=plan,
            similarity=pairs,
            grad_layer=max(depth - 2, 0),  # of the last block, the score reads the first row alone
        )

    @property
    def texts(self) -> Packed:
        return self.rows if self.other is None else self.split()[0]


@dataclass(frozen=True, eq=False)
class Read:
    """States that were asked for: the first row of each item [B, D], and rows of the text and of the other modality."""

    first: Tensor
    text: Tensor
    other: Tensor


def with_words(text: Text, ids: Int[Tensor, " t"]) -> Text:
    """The text with other ids: those with words hidden."""
    return replace(text, ids=text.ids.with_values(ids))


def same_items(index: Int[Tensor, " b"], ids: Int[Tensor, " b"] | None) -> Bool[Tensor, " b"]:
    """Whether item `index[i]` is item i, or shares its id."""
    own = index == torch.arange(index.shape[0], device=index.device)
    return own if ids is None else own | (ids[index] == ids)
