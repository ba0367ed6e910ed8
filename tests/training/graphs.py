"""Prints, for every kind of transformer block that a system has, how often its compiled graph breaks and how many
graphs four sets of lengths need, as JSON; with block masks too, as on a GPU where keys are hidden."""

from __future__ import annotations

import json
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.utils import counters

from coalign import create, systems
from coalign.layers.initialise import shapes_alone
from coalign.layers.transformer import BlockConfig, Context, TransformerBlock
from coalign.ops import attention
from coalign.ops.attention import Mask
from coalign.training.blocks import prepare
from coalign.types import Layout

WIDTH = 16
LENGTHS = ([3, 5, 2], [4, 7, 1], [9, 2, 6], [8, 8, 3])
graphs = 0


def backend(graph: torch.fx.GraphModule, _: object) -> object:
    global graphs
    graphs += 1
    return graph.forward


def through_autograd(graph: torch.fx.GraphModule, examples: list[Tensor]) -> object:
    """As `inductor` has it: a graph whose backward pass is traced too, and whose views are told apart."""
    global graphs
    graphs += 1
    return lookup_backend("aot_eager")(graph, examples)


def kinds() -> dict[BlockConfig, list[str]]:
    """The configurations of all systems' blocks but for widths, rates and eps, with the systems that have them."""
    found: dict[BlockConfig, list[str]] = {}
    for system, size in ((each, size) for each in systems().values() for size in each.sizes):
        with shapes_alone():
            model = create(system.name, size).model
        for block in model.modules():
            if isinstance(block, TransformerBlock):
                c = block.config
                kind = replace(
                    c,
                    dim=WIDTH,
                    heads=2,
                    hidden_dim=32,
                    eps=1e-6,
                    context_dim=None if c.context_dim is None else WIDTH,
                    dropout=0.0,
                    attention_dropout=0.0,
                    hidden_dropout=0.0,
                    drop_path=0.0,
                    layer_scale=None if c.layer_scale is None else 0.1,
                )
                names = found.setdefault(kind, [])
                names += [system.name] * (system.name not in names)
    return found


def gradients(block: nn.Module, kind: BlockConfig, lengths: list[int], causal: int | None, flex: bool) -> list[Tensor]:
    torch.manual_seed(0)
    rows, seen = (torch.randn(sum(n), WIDTH, requires_grad=True) for n in (lengths, lengths[::-1]))
    mask = Mask.within(Layout.of(lengths), causal)
    if flex:
        mask = replace(mask, keys=replace(mask.keys, hidden=torch.rand(sum(lengths)) < 0.3))
    context = None
    if kind.context_dim is not None:
        context = Context(seen, Mask.between(mask.queries, Layout.of(lengths[::-1])))
    block(rows, mask, context).square().sum().backward()
    found = [p.grad for p in (rows, seen, *block.parameters())]
    block.zero_grad()
    return [gradient.clone() for gradient in found if gradient is not None]


def tell(kind: BlockConfig, names: list[str], causal: int | None, flex: bool = False) -> dict[str, object]:
    global graphs
    torch._dynamo.reset()
    counters.clear()
    graphs = 0
    plain = TransformerBlock(kind)
    compiled = deepcopy(plain)
    prepare(compiled, compiled=True, recomputed=False, backend=backend)
    for lengths in [[100 * n for n in own] for own in LENGTHS] if flex else LENGTHS:
        with ExitStack() as stack:
            if flex:
                stack.enter_context(patch.object(attention, "choose_kernel", lambda *_: "flex"))
                stack.enter_context(patch("coalign.layers.attention.choose_kernel", lambda *_: "flex"))
                stack.enter_context(patch("torch.nn.attention.flex_attention._validate_device", lambda *_: None))
            found = gradients(compiled, kind, lengths, causal, flex)
        for a, b in zip(found, gradients(plain, kind, lengths, causal, flex), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3 if flex else 1e-5)
    breaks = sum(counters["graph_break"].values())
    how = f"{kind}, causal {causal}{', block masks' if flex else ''}"
    return {"kind": how, "systems": names, "breaks": breaks, "graphs": graphs}


def tell_dropout(kind: BlockConfig) -> dict[str, object]:
    """With dropout, whose draws differ from those of blocks that are not compiled: nothing is compared."""
    global graphs
    torch._dynamo.reset()
    counters.clear()
    graphs = 0
    kind = replace(kind, dropout=0.5, attention_dropout=0.5, hidden_dropout=0.5)
    compiled = TransformerBlock(kind)
    prepare(compiled, compiled=True, recomputed=False, backend=through_autograd)
    for lengths in LENGTHS:
        assert all(bool(gradient.isfinite().all()) for gradient in gradients(compiled, kind, lengths, None, False))
    return {"kind": f"{kind}", "systems": [], "breaks": sum(counters["graph_break"].values()), "graphs": graphs}


told: list[dict[str, object]] = []
for kind, names in kinds().items():
    for causal in (None, 1) if kind.self_attention else (None,):
        told.append(tell(kind, names, causal))
both = next(kind for kind in kinds() if kind.self_attention and kind.context_dim is not None)
told.append(tell(both, [], 1, flex=True))
told.append(tell_dropout(both))
print(json.dumps(told))
