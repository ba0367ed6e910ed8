import pytest
import torch

from coalign.ops.kmeans import Fewest, descend, grow, grow_from, has_faiss, k_means, leaves


def clusters(centres, each=30, spread=0.05):
    g = torch.Generator().manual_seed(0)
    return (centres[:, None] + spread * torch.randn(len(centres), each, centres.shape[1], generator=g)).flatten(0, 1)


def test_leaves_are_paths_in_base_k():
    assert leaves(torch.tensor([[2, 0, 1], [0, 0, 2]]), 3).tolist() == [2 * 9 + 1, 2]
    assert descend(torch.zeros(0, 4), [torch.zeros(1, 3, 4)]).shape == (0, 1)


def test_descends_the_tree_and_not_to_the_nearest_leaf():
    tree = [torch.tensor([[[0.0], [10.0]]]), torch.tensor([[[0.0], [1.0]], [[5.5], [10.0]]])]
    assert descend(torch.tensor([[4.9], [9.0]]), tree).tolist() == [[0, 1], [1, 1]]  # 4.9 is nearer to leaf 5.5


def test_chunks_change_nothing(monkeypatch):
    g = torch.Generator().manual_seed(0)
    x, tree = torch.randn(50, 4, generator=g), [torch.randn(1, 3, 4, generator=g), torch.randn(3, 3, 4, generator=g)]
    whole = descend(x, tree)
    monkeypatch.setattr("coalign.ops.kmeans.CHUNK", 30)
    assert torch.equal(descend(x, tree), whole)


def test_finds_clusters_of_clusters():
    coarse = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    fine = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0]])
    centres = (coarse[:, None] + fine).flatten(0, 1)
    x = clusters(centres)
    tree = grow(x, 3, 2, generator=torch.Generator().manual_seed(1))
    leaf = leaves(descend(x, tree), 3).view(9, 30)
    assert (leaf == leaf[:, :1]).all()  # every cluster has a leaf
    assert leaf[:, 0].unique().numel() == 9  # of its own
    assert (leaf[:, 0] // 3).view(3, 3).unique(dim=1).shape == (3, 1)  # neighbours share a node


def test_few_vectors():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    centres = k_means(x, 4, generator=torch.Generator().manual_seed(0))
    assert {tuple(c) for c in centres.tolist()} == {(1.0, 2.0), (3.0, 4.0)}
    tree = grow(x, 3, 3, generator=torch.Generator().manual_seed(0))
    assert [level.shape for level in tree] == [(1, 3, 2), (3, 3, 2), (9, 3, 2)]
    assert all(level.isfinite().all() for level in tree)


def test_grows_the_same_tree_piece_by_piece():
    coarse = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    fine = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0]])
    centres = (coarse[:, None] + fine).flatten(0, 1)
    x = clusters(centres, each=200)[torch.randperm(1800, generator=torch.Generator().manual_seed(2))]
    held = []

    def pieces():
        for piece in x.split(100):
            held.append(len(piece))
            yield piece

    tree = grow_from(pieces, 3, 2, sample=90, generator=torch.Generator().manual_seed(1))
    assert len(held) == 2 * 2 * 18  # a pass to sample and one to move, a level
    found = tree[-1].flatten(0, 1)
    nearest_centre = torch.cdist(centres, found)
    assert nearest_centre.argmin(1).unique().numel() == 9
    # all vectors moved the centres: means of 200, not of the sample's 10
    own = torch.stack([x[torch.cdist(x, centres).argmin(1) == i].mean(0) for i in range(9)])
    sampled = grow_from(pieces, 3, 2, sample=90, passes=0, generator=torch.Generator().manual_seed(1))
    error = (found[torch.cdist(own, found).argmin(1)] - own).norm()
    assert error < 0.5 * (sampled[-1].flatten(0, 1)[torch.cdist(own, sampled[-1].flatten(0, 1)).argmin(1)] - own).norm()


def test_fewest_keeps_the_smallest_of_each_group_whatever_the_pieces():
    g = torch.Generator().manual_seed(0)
    keys, groups = torch.rand(200, generator=g), torch.randint(7, (200,), generator=g)
    kept = Fewest(4)
    for start in range(0, 200, 33):
        part = slice(start, start + 33)
        kept.add(torch.arange(200)[part], keys[part], groups[part])
    for group in range(7):
        own = (groups == group).nonzero().squeeze(1)
        assert kept.of(group).tolist() == own[keys[own].argsort()][:4].tolist()
    assert kept.dropped == 200 - 28


def test_many_vectors_descend_like_few():
    g = torch.Generator().manual_seed(0)
    x, tree = torch.randn(64, 5, generator=g), [torch.randn(3**level, 3, 5, generator=g) for level in range(3)]
    together = descend(x, tree)
    assert torch.equal(together, torch.cat([descend(row[None], tree) for row in x]))


@pytest.mark.skipif(not has_faiss(), reason="faiss is not installed")
def test_faiss_finds_clusters():
    """Its starts are drawn evenly: two may lie in one cluster. What a seed draws differs between versions of torch."""
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    draws = [torch.Generator().manual_seed(seed) for seed in range(20)]
    found = [k_means(clusters(centres), 3, generator=draw, library="faiss") for draw in draws]
    hits = sum(bool((torch.cdist(centres, each).amin(1) < 0.1).all()) for each in found)
    assert hits >= 4
