"""Attention of every pixel to its k x k neighbourhood (stand-alone self-attention, Ramachandran et al. 2019).

y_ij = Σ_ab softmax_ab(q_ij · k_ab + q_ij · r_{a-i, b-j}) v_ab, equations 2 and 3. Scores are not scaled. An even k
looks one pixel further down and right: offsets -⌊(k-1)/2⌋ … ⌈(k-1)/2⌉.

The neighbourhoods are never unfolded: one offset at a time is added up, forward and backward, so that what is kept
for the backward pass is the size of the input and not k² times that. The softmax is computed again on the way back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parameter import Parameter

from coalign.layers.initialise import drawn_parameter
from coalign.layers.sincos import sincos_positions

Positions = Literal["shared", "by_channel", "absolute", "none"]
Border = Literal["zeros", "masked"]
PART = 2**22


class LocalAttention(nn.Module):
    """The layer: [B, channels, H, W] to [B, out_channels, H, W].

    * `grouped`: each head transforms its own slice of the channels (the paper's text, section 3.1); otherwise every
      head sees all of them (what the paper's parameter counts imply);
    * `positions` "shared": column offsets on the first half of a head's channels, row offsets on the second, one pair
      of tables for all heads; "by_channel": row offsets on the first half of all channels, column offsets on the
      second; "absolute": fixed sines and cosines added to the input; "none" (section 4.3 compares these);
    * `border`: outside the image keys and values are zero and the place stays in the softmax ("zeros"), or it is left
      out ("masked"). The paper does not say.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int = 7,
        heads: int = 8,
        *,
        grouped: bool = True,
        positions: Positions = "shared",
        border: Border = "zeros",
    ) -> None:
        super().__init__()
        if channels % heads or out_channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} and {out_channels} channels")
        self.kernel, self.heads, self.out_channels = kernel, heads, out_channels
        self.positions: Positions = positions
        self.border: Border = border
        groups = heads if grouped else 1
        self.query, self.key, self.value = (
            nn.Conv2d(channels, out_channels, 1, groups=groups, bias=False) for _ in range(3)
        )
        for layer in (self.query, self.key, self.value):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        self.row = self.column = None
        width = out_channels // heads if positions == "shared" else out_channels
        if positions in ("shared", "by_channel"):
            first, second = width // 2, width - width // 2
            rows, columns = (second, first) if positions == "shared" else (first, second)
            deviation = (out_channels // heads) ** -0.5  # scores of order 1, as no 1/sqrt(d) tames them
            self.row = drawn_parameter(rows, kernel, std=deviation)
            self.column = drawn_parameter(columns, kernel, std=deviation)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        if self.positions == "absolute":
            table = sincos_positions(x.shape[1], (x.shape[2], x.shape[3])).to(x)
            x = x + table.T.unflatten(1, x.shape[2:])
        q, k, v = (layer(x).unflatten(1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        row, column = self._relative(q)
        return local_attention(q, k, v, row, column, self.kernel, self.border).flatten(1, 2)

    def _relative(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """q · r for each row offset and for each column offset, [k, B, heads, H, W] both."""
        if self.row is None or self.column is None:
            none = q.new_zeros(self.kernel, *q.shape[:2], *q.shape[3:])
            return none, none
        if self.positions == "shared":
            own = q.split([self.column.shape[0], self.row.shape[0]], 2)
            return (
                torch.einsum("bndhw,dk->kbnhw", own[1], self.row),
                torch.einsum("bndhw,dk->kbnhw", own[0], self.column),
            )
        rows = F.pad(self.row, (0, 0, 0, self.column.shape[0])).unflatten(0, (self.heads, -1))
        columns = F.pad(self.column, (0, 0, self.row.shape[0], 0)).unflatten(0, (self.heads, -1))
        return torch.einsum("bndhw,ndk->kbnhw", q, rows), torch.einsum("bndhw,ndk->kbnhw", q, columns)


def local_attention(
    q: Float[Tensor, "b n d h w"],
    k: Float[Tensor, "b n d h w"],
    v: Float[Tensor, "b n d h w"],
    row: Float[Tensor, "k b n h w"],
    column: Float[Tensor, "k b n h w"],
    kernel: int,
    border: Border = "zeros",
) -> Float[Tensor, "b n d h w"]:
    """Σ softmax(q · k + row + column) v over each pixel's neighbourhood."""
    out = _LocalAttention.apply(q, k, v, row, column, kernel, border)
    assert isinstance(out, Tensor)
    return out


class _LocalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, row: Tensor, column: Tensor, kernel: int, border: Border
    ) -> Tensor:
        if q.is_meta:  # shapes alone
            return torch.empty_like(v)
        ctx.save_for_backward(q, k, v, row, column)
        ctx.kernel, ctx.border = kernel, border
        out = torch.zeros_like(v)
        for part in _parts(q, kernel):
            weights = _weights(q[part], k[part], row[:, part], column[:, part], kernel, border)
            padded = _pad(v[part], kernel)
            for number, place in enumerate(_places(kernel, *q.shape[-2:])):
                out[part].addcmul_(weights[number].unsqueeze(2), padded[place])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, row, column = ctx.saved_tensors
        out = [torch.empty_like(x) for x in (q, k, v, row, column)]
        for part in _parts(q, ctx.kernel):
            slopes = _slopes(
                grads[0][part], q[part], k[part], v[part], row[:, part], column[:, part], ctx.kernel, ctx.border
            )
            for whole, own in zip(out[:3], slopes[:3], strict=True):
                whole[part] = own
            for whole, own in zip(out[3:], slopes[3:], strict=True):
                whole[:, part] = own
        return *out, None, None


def _slopes(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, row: Tensor, column: Tensor, kernel: int, border: Border
) -> tuple[Tensor, ...]:
    """The gradients of q, k, v, row and column for that of the result."""
    places = list(_places(kernel, *q.shape[-2:]))
    weights = _weights(q, k, row, column, kernel, border)
    padded = _pad(v, kernel)
    grad_v, slope = torch.zeros_like(padded), torch.empty_like(weights)
    for number, place in enumerate(places):
        slope[number] = (grad * padded[place]).sum(2)
        grad_v[place].addcmul_(weights[number].unsqueeze(2), grad)
    slope = slope.sub_((weights * slope).sum(0)).mul_(weights)  # through the softmax
    padded, grad_k, grad_q = _pad(k, kernel), torch.zeros_like(grad_v), torch.zeros_like(q)
    for number, place in enumerate(places):
        step = slope[number].unsqueeze(2)
        grad_q.addcmul_(step, padded[place])
        grad_k[place].addcmul_(step, q)
    by_offset = slope.unflatten(0, (kernel, kernel))
    return grad_q, _crop(grad_k, kernel), _crop(grad_v, kernel), by_offset.sum(1), by_offset.sum(0)


def _parts(q: Tensor, kernel: int) -> Iterator[slice]:
    """Items in parts whose softmax has at most `PART` numbers (one item at least): it bounds the working memory."""
    step = max(1, PART // max(kernel**2 * q.shape[1] * q.shape[3] * q.shape[4], 1))
    for first in range(0, q.shape[0], step):
        yield slice(first, first + step)


def _weights(q: Tensor, k: Tensor, row: Tensor, column: Tensor, kernel: int, border: Border) -> Tensor:
    """The softmax [k * k, B, heads, H, W], row offsets slowest."""
    scores = (row.unsqueeze(1) + column.unsqueeze(0)).flatten(0, 1)
    padded = _pad(k, kernel)
    for number, place in enumerate(_places(kernel, *q.shape[-2:])):
        scores[number] += (q * padded[place]).sum(2)
    if border == "masked":
        height, width = q.shape[-2:]
        inside = _pad(torch.ones(1, 1, 1, height, width, device=q.device), kernel)
        for number, place in enumerate(_places(kernel, height, width)):
            scores[number].masked_fill_(inside[place][:, :, 0] == 0, -math.inf)
    return scores.softmax(0)


def _before_after(kernel: int) -> tuple[int, int]:
    return (kernel - 1) // 2, kernel // 2


def _pad(x: Tensor, kernel: int) -> Tensor:
    return F.pad(x, _before_after(kernel) * 2)


def _crop(x: Tensor, kernel: int) -> Tensor:
    before, after = _before_after(kernel)
    return x[..., before : x.shape[-2] - after, before : x.shape[-1] - after]


def _places(kernel: int, height: int, width: int) -> Iterator[tuple[Any, ...]]:
    """For each offset, where in a padded map the neighbours of all pixels lie."""
    for i in range(kernel):
        for j in range(kernel):
            yield ..., slice(i, i + height), slice(j, j + width)


class AttentionStem(nn.Module):
    """The first layer (section 3.2): values that know their place, v = Σ_m p(a, b, m) W_m x.

    p(a, b, ·) = softmax_m((row_a + column_b) · ν_m). `place` says what a and b are and whom a pixel attends to:
    "block": its place within the k x k blocks that tile the image, attending within its block, with no relative term
    (appendix A.1), by `heads` that share p; "image": its place in an image of `image_size`, padded by k // 2 on every
    side, attending to the k x k neighbourhood with relative offsets and one head (the reading of MerHS/SASA-pytorch).
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int = 4,
        mixtures: int = 4,
        *,
        place: Literal["block", "image"] = "block",
        image_size: int = 224,
        heads: int = 1,
    ) -> None:
        super().__init__()
        if out_channels % heads:
            raise ValueError(f"{heads} heads do not divide the stem's {out_channels} channels")
        self.kernel, self.place, self.heads = kernel, place, heads
        self.query, self.key = (nn.Conv2d(channels, out_channels, 1, bias=False) for _ in range(2))
        self.value = Parameter(torch.empty(mixtures, out_channels, channels, 1, 1))
        places = kernel if place == "block" else image_size + 2 * (kernel // 2)
        self.row, self.column = (drawn_parameter(places, out_channels) for _ in range(2))
        self.mixture = drawn_parameter(mixtures, out_channels, std=out_channels**-0.5)
        self.relative_row = self.relative_column = None
        if place == "image":
            half = out_channels // 2
            self.relative_column = drawn_parameter(half, kernel, std=out_channels**-0.5)
            self.relative_row = drawn_parameter(out_channels - half, kernel, std=out_channels**-0.5)
        for weight in (self.query.weight, self.key.weight, *self.value):
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")

    def mixture_weights(self, rows: Tensor, columns: Tensor) -> Tensor:
        """p(a, b, m) [rows, columns, mixtures] for embeddings of the rows and the columns."""
        return ((rows[:, None] + columns[None]) @ self.mixture.T).softmax(-1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        height, width = x.shape[-2:]
        values = F.conv2d(x, self.value.flatten(0, 1)).unflatten(1, self.value.shape[:2])
        q, k = self.query(x), self.key(x)
        if self.place == "image":
            first = self.kernel // 2
            if first + max(height, width) > self.row.shape[0] - first:
                raise ValueError(
                    f"an image of {height}x{width} is larger than the stem's {self.row.shape[0] - 2 * first}"
                )
            p = self.mixture_weights(self.row[first : first + height], self.column[first : first + width])
            v = torch.einsum("bmdhw,hwm->bdhw", values, p)
            return self._windows(q, k, v)
        if height % self.kernel or width % self.kernel:
            raise ValueError(f"an image of {height}x{width} is not tiled by blocks of {self.kernel}x{self.kernel}")
        p = self.mixture_weights(self.row, self.column).repeat(height // self.kernel, width // self.kernel, 1)
        v = torch.einsum("bmdhw,hwm->bdhw", values, p)
        q, k, v = (self._blocks(y).unflatten(3, (self.heads, -1)).transpose(2, 3) for y in (q, k, v))
        # scale=1: the paper's scores are not scaled
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return self._unblocks(mixed.transpose(2, 3).flatten(3), height, width)

    def _windows(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert self.relative_row is not None and self.relative_column is not None
        first, second = q.split([self.relative_column.shape[0], self.relative_row.shape[0]], 1)
        row = torch.einsum("bdhw,dk->kbhw", second, self.relative_row)
        column = torch.einsum("bdhw,dk->kbhw", first, self.relative_column)
        q, k, v = (y.unsqueeze(1) for y in (q, k, v))
        return local_attention(q, k, v, row.unsqueeze(2), column.unsqueeze(2), self.kernel).squeeze(1)

    def _blocks(self, x: Tensor) -> Tensor:
        """[B, D, H, W] to [B, blocks, k * k, D]."""
        cells = x.unflatten(3, (-1, self.kernel)).unflatten(2, (-1, self.kernel))
        return cells.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)

    def _unblocks(self, x: Tensor, height: int, width: int) -> Tensor:
        k = self.kernel
        cells = x.unflatten(2, (k, k)).unflatten(1, (height // k, width // k))
        return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
