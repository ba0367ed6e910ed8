"""Fusion by cross-attention in the last blocks of a text encoder (ALBEF, Li et al. 2021, section 3.1).

`encoder` is the whole stack; blocks from `first` on have a cross-attention to image rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from coalign.layers.transformer import Context, Encoder, TransformerBlock
from coalign.ops.attention import Mask
from coalign.types import Layout, Packed, Record
from coalign.types.packed import to_device


def fuse(
    encoder: Encoder, first: int, text: Packed, image: Packed, mask: Mask | None = None, record: Record | None = None
) -> Packed:
    """Fused states of text i with image i, or as `mask` says; an image's keys and values are computed once."""
    context = Context(image.values, mask or Mask.between(text, image))
    return text.with_values(
        encoder(text.values, Mask.within(text), context, first=first, record=record, name="fusion.")
    )


def fuse_at(encoder: Encoder, first: int, text: Packed, image: Packed, rows: Tensor) -> Tensor:
    """The fused states of text i with image i at these rows of the texts alone, [n] in any order, in their order."""
    context = Context(image.values, Mask.between(text, image))
    return encoder(text.values, Mask.within(text), context, first=first, rows=rows)


def fuse_first(
    encoder: Encoder,
    first: int,
    text: Packed,
    image: Packed,
    pairs: tuple[Tensor, Tensor],
    counts: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """The fused [CLS] rows [P, dim] of pairs (text numbers, image numbers) and nothing that they do not need.

    What a text gives before it sees an image is computed once a text, an image's keys and values once an image, and
    the last block runs on the [CLS] rows alone. Where the pairs are sorted by image, `counts` says how many each image
    has: then its texts are one query, and its keys and values are not copied.
    """
    blocks, x = list(encoder.blocks)[first:], text
    for number, block in enumerate(blocks):
        assert isinstance(block, TransformerBlock)
        if number == len(blocks) - 1:
            rows = Layout.uniform(len(x), 1, x.values.device)
            x = Packed(block.within(x.values, Mask(rows, x.layout), rows=x.layout.first), rows)
        else:
            x = x.with_values(block.within(x.values, Mask.within(x)))
        if number == 0:
            x = x.select(pairs[0])
        seen = (
            Mask.between(x, image, to_device(pairs[1], image.layout.device))
            if counts is None
            else Mask.between(x.layout.group(counts), image)
        )
        x = x.with_values(block.across(x.values, x.layout, Context(image.values, seen)))
    return x.values


def fuse_pairs(encoder: Encoder, first: int, images: Packed, texts: Packed, pairs: Tensor) -> Tensor:
    """The fused [CLS] rows [P, dim] of `pairs` [P, 2] of (image, text) numbers, in their order.

    The texts of one image become one long query, so that its keys and values are projected once.
    """
    pairs = pairs.cpu()
    order = torch.argsort(pairs[:, 0], stable=True)
    wanted, counts = pairs[order, 0].unique_consecutive(return_counts=True)
    sorted_pairs = pairs[order, 1], pairs[order, 0]
    rows = fuse_first(encoder, first, texts, images.select(wanted), sorted_pairs, counts)
    return torch.empty_like(rows).index_copy(0, to_device(order, rows.device), rows)
