import pytest
import torch

from coalign.errors import InputError
from coalign.retrieval.metrics import chance_recall, ranks, recall_at, summarise, vector_ranks


def test_ranks_by_hand() -> None:
    similarity = torch.tensor(
        [
            [0.9, 0.1, 0.5, 0.3],  # right: 0 -> rank 1
            [0.8, 0.2, 0.5, 0.3],  # right: 1 -> rank 4
            [0.8, 0.2, 0.5, 0.6],  # right: 2 and 3, best is 3 -> rank 2
        ]
    )
    rank = ranks(similarity, torch.tensor([7, 8, 9]), torch.tensor([7, 8, 9, 9]))
    assert rank.tolist() == [1, 4, 2]
    got = summarise(rank, (1, 2, 10))
    assert got == pytest.approx(
        {"R@1": 1 / 3, "R@2": 2 / 3, "R@10": 1.0, "median_rank": 2.0, "MRR": (1 + 1 / 4 + 1 / 2) / 3}
    )


def test_another_right_answer_never_pushes_a_query_back() -> None:
    similarity = torch.tensor([[0.9, 0.9, 0.1]])
    assert ranks(similarity, torch.tensor([1]), torch.tensor([1, 1, 2])).tolist() == [1]


def test_ties_and_nan_count_against_the_model() -> None:
    ids = torch.arange(4)
    assert ranks(torch.zeros(4, 4), ids, ids).tolist() == [4] * 4
    assert ranks(torch.full((4, 4), torch.nan), ids, ids).tolist() == [4] * 4
    similarity = torch.tensor([[0.5, torch.nan, 0.1, 0.5]])
    assert ranks(similarity, ids[:1], ids).tolist() == [3]


def test_chunks_and_vectors_agree_with_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.randn(n, 5, generator=generator) for n in (23, 31))
    query_ids, gallery_ids = torch.arange(23) % 7, torch.arange(31) % 7
    whole = ranks(queries @ gallery.T, query_ids, gallery_ids)
    assert torch.equal(ranks(queries @ gallery.T, query_ids, gallery_ids, chunk=4), whole)
    assert torch.equal(vector_ranks(queries, gallery, query_ids, gallery_ids, chunk=4), whole)
    for q in range(23):
        order = (queries[q] @ gallery.T).argsort(descending=True)
        assert whole[q] == 1 + (gallery_ids[order] == query_ids[q]).nonzero()[0]


def test_chance_is_what_random_orders_reach() -> None:
    query_ids, gallery_ids = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1, 2, 3, 3, 3, 4])
    assert chance_recall(query_ids, gallery_ids, (1, 8, 99)) == pytest.approx({"R@1": 4 / 24, "R@8": 1, "R@99": 1})
    generator = torch.Generator().manual_seed(0)
    draws = [
        recall_at(ranks(torch.rand(3, 8, generator=generator), query_ids, gallery_ids), (3,))["R@3"]
        for _ in range(3000)
    ]
    assert sum(draws) / 3000 == pytest.approx(chance_recall(query_ids, gallery_ids, (3,))["R@3"], abs=0.02)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"query 1 \(id 5\)"):
        ranks(torch.zeros(2, 2), torch.tensor([0, 5]), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="2 queries and 3 items"):
        ranks(torch.zeros(2, 2), torch.zeros(2), torch.zeros(3))
    with pytest.raises(InputError, match="no queries"):
        vector_ranks(torch.zeros(0, 3), torch.zeros(2, 3), torch.zeros(0), torch.zeros(2))
