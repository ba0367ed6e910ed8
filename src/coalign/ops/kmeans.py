"""Hierarchical k-means: a tree in which every node has k children, to turn feature vectors into few words.

A tree is one tensor a level, [k^l, k, D]: the children of node n of level l are the nodes k n ... k n + k - 1 of the
next. A leaf's number is thus its path from the root read as digits of base k (VideoBERT, Sun et al. 2019, section
4.2: k = 12, 4 levels, 20,736 leaves).

A tree is grown from vectors that come in pieces and need not fit into memory: a node's children start as k-means of
an even sample of its vectors and are moved by all of them, piece by piece (Sculley, WWW 2010).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Library = Literal["torch", "faiss"]
"""Who finds the centres of a sample: the code below, or faiss (extra `faiss`), which is faster on large ones."""

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
    if len(children) * 4 < len(x):  # many vectors a node: node by node, |c|^2 - 2 x c
        best = torch.zeros_like(node)
        order = node.argsort()
        held = torch.bincount(node, minlength=len(children)).tolist()
        for own, of_node in zip(order.split(held), children.double(), strict=True):
            scores = of_node.square().sum(-1) - 2 * x[own].double() @ of_node.T
            best[own] = scores.argmin(1)
        return best
    size = max(1, CHUNK // max(children.shape[1] * children.shape[2], 1))
    parts = [
        (part[:, None].double() - children[at].double()).square().sum(-1).argmin(1)
        for part, at in zip(x.split(size), node.split(size), strict=True)
    ]
    return torch.cat(parts) if parts else node


class Fewest:
    """Of each of many groups the `room` rows with the smallest keys, from rows that come in pieces.

    With random keys this is an even sample of each group, with distances the nearest. Memory is that of the rows kept
    and of one piece.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.rows = self.keys = self.groups = torch.empty(0)
        self.dropped = 0

    def add(self, rows: Tensor, keys: Tensor, groups: Tensor) -> None:
        """Rows [n, ...], keys [n] and groups [n] of a piece."""
        if len(self.rows):
            rows, keys, groups = (
                torch.cat(pair) for pair in ((self.rows, rows), (self.keys, keys), (self.groups, groups))
            )
        order = keys.argsort(stable=True)
        order = order[groups[order].argsort(stable=True)]
        sizes = torch.bincount(groups) if len(groups) else groups
        place = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[groups[order]]
        kept = order[place < self.room].sort().values  # as they came
        self.dropped += len(order) - len(kept)
        self.rows, self.keys, self.groups = rows[kept], keys[kept], groups[kept]

    def of(self, group: int) -> Tensor:
        """The rows of a group, by their keys."""
        own = (self.groups == group).nonzero().squeeze(1)
        return self.rows[own[self.keys[own].argsort(stable=True)]]


def grow(
    x: Float[Tensor, "n d"], branching: int, depth: int, *, steps: int = 20, generator: torch.Generator | None = None
) -> list[Tensor]:
    """The tree of `depth` levels that k-means finds level by level, each node's children from the vectors in it.

    A node with fewer vectors than `branching` repeats them, with none its parent's centre.
    """
    pieces, room = (lambda: [x]), branching**depth * len(x)
    return grow_from(pieces, branching, depth, sample=room, steps=steps, generator=generator)


def grow_from(
    pieces: Callable[[], Iterable[Float[Tensor, "n d"]]],
    branching: int,
    depth: int,
    *,
    sample: int = 1 << 16,
    passes: int = 1,
    steps: int = 20,
    generator: torch.Generator | None = None,
    library: Library = "torch",
    progress: Callable[[int], None] = lambda level: None,  # noqa: ARG005
) -> list[Tensor]:
    """The tree of vectors that come in pieces. Memory holds the tree, `sample` vectors and a piece.

    Args:
        pieces: Gives the pieces from the first on, each time it is called: 1 + `passes` times a level.
        branching, depth: Of the tree.
        sample: How many vectors a level's k-means sees at a time, shared evenly among its nodes. Where all vectors fit,
            this is k-means of all of them and there are no passes.
        passes: How often the vectors then move the centres: each draws its centre towards it by one over the number
            that the centre has had.
        steps: The most rounds of k-means on the sample.
        generator: Draws the sample and the first centres.
        library: See `Library`.
        progress: Told each level before it is grown.
    """
    tree: list[Tensor] = []
    centre: Tensor | None = None
    for level in range(depth):
        progress(level)
        nodes = branching**level
        kept = Fewest(max(sample // nodes, branching))
        total: Tensor | None = None
        seen = 0
        for piece in pieces():
            node = leaves(descend(piece, tree), branching)
            kept.add(piece, torch.rand(len(piece), generator=generator, device=piece.device), node)
            if level == 0:
                total, seen = piece.double().sum(0) + (0 if total is None else total), seen + len(piece)
        if total is not None:
            centre = (total / max(seen, 1)).to(kept.rows.dtype)[None]
        if centre is None:
            raise ValueError("no vectors to grow a tree from")
        starts = torch.stack(
            [
                k_means(
                    own if len(own := kept.of(i)) else centre[i : i + 1],
                    branching,
                    steps=steps,
                    generator=generator,
                    library=library,
                )
                for i in range(nodes)
            ]
        )
        tree.append(_moved(starts, tree, pieces, kept, passes) if kept.dropped else starts)
        centre = tree[-1].flatten(0, 1)
    return tree


def _moved(
    starts: Tensor, tree: Sequence[Tensor], pieces: Callable[[], Iterable[Tensor]], kept: Fewest, passes: int
) -> Tensor:
    """The children [m, k, D] of a level's nodes after passes over all vectors. Those of the sample count beforehand."""
    nodes, branching, width = starts.shape
    centres = starts.flatten(0, 1).clone()
    children = kept.groups * branching + nearest(kept.rows, starts, kept.groups)
    counts = torch.bincount(children, minlength=nodes * branching)
    for _ in range(passes):
        for piece in pieces():
            node = leaves(descend(piece, tree), branching)
            own = node * branching + nearest(piece, centres.view(nodes, branching, width), node)
            new = torch.bincount(own, minlength=len(centres))
            sums = torch.zeros_like(centres).index_add(0, own, piece - centres[own])
            counts = counts + new
            centres = centres + sums / counts.clamp(min=1)[:, None]
    return centres.view(nodes, branching, width)


def has_faiss() -> bool:
    """Whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def k_means(
    x: Float[Tensor, "n d"],
    count: int,
    *,
    steps: int = 20,
    generator: torch.Generator | None = None,
    library: Library = "torch",
) -> Float[Tensor, "k d"]:
    """`count` centres by Lloyd's algorithm, from starts drawn far apart (k-means++, Arthur & Vassilvitskii 2007); with
    faiss from starts drawn evenly."""
    if library == "faiss" and len(x) > count:
        return _by_faiss(x, count, steps, generator)
    first = torch.randint(x.shape[0], (1,), generator=generator, device=x.device)
    chosen = x[first]
    for _ in range(count - 1):
        far = torch.cdist(x, chosen).square().amin(1)
        weights = torch.where(far.sum() > 0, far, torch.ones_like(far))
        chosen = torch.cat([chosen, x[torch.multinomial(weights, 1, generator=generator)]])
    size = max(1, CHUNK // max(count, 1))
    for _ in range(steps):
        own = torch.cat([torch.cdist(part, chosen).argmin(1) for part in x.split(size)])
        sums = torch.zeros_like(chosen).index_add(0, own, x)
        sizes = x.new_zeros(count).index_add(0, own, x.new_ones(x.shape[0]))[:, None]
        moved = torch.where(sizes > 0, sums / sizes.clamp(min=1), chosen)  # a centre without vectors stays
        if torch.equal(moved, chosen):
            break
        chosen = moved
    return chosen


def _by_faiss(x: Tensor, count: int, steps: int, generator: torch.Generator | None) -> Tensor:
    import faiss  # pyright: ignore[reportMissingImports]

    seed = int(torch.randint(1 << 30, (), generator=generator, device=x.device))
    options = {"niter": steps, "seed": seed, "min_points_per_centroid": 1, "max_points_per_centroid": len(x)}
    clustering = faiss.Kmeans(x.shape[1], count, **options)
    clustering.train(x.float().cpu().numpy())
    return torch.from_numpy(clustering.centroids).to(x)
