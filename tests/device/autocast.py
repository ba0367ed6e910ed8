"""CUDA's autocast for the pretended device: which operations run in bfloat16, which in float32, which in the wider type
of their operands, as torch's own header lists them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pretended import FOUND, OnDevice, each, leaves, where
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

_KEY = "AutocastPrivateUse1"
_HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
_libraries: list[torch.library.Library] = []


def listed(macro: str) -> list[Any]:
    """The operations that a list of the header names."""
    body = re.search(rf"#define {macro}\(_\)(.*?)\n\n", _HEADER.read_text(), re.DOTALL)
    assert body is not None, macro
    found = re.findall(r"_\(([a-z0-9_A-Z]+)(?:, *([a-zA-Z_0-9]+))?\)", body[1])
    packets = [(getattr(torch.ops.aten, name, None), overload or "default") for name, overload in found]
    return [getattr(packet, overload) for packet, overload in packets if hasattr(packet, overload)]


def _eligible(value: Any) -> bool:
    return isinstance(value, OnDevice) and value.is_floating_point() and value.dtype != torch.float64


def _cast(values: Any, dtype: torch.dtype) -> Any:
    if isinstance(values, dict):
        return {name: _cast(value, dtype) for name, value in values.items()}
    return each(lambda t: t.to(dtype) if _eligible(t) and t.dtype != dtype else t, values)


def _always(dtype: torch.dtype) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    return lambda _, args, kwargs: (_cast(args, dtype), _cast(kwargs, dtype))


def _widest(_: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    types = [value.dtype for value in leaves(args, kwargs) if _eligible(value)]
    dtype = torch.float32 if torch.float32 in types else next(iter(types), None)
    return (args, kwargs) if dtype is None else (_cast(args, dtype), _cast(kwargs, dtype))


def _set_dtype(op: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Sums and softmaxes give float32 where no type is asked for."""
    if not (_eligible(args[0]) and args[0].dtype.itemsize == 2 and kwargs.get("dtype") is None):
        return args, kwargs
    names = [a.name for a in op._schema.arguments]
    place = names.index("dtype")
    if op._schema.arguments[place].kwarg_only or place >= len(args):
        return args, {**kwargs, "dtype": torch.float32}
    return ((*args[:place], torch.float32, *args[place + 1 :]) if args[place] is None else args), kwargs


@cache
def install() -> None:
    """Registers the lists for the device, once a process."""
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, _KEY)
    library = torch.library.Library("aten", "IMPL")
    _libraries.extend([rest, library])
    key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _KEY))

    def kernel(op: Any, policy: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(key):
                args, kwargs = policy(op, args, kwargs)
                return op(*args, **kwargs)

        return run

    policies = {
        "AT_FORALL_LOWER_PRECISION_FP": _always(torch.bfloat16),
        "AT_FORALL_FP32": _always(torch.float32),
        "AT_FORALL_FP32_SET_OPT_DTYPE": _set_dtype,
        "AT_FORALL_PROMOTE": _widest,
    }
    for macro, policy in policies.items():
        for op in listed(macro):
            if op.name() != "aten::_convolution":
                library.impl(op, kernel(op, policy), _KEY)


def lstm(module: torch.nn.LSTM, x: Any, state: Any = None) -> Any:
    """torch.nn.LSTM by plain operations, for one direction: cuDNN's is one operation that the device has not. Under
    autocast it computes in bfloat16 and refuses an initial state of another type, as cuDNN's does."""
    assert isinstance(x, PackedSequence) and not module.bidirectional
    rows, counts = x.data, x.batch_sizes.tolist()
    half = torch.is_autocast_enabled("pretended")
    rows = rows.to(torch.bfloat16) if half else rows
    hidden, cells = [], []
    with torch.autocast("pretended", enabled=False):
        for layer in range(module.num_layers):
            names = (f"{part}_l{layer}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            inward, across, bias, other = (getattr(module, name).to(rows.dtype) for name in names)
            h = rows.new_zeros(counts[0], module.hidden_size)
            c, out, begin = h, [], 0
            ended: list[tuple[Tensor, Tensor]] = []
            for count in counts:
                if count < len(h):
                    ended.insert(0, (h[count:], c[count:]))
                    h, c = h[:count], c[:count]
                gates = rows[begin : begin + count] @ inward.T + bias + h @ across.T + other
                begin += count
                i, f, g, o = gates.chunk(4, -1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                out.append(h)
            hidden.append(torch.cat([h, *(own for own, _ in ended)]))
            cells.append(torch.cat([c, *(own for _, own in ended)]))
            rows = torch.cat(out)
    ends = torch.stack(hidden), torch.stack(cells)
    if x.unsorted_indices is not None:
        ends = ends[0][:, x.unsorted_indices], ends[1][:, x.unsorted_indices]
    return PackedSequence(rows, x.batch_sizes, x.sorted_indices, x.unsorted_indices), ends


def _ask(kernel: str, holds: bool, what: str) -> None:
    if not holds:
        FOUND.errors[f"{kernel}: {what} @ {where()}"] += 1


def varlen_attn(
    q: Any,
    k: Any,
    v: Any,
    starts_q: Any,
    starts_k: Any,
    longest_q: int,
    longest_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    **_: Any,
) -> Tensor:
    """torch.nn.attention.varlen.varlen_attn by the formula, with what the flash kernel asks of its operands."""

    ask = partial(_ask, "varlen_attn")
    ask(q.dtype in (torch.float16, torch.bfloat16), f"half precision, not {q.dtype}")
    ask(q.dtype == k.dtype == v.dtype, f"one type, not {q.dtype}, {k.dtype}, {v.dtype}")
    size = q.shape[-1]
    ask(size % 8 == 0 and size <= 256, f"a head size that is a multiple of 8 of at most 256, not {size}")
    ask(size == k.shape[-1] == v.shape[-1], "one head size")
    ask(starts_q.dtype == starts_k.dtype == torch.int32, "offsets of int32")
    ask(all(x.stride(-1) == 1 for x in (q, k, v)), "rows without gaps")
    begins, ends = starts_q.values.tolist(), starts_k.values.tolist()
    for own, longest, rows, side in ((begins, longest_q, q, "queries"), (ends, longest_k, k, "keys")):
        ask(own[-1] == len(rows), f"offsets that end at the number of {side}")
        ask(max((b - a for a, b in pairwise(own)), default=0) <= longest, f"the longest {side}")
    out: list[Tensor] = []
    for (a, b), (c, d) in zip(pairwise(begins), pairwise(ends), strict=True):
        heads = (q[a:b].transpose(0, 1), k[c:d].transpose(0, 1), v[c:d].transpose(0, 1))
        scores = heads[0].float() @ heads[1].float().transpose(1, 2) * (scale or size**-0.5)
        ahead = torch.arange(d - c, device=q.device) - torch.arange(b - a, device=q.device)[:, None] - (d - c - b + a)
        unseen = torch.zeros_like(ahead, dtype=torch.bool)
        if window_size[0] >= 0:
            unseen = unseen | (ahead < -window_size[0])
        if window_size[1] >= 0:
            unseen = unseen | (ahead > window_size[1])
        weights = scores.masked_fill(unseen, -torch.inf).softmax(-1).nan_to_num()
        out.append((weights @ heads[2].float()).to(q.dtype).transpose(0, 1))
    return torch.cat(out)


def flex_attention(q: Any, k: Any, v: Any, *, score_mod: Any, block_mask: Any, scale: float) -> Tensor:
    """torch's flex_attention by the formula, with what its kernel asks of its operands."""
    ask = partial(_ask, "flex_attention")
    ask(q.dtype in (torch.float16, torch.bfloat16, torch.float32), f"float32 or half precision, not {q.dtype}")
    ask(q.dtype == k.dtype == v.dtype, f"one type, not {q.dtype}, {k.dtype}, {v.dtype}")
    for size in (q.shape[-1], v.shape[-1]):
        ask(size >= 16 and size.bit_count() == 1, f"a head size that is a power of two, 16 or more, not {size}")
    ask(q.shape[-1] == k.shape[-1], "one head size")
    ask(q.shape[2] > 0 < k.shape[2], "a query and a key")
    ask(block_mask.shape[-2:] == (q.shape[2], k.shape[2]), f"a mask of these rows, not of {block_mask.shape[-2:]}")
    ask(block_mask.kv_indices.dtype == block_mask.kv_num_blocks.dtype == torch.int32, "blocks of int32")
    ask(block_mask.kv_indices.device == q.device, "blocks on the rows' device")
    own, other = (torch.arange(x.shape[2], dtype=torch.int32, device=q.device) for x in (q, k))
    heads = torch.arange(q.shape[1], dtype=torch.int32, device=q.device)[:, None, None]
    item = torch.zeros((), dtype=torch.int32, device=q.device)
    seen = block_mask.mask_mod(item, heads, own[:, None], other)
    height, width = block_mask.BLOCK_SIZE
    looked_at = block_mask.to_dense().values[0, 0].repeat_interleave(height, 0).repeat_interleave(width, 1)
    ask(not (seen.values & ~looked_at[: len(own), : len(other)].bool()).any(), "blocks with all that is seen")
    scores = q[0].float() @ k[0].float().transpose(1, 2) * scale
    scores = scores if score_mod is None else score_mod(scores, item, heads, own[:, None], other)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num()
    return (weights @ v[0].float()).to(q.dtype)[None]
