import torch

from coalign.ops.kmeans import descend, grow, k_means, leaves


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
