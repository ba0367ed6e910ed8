"""Scaled dot-product attention over ragged batches: the one place that picks a kernel.

softmax(q kᵀ / sqrt(d) + bias) v, per item and head (Vaswani et al. 2017, section 3.2.1).

Which path runs is decided by `choose_kernel` from the mask and the device alone:

* "varlen": CUDA, half precision: flash attention over the packed rows (`ops.varlen`);
* "flex": CUDA, where "varlen" cannot say the mask (hidden keys, a bias, key items, other triangles, and in float32 a
  window): block masks over the packed rows (`ops.flex`);
* "items": a CPU, where items are ragged, long and causal, dropout is on, or heads are narrow: one item after the other
  (`ops.items`);
* "dense": pad to the longest item here only, `scaled_dot_product_attention`, unpad. Items of one length are viewed,
  not copied. On CUDA what has dropout comes here, and has torch's memory-efficient kernel;
* `attend_with_weights`: the plain formula, for those who look at the weights. Asked for by name.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from coalign.ops import flex, varlen
from coalign.ops.items import CHUNK, NARROW, SCORES, attend_items
from coalign.types import Layout, Packed
from coalign.types.packed import cached, to_device

Kernel = Literal["varlen", "flex", "items", "dense"]


@dataclass(frozen=True, eq=False)
class Mask:
    """Which keys each query may see. Built once a batch and handed down through all layers.

    * queries see the keys of their own item only, and none that the key layout hides;
    * `causal`: query i sees key j where j < i + causal. 1 is the usual triangle; MulT's is 1 + |keys - queries|, where
      items differ a number an item [B];
    * `window` (left, right): query i sees keys i - left ... i + right;
    * `bias`, broadcastable to [B, H, Lq, Lk]: added to the scores;
    * `key_items` [B]: the key item that each query item sees, where it is not its own number. Keys and values are
      projected once an item however many query items look at them (matching a text with several images).

    A query that sees no key gets zeros.
    """

    queries: Layout
    keys: Layout
    causal: int | Tensor | None = None
    window: tuple[int, int] | None = None
    bias: Tensor | None = None
    key_items: Tensor | None = None

    @staticmethod
    def within(items: Packed | Layout, causal: int | None = None) -> Mask:
        """Self-attention over `items`."""
        layout = items.layout if isinstance(items, Packed) else items
        return Mask(layout, layout, causal)

    @staticmethod
    def between(queries: Packed | Layout, keys: Packed | Layout, key_items: Tensor | None = None) -> Mask:
        """Cross-attention: item i of `queries` sees item i of `keys`, or item `key_items[i]`."""
        q, k = (x.layout if isinstance(x, Packed) else x for x in (queries, keys))
        seen = len(k) if key_items is None else key_items.shape[0]
        if len(q) != seen:
            raise ValueError(f"queries have {len(q)} items and would see {seen} key items")
        return Mask(q, k, key_items=key_items)

    @cached
    def dense(self) -> Tensor | None:
        """[B, 1 or H, Lq or 1, Lk] as SDPA takes it: bool (true = seen), float with a bias, None if all see all."""
        keys, device = self.keys, self.keys.device
        seen: Tensor | None = None
        if keys.hidden is not None or not keys.is_uniform:
            seen = Packed(keys.offsets.new_zeros(keys.total), keys).padding_mask()[:, None, None, :]
            seen = seen if self.key_items is None else seen[self.key_items]
        if self.causal is not None or self.window is not None:
            ahead = torch.arange(keys.max_length, device=device) - torch.arange(
                self.queries.max_length, device=device
            ).unsqueeze(1)
            place = torch.ones_like(ahead, dtype=torch.bool)[None, None]
            if self.causal is not None:
                causal = self.causal if isinstance(self.causal, int) else self.causal[:, None, None, None]
                place = place & (ahead < causal)
            if self.window is not None:
                place = place & (ahead >= -self.window[0]) & (ahead <= self.window[1])
            seen = place if seen is None else seen & place
        if self.bias is None:
            return seen
        return self.bias if seen is None else self.bias.masked_fill(~seen, -math.inf)

    @property
    def is_plain(self) -> bool:
        """Whether every query sees all keys of its item, and they alone."""
        return self.bias is None and self.window is None and self.causal is None and self.keys.hidden is None

    def at(self, rows: Tensor) -> Mask | None:
        """The mask with these rows alone as queries: [n] ascending, or [B, n] of each item; None where their places
        within the items count, and a mask cannot say them. Rows [n] of the host keep it from waiting for the device."""
        if self.window is not None or self.bias is not None or (self.causal is not None and rows.dim() == 1):
            return None
        device, count = self.queries.device, len(self.queries)
        if rows.dim() == 1:
            items = torch.searchsorted(self.queries.host_lengths.cumsum(0), rows.cpu(), right=True)
            return replace(self, queries=Layout.of(items.bincount(minlength=count), device))
        if self.causal is not None and rows.shape[1] != 1:
            return None
        causal = (
            None if self.causal is None else self.queries.position[to_device(rows.squeeze(1), device)] + self.causal
        )
        return replace(self, queries=Layout.uniform(count, rows.shape[1], device), causal=causal)

    @cached
    def items(self) -> dict[str, Any]:
        """The parts of a mask that `attend_items` reads, in the host's memory."""
        items = len(self.queries)
        causal = [self.causal] * items if isinstance(self.causal, int) else self.causal
        return {
            "lengths": (self.queries.host_lengths.tolist(), self.keys.host_lengths.tolist()),
            "causal": causal.tolist() if isinstance(causal, Tensor) else causal,
            "key_items": None if self.key_items is None else self.key_items.tolist(),
        }

    @cached
    def blocks(self) -> Any:
        """The block mask of FlexAttention: queries and keys are the packed rows."""
        queries, keys = self.queries, self.keys
        item = queries.item if self.key_items is None else self.key_items[queries.item]
        begin, end = keys.offsets[item], keys.offsets[item + 1]
        own = begin + queries.position  # the key at the query's own place
        if self.causal is not None:
            ahead = self.causal if isinstance(self.causal, int) else self.causal[queries.item]
            end = torch.minimum(end, own + ahead)
        if self.window is not None:
            begin, end = torch.maximum(begin, own - self.window[0]), torch.minimum(end, own + self.window[1] + 1)
        return flex.Runs(begin.int(), end.int(), keys.hidden, keys.total).blocks()

    @cached
    def packed_bias(self) -> flex.Bias | None:
        """The bias as FlexAttention looks it up."""
        if self.bias is None:
            return None
        return flex.Bias.of(self.bias, self.queries.item, self.queries.position, self.keys.position)

    def settle(self, kernel: Kernel) -> None:
        """Computes what a kernel reads of the mask and its layouts, before a compiled graph asks for it."""
        for layout in (self.queries, self.keys):
            _ = layout.item, layout.position
            if kernel == "varlen":
                _ = layout.offsets32
        if kernel == "flex":
            _ = self.blocks, self.packed_bias
        elif kernel != "varlen":
            _ = self.dense


def choose_kernel(
    mask: Mask, device: torch.device, dtype: torch.dtype, head_size: int = 64, dropout: float = 0.0
) -> Kernel:
    """The kernel for a mask: "varlen", "flex" or "items" where it can express the mask and is quicker, else "dense".

    The flash kernel knows no hidden keys and no bias, and aligns triangles and windows to the last key, so that only
    plain ones over equal layouts are its to do. Items of one length that see all of their keys are "dense": there
    is nothing to pad or to mask, and torch has flash attention for them.
    """
    if device.type == "cpu":
        # a loop would be compiled anew for every batch
        return "items" if not torch.compiler.is_compiling() and _one_by_one(mask, head_size, dropout) else "dense"
    chosen = mask.key_items is not None
    if (mask.is_plain and not chosen and _is_uniform(mask)) or not (mask.queries.total and mask.keys.total):
        return "dense"
    placed = mask.causal is not None or mask.window is not None
    triangle = mask.causal is None or (isinstance(mask.causal, int) and mask.causal == 1)
    said = triangle and (mask.queries is mask.keys or not placed)
    said = said and mask.bias is None and mask.keys.hidden is None and not chosen
    if said and not varlen.refusal(device, dtype, head_size, mask.window, dropout):
        return "varlen"
    if (mask.is_plain and not chosen) or flex.refusal(device, dtype, head_size, dropout):
        return "dense"
    return "flex"


def _is_uniform(mask: Mask) -> bool:
    return mask.keys.is_uniform and mask.queries.is_uniform


def _one_by_one(mask: Mask, head_size: int, dropout: float) -> bool:
    """Whether a processor can take one item after the other, and is quicker so."""
    if mask.bias is not None or mask.keys.hidden is not None or mask.window is not None:
        return False
    triangles = mask.causal is not None and mask.queries.max_length > CHUNK
    # narrow heads, for which the library takes twice as long, where an item is worth a call of its own
    narrow = head_size <= NARROW and mask.queries.max_length * mask.keys.max_length >= SCORES // 4
    worth = not _is_uniform(mask) or triangles or narrow or 0 < round(256 * dropout) < 256
    return worth and (mask.causal is None or _sees_all(mask.causal))


def attend(
    q: Float[Tensor, "tq h d"],
    k: Float[Tensor, "tk h d"],
    v: Float[Tensor, "tk h e"],
    mask: Mask,
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "tq h e"]:
    """Attention over packed rows; layouts come from `mask`. Scores are scaled by 1/sqrt(d)."""
    given, device = q.dtype, q.device
    if device.type != "cpu":  # a gate may have made one of them float32
        q, k, v = (x.to(running_type(x)) for x in (q, k, v))
    kernel = choose_kernel(mask, device, q.dtype, max(q.shape[-1], v.shape[-1]), dropout)
    if kernel == "varlen":
        return varlen.attend_varlen(q, k, v, mask.queries, mask.keys, mask.causal is not None, mask.window).to(given)
    if kernel == "flex":
        return flex.attend_flex(q, k, v, mask.blocks, mask.packed_bias).to(given)
    low = given.itemsize < 4 or (kernel == "items" and torch.is_autocast_enabled("cpu"))
    short = q.device.type == "cpu" and low
    if short:  # the CPU's backward pass in bf16 is five times slower than in fp32
        wide = torch.promote_types(given, torch.float32)
        q, k, v = q.to(wide), k.to(wide), v.to(wide)
    with torch.autocast("cpu", enabled=False) if short else nullcontext():
        if kernel == "items":
            return attend_items(q, k, v, **mask.items, dropout=dropout).to(given)
        scale, width = None, v.shape[-1]
        if device.type != "cpu" and (q.shape[-1] % 8 or width % 8):  # torch has no memory-efficient kernel for those
            scale = q.shape[-1] ** -0.5
            q, k, v = (F.pad(x, (0, -x.shape[-1] % 8)) for x in (q, k, v))
        out = F.scaled_dot_product_attention(
            _heads_first(q, mask.queries),
            _heads_first(k, mask.keys, mask.key_items),
            _heads_first(v, mask.keys, mask.key_items),
            attn_mask=_cast(mask.dense, q.dtype),
            dropout_p=dropout,
            scale=scale,
        )
    return _rows(out[..., :width], mask.queries).to(given)


def running_type(x: Tensor) -> torch.dtype:
    """The type in which a device computes products of `x`: autocast's, where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else x.dtype


def _sees_all(causal: int | Tensor) -> bool:
    """Whether every query sees a key at least, where there is one."""
    return causal >= 1 if isinstance(causal, int) else bool((causal >= 1).all())


def attend_with_weights(
    q: Float[Tensor, "tq h d"],
    k: Float[Tensor, "tk h d"],
    v: Float[Tensor, "tk h e"],
    mask: Mask,
    *,
    dropout: float = 0.0,
) -> tuple[Float[Tensor, "tq h e"], Float[Tensor, "b h lq lk"]]:
    """The plain formula, giving its weights too (before dropout, part of the graph: Grad-CAM differentiates them)."""
    queries = _heads_first(q, mask.queries)
    keys, values = (_heads_first(x, mask.keys, mask.key_items) for x in (k, v))
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1])
    seen = mask.dense
    if seen is not None and seen.dtype == torch.bool:
        scores = scores.masked_fill(~seen, -math.inf)
    elif seen is not None:
        scores = scores + seen
    blind = (scores == -math.inf).all(-1, keepdim=True)
    weights = scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
    if torch.is_grad_enabled() and not weights.requires_grad:
        weights.requires_grad_()  # frozen layers too are differentiated by their weights
    return _rows(F.dropout(weights, dropout) @ values, mask.queries), weights


def grad_cam(weights: Tensor, score: Tensor) -> Tensor:
    """Attention weights times the positive part of the score's gradient (Selvaraju et al. 2017, for attention)."""
    (slope,) = torch.autograd.grad(score, weights)
    return (weights * slope.clamp(min=0)).detach()


def _heads_first(x: Tensor, layout: Layout, items: Tensor | None = None) -> Tensor:
    padded = Packed(x, layout).to_padded().transpose(1, 2)
    return padded if items is None else padded[items]


def _rows(x: Tensor, layout: Layout) -> Tensor:
    x = x.transpose(1, 2)
    if layout.is_uniform:
        return x.flatten(0, 1)
    return x.flatten(0, 1).index_select(0, layout.item * layout.max_length + layout.position)


def _cast(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return mask if mask is None or mask.dtype == torch.bool else mask.to(dtype)
