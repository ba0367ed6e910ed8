"""Prints, for every kind of transformer block that a system has, how often its compiled graph breaks and how many
graphs four sets of lengths need, as JSON."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from coalign import create, systems
from coalign.layers.initialise import shapes_alone
from coalign.layers.transformer import BlockConfig, Context, TransformerBlock
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


def gradients(block: nn.Module, kind: BlockConfig, lengths: list[int], causal: int | None) -> list[Tensor]:
    torch.manual_seed(0)
    rows, seen = (torch.randn(sum(n), WIDTH, requires_grad=True) for n in (lengths, lengths[::-1]))
    mask = Mask.within(Layout.of(lengths), causal)
    context = None
    if kind.context_dim is not None:
        context = Context(seen, Mask.between(mask.queries, Layout.of(lengths[::-1])))
    block(rows, mask, context).square().sum().backward()
    found = [p.grad for p in (rows, seen, *block.parameters())]
    block.zero_grad()
    return [gradient.clone() for gradient in found if gradient is not None]


told: list[dict[str, object]] = []
for kind, names in kinds().items():
    for causal in (None, 1) if kind.self_attention else (None,):
        torch._dynamo.reset()
        counters.clear()
        graphs = 0
        plain = TransformerBlock(kind)
        compiled = deepcopy(plain)
        prepare(compiled, compiled=True, recomputed=False, backend=backend)
        for lengths in LENGTHS:
            pairs = zip(
                gradients(compiled, kind, lengths, causal), gradients(plain, kind, lengths, causal), strict=True
            )
            for a, b in pairs:
                torch.testing.assert_close(a, b)
        breaks = sum(counters["graph_break"].values())
        told.append({"kind": f"{kind}, causal {causal}", "systems": names, "breaks": breaks, "graphs": graphs})
print(json.dumps(told))
