import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.errors import InputError
from coalign.retrieval.metrics import ranks
from coalign.retrieval.rerank import (
    Shortlist,
    add_log_sigmoid,
    evaluate_retrieval,
    match_pairs,
    matching_only,
    score_retrieval,
    shortlist,
)
from coalign.types import Packed


class CountingMatcher:
    """Knows the right answers from the tokens: an image's first token and a text's first token hold their ids."""

    def __init__(self, right: float = 4.0) -> None:
        self.right = right
        self.calls: list[tuple[list[int], int]] = []

    def match(self, images: Packed, texts: Packed, pairs: Tensor) -> Tensor:
        assert pairs[:, 0].max() < len(images) and pairs[:, 1].max() < len(texts)
        image, text = images.first[:, 0], texts.first[:, 0]
        self.calls.append((image.int().tolist(), len(pairs)))
        return torch.where(image[pairs[:, 0]] == text[pairs[:, 1]], self.right, -self.right)


def tokens_of(ids: Tensor) -> Packed:
    """Ragged tokens whose first one holds the id: 1 to 3 tokens an item."""
    return Packed.from_items([torch.full((1 + i % 3, 2), float(value)) for i, value in enumerate(ids.tolist())])


def test_shortlist_is_the_best_k_in_order() -> None:
    generator = torch.Generator().manual_seed(1)
    queries, gallery = torch.randn(7, 4, generator=generator), torch.randn(9, 4, generator=generator)
    found = shortlist(queries, gallery, 3, chunk=2)
    expected = (queries @ gallery.T).sort(dim=1, descending=True)
    assert torch.equal(found.indices, expected.indices[:, :3])
    torch.testing.assert_close(found.similarity, expected.values[:, :3])
    assert shortlist(queries, gallery, 100).indices.shape == (7, 9)
    with pytest.raises(InputError, match="k = 0"):
        shortlist(queries, gallery, 0)


def test_pairs_of_an_image_are_matched_together_and_once() -> None:
    ids = torch.arange(6)
    matcher = CountingMatcher()
    generator = torch.Generator().manual_seed(2)
    pairs = torch.cartesian_prod(ids, ids[:4])[torch.randperm(24, generator=generator)]
    logits = match_pairs(matcher, tokens_of(ids), tokens_of(ids), torch.cat([pairs, pairs[:10]]), chunk=9)
    assert torch.equal(logits, torch.where(pairs[:, 0] == pairs[:, 1], 4.0, -4.0)[torch.arange(34) % 24])
    assert [count for _, count in matcher.calls] == [8, 8, 8]
    assert sorted(image for images, _ in matcher.calls for image in images) == ids.tolist()


def test_an_image_with_more_texts_than_a_chunk_is_divided() -> None:
    ids = torch.arange(8)
    matcher = CountingMatcher()
    pairs = torch.tensor([[0, 0], *[[1, t] for t in range(8)], [2, 2]])
    logits = match_pairs(matcher, tokens_of(ids), tokens_of(ids), pairs, chunk=3)
    assert torch.equal(logits > 0, pairs[:, 0] == pairs[:, 1])
    assert [count for _, count in matcher.calls] == [2, 3, 3, 2]
    assert match_pairs(matcher, tokens_of(ids), tokens_of(ids), pairs[:0]).shape == (0,)


def test_images_with_about_as_many_texts_share_a_chunk() -> None:
    ids = torch.arange(12)
    matcher = CountingMatcher()
    busy = torch.cartesian_prod(torch.tensor([0, 5]), ids[:6])
    pairs = torch.cat([busy, torch.stack([ids, ids.flip(0)], 1)[1:5], torch.tensor([[0, 11], [7, 7]])])
    logits = match_pairs(matcher, tokens_of(ids), tokens_of(ids), pairs, chunk=6)
    assert torch.equal(logits > 0, pairs[:, 0] == pairs[:, 1])
    assert [(images, count) for images, count in matcher.calls] == [([1, 2, 3, 4, 7], 5), ([5], 6), ([0], 6), ([0], 1)]


def test_tokens_may_come_from_a_function() -> None:
    ids = torch.arange(5)
    asked: list[list[int]] = []

    def texts(items: Tensor) -> Packed:
        asked.append(items.tolist())
        return tokens_of(ids).select(items)

    match_pairs(CountingMatcher(), tokens_of(ids), texts, torch.tensor([[0, 3], [0, 1], [4, 3]]), chunk=2)
    assert asked == [[3], [1, 3]]


def test_combining_and_order() -> None:
    found = Shortlist(torch.tensor([[5, 2, 8]]), torch.tensor([[0.9, 0.8, 0.1]]), torch.tensor([[-1.0, 1.0, 1.0]]))
    expected = found.similarity + 2 * torch.tensor([[-1.3132617, -0.3132617, -0.3132617]])
    torch.testing.assert_close(found.scores(add_log_sigmoid(2.0)), expected)
    assert found.reranked(matching_only)[1].tolist() == [[2, 8, 5]]  # the tie keeps the order by similarity
    with pytest.raises(ValueError, match="not been scored"):
        Shortlist(found.indices, found.similarity).scores(matching_only)


def example() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    image_ids, text_ids = torch.arange(12), torch.arange(24) // 2
    return torch.randn(12, 3, generator=generator), torch.randn(24, 3, generator=generator), image_ids, text_ids


def test_evaluation_without_matcher_is_recall_by_similarity() -> None:
    images, texts, image_ids, text_ids = example()
    got = evaluate_retrieval(images, texts, image_ids, text_ids, cuts=(1, 5))
    rank = ranks(images @ texts.T, image_ids, text_ids)
    assert got["image_to_text"] == pytest.approx({f"R@{k}": (rank <= k).float().mean().item() for k in (1, 5)})
    assert list(got) == ["image_to_text", "text_to_image"]


def test_a_perfect_matcher_lifts_all_that_the_shortlist_holds_and_nothing_else() -> None:
    images, texts, image_ids, text_ids = example()
    tokens = tokens_of(image_ids), tokens_of(text_ids)
    scored = score_retrieval(images, texts, image_ids, text_ids, CountingMatcher(), *tokens, k=4, chunk=10)
    before = scored.ranks()
    after = scored.ranks(matching_only)
    for direction, first in before.items():
        reachable = first <= 4
        assert 0 < reachable.sum() < len(first)
        assert torch.equal(after[direction], torch.where(reachable, torch.ones_like(first), first))


def test_reranked_ranks_are_those_of_the_whole_reordered_gallery() -> None:
    images, texts, image_ids, text_ids = example()
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(12, 24, generator=generator)

    class Noise:
        def match(self, images: Packed, texts: Packed, pairs: Tensor) -> Tensor:
            return noise[images.first[pairs[:, 0], 0].long(), texts.first[pairs[:, 1], 0].long()]

    places = tokens_of(torch.arange(12)), tokens_of(torch.arange(24))
    scored = score_retrieval(images, texts, image_ids, text_ids, Noise(), *places, k=5)
    similarity = images @ texts.T
    listed = torch.zeros_like(similarity).scatter(1, similarity.topk(5).indices, 1).bool()
    full = torch.where(listed, similarity + 0.7 * F.logsigmoid(noise), similarity - 1000)
    assert torch.equal(scored.ranks(add_log_sigmoid(0.7))["image_to_text"], ranks(full, image_ids, text_ids))


def test_both_directions_share_their_pairs_and_weight_zero_changes_nothing() -> None:
    images, texts, image_ids, text_ids = example()
    matcher = CountingMatcher()
    tokens = tokens_of(image_ids), tokens_of(text_ids)
    got = evaluate_retrieval(images, texts, image_ids, text_ids, matcher, *tokens, k=24, weight=0.0)
    assert sum(count for _, count in matcher.calls) == 12 * 24
    assert got == evaluate_retrieval(images, texts, image_ids, text_ids)


def test_a_matcher_without_opinion_does_not_help() -> None:
    images, texts, image_ids, text_ids = example()
    tokens = tokens_of(image_ids), tokens_of(text_ids)
    scored = score_retrieval(images, texts, image_ids, text_ids, CountingMatcher(0.0), *tokens, k=24)
    assert scored.recall(matching_only)["image_to_text"]["R@1"] == 0
