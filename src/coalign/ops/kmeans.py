"""Hierarchical k-means: a tree in which every node has k children, to turn feature vectors into few words.

A tree is one tensor a level, [k^l, k, D]: the children of node n of level l are the nodes k n ... k n + k - 1 of the
next. A leaf's number is thus its path from the root read as digits of base k (VideoBERT, Sun et al. 2019, section
4.2: k = 12, 4 levels, 20,736 leaves).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 1 << 22
"""How many numbers are compared at a time."""


def descend(x: Float[Tensor, "n d"], tree: Sequence[Tensor]) -> Int[Tensor, "n l"]:
    """The path of each vector: at every level the nearest child, by squared distance, of the node it is in.

    This is not the nearest of all leaves: near a border between two nodes the two differ. In double precision, so
    that a vector's word does not depend on the machine.
    """
    node, path = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device), list[Tensor]()
    for children in tree:
        path.append(nearest(x, children, node))
        node = node * children.shape[1] + path[-1]
    return torch.stack(path, 1) if path else node.new_zeros(x.shape[0], 0)


def leaves(path: Int[Tensor, "n l"], branching: int) -> Int[Tensor, " n"]:
    """The number of the leaf at the end of each path."""
    leaf = path.new_zeros(path.shape[0])
    for step in path.unbind(1):
        leaf = leaf * branching + step
    return leaf


def nearest(x: Float[Tensor, "n d"], children: Float[Tensor, "m k d"], node: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Which of the children of `node[i]` is nearest to vector i; the first of equals."""
    size = max(1, CHUNK // max(children.shape[1] * children.shape[2], 1))
    found = [
        (part[:, None].double() - children[at].double()).square().sum(-1).argmin(1)
        for part, at in zip(x.split(size), node.split(size), strict=True)
    ]
    return torch.cat(found) if found else node


def grow(
    x: Float[Tensor, "n d"], branching: int, depth: int, *, steps: int = 20, generator: torch.Generator | None = None
) -> list[Tensor]:
    """The tree of `depth` levels that k-means finds level by level, each node's children from the vectors in it.

    A node with fewer vectors than `branching` repeats them, with none its parent's centre.
    """
    tree: list[Tensor] = []
    node = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    centre = x.mean(0, keepdim=True)
    for _ in range(depth):
        members = [x[node == i] for i in range(centre.shape[0])]
        children = torch.stack(
            [
                k_means(own if len(own) else centre[i : i + 1], branching, steps=steps, generator=generator)
                for i, own in enumerate(members)
            ]
        )
        tree.append(children)
        node = node * branching + nearest(x, children, node)
        centre = children.flatten(0, 1)
    return tree


def k_means(
    x: Float[Tensor, "n d"], count: int, *, steps: int = 20, generator: torch.Generator | None = None
) -> Float[Tensor, "k d"]:
    """`count` centres by Lloyd's algorithm, from starts drawn far apart (k-means++, Arthur & Vassilvitskii 2007)."""
    first = torch.randint(x.shape[0], (1,), generator=generator, device=x.device)
    chosen = x[first]
    for _ in range(count - 1):
        far = torch.cdist(x, chosen).square().amin(1)
        weights = torch.where(far.sum() > 0, far, torch.ones_like(far))
        chosen = torch.cat([chosen, x[torch.multinomial(weights, 1, generator=generator)]])
    for _ in range(steps):
        own = nearest(x, chosen[None], torch.zeros(x.shape[0], dtype=torch.int64, device=x.device))
        sums = torch.zeros_like(chosen).index_add(0, own, x)
        sizes = x.new_zeros(count).index_add(0, own, x.new_ones(x.shape[0]))[:, None]
        moved = torch.where(sizes > 0, sums / sizes.clamp(min=1), chosen)  # a centre without vectors stays
        if torch.equal(moved, chosen):
            break
        chosen = moved
    return chosen
