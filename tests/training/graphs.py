"""Prints how often the graph of compiled blocks breaks and how many graphs four sets of lengths need."""

from __future__ import annotations

from copy import deepcopy

import torch
from test_blocks import gradients
from torch._dynamo.utils import counters

from coalign.layers.transformer import BlockConfig, Encoder
from coalign.training.blocks import prepare

graphs = 0


def backend(graph: torch.fx.GraphModule, _: object) -> object:
    global graphs
    graphs += 1
    return graph.forward


plain = Encoder(BlockConfig(16, 2, 32), 2)
compiled = deepcopy(plain)
prepare(compiled, compiled=True, recomputed=False, backend=backend)
for lengths in ([3, 5, 2], [4, 7, 1], [9, 2, 6], [8, 8, 3]):
    for a, b in zip(gradients(compiled, lengths), gradients(plain, lengths), strict=True):
        torch.testing.assert_close(a, b)
print(sum(counters["graph_break"].values()), graphs)
