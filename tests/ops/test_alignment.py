"""Each method on attentions whose right map is known by construction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coalign.errors import InputError
from coalign.ops.alignment import AlignmentRecord, Attended, Rows, alignment_maps, cosines, relevance, rollout
from coalign.types import Packed


def attention(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=random, dtype=torch.float64).softmax(-1).requires_grad_()


def joint(weights: list[Tensor], score: Tensor | None = None, words: int = 2, places: int = 3) -> AlignmentRecord:
    items = weights[0].shape[0]
    layers = [[Attended("joint", "joint", each)] for each in weights]
    return AlignmentRecord(
        Rows.of("joint", [words] * items),
        Rows.of("joint", [places] * items, words),
        [(places,)] * items,
        layers,
        score=score,
        grad_layer=0,
    )


def test_raw_attention_is_a_block_of_one_layer_and_head() -> None:
    weights = [attention(2, 3, 5, 5, seed=seed) for seed in range(2)]
    record = joint(weights)
    torch.testing.assert_close(alignment_maps(record, "cross_attention")[1], weights[1][1, :, :2, 2:].mean(0))
    torch.testing.assert_close(alignment_maps(record, "cross_attention", layer=0, head=2)[0], weights[0][0, 2, :2, 2:])
    back = alignment_maps(record, "cross_attention", back=True)[0]
    torch.testing.assert_close(back, weights[1][0, :, 2:, :2].mean(0).T)
    for wrong in ({"layer": 2}, {"head": 3}):
        with pytest.raises(InputError, match="there are"):
            alignment_maps(record, "cross_attention", **wrong)


def test_rollout_multiplies_what_is_passed_on() -> None:
    weights = [attention(1, 2, 5, 5, seed=seed) for seed in range(3)]
    whole = torch.eye(5, dtype=torch.float64)
    for each in weights:
        whole = (torch.eye(5) + each[0].mean(0)) / 2 @ whole
    torch.testing.assert_close(alignment_maps(joint(weights), "rollout")[0], whole[:2, 2:].detach())
    early = (torch.eye(5) + weights[0][0].mean(0)) / 2
    torch.testing.assert_close(alignment_maps(joint(weights), "rollout", layer=0)[0], early[:2, 2:].detach())


def test_rollout_of_two_streams_goes_through_the_place_that_is_attended_to() -> None:
    within, across = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    seen = rollout([[Attended("image", "image", within)], [Attended("text", "image", across)]])
    # the text draws half on the image's rows, of which half stay and half are exchanged
    torch.testing.assert_close(seen["text", "image"], torch.full((1, 2, 2), 0.25))
    torch.testing.assert_close(seen["text", "text"], torch.eye(2)[None] / 2)


def test_grad_cam_keeps_what_raises_the_score() -> None:
    weights, slope = attention(1, 2, 5, 5), torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    record = joint([weights], (weights * slope).sum((1, 2, 3)))
    wanted = (weights * slope.clamp(min=0)).mean(1)[0, :2, 2:].detach()
    torch.testing.assert_close(alignment_maps(record, "grad_cam")[0], wanted)
    with pytest.raises(InputError, match="no score"):
        alignment_maps(joint([weights]), "grad_cam")


def test_relevance_of_one_stream_is_added_layer_by_layer() -> None:
    weights = [attention(1, 2, 5, 5, seed=seed) for seed in range(2)]
    slopes = [torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(9 + i)).double() for i in range(2)]
    score = sum((each * slope).sum((1, 2, 3)) for each, slope in zip(weights, slopes, strict=True))
    assert isinstance(score, Tensor)
    bars = [(each * slope).clamp(min=0).mean(1)[0].detach() for each, slope in zip(weights, slopes, strict=True)]
    whole = torch.eye(5, dtype=torch.float64)
    for bar in bars:
        whole = whole + bar @ whole
    torch.testing.assert_close(alignment_maps(joint(weights, score), "relevance")[0], whole[:2, 2:])


def test_relevance_of_two_streams_follows_the_two_rules() -> None:
    """Equations 6 to 11 of Chefer et al. 2021, written out for self-attention of both and co-attention between them."""
    own = {"text": attention(1, 1, 2, 2, seed=1), "regions": attention(1, 1, 3, 3, seed=2)}
    to_regions, to_text = attention(1, 1, 2, 3, seed=3), attention(1, 1, 3, 2, seed=4)
    score = torch.stack([each.square().sum() for each in (*own.values(), to_regions, to_text)]).sum()[None]
    layers = [
        [Attended(name, name, each) for name, each in own.items()],
        [Attended("text", "regions", to_regions), Attended("regions", "text", to_text)],
    ]
    bar = {key: (2 * each * each)[0, 0].detach() for key, each in {**own, "tr": to_regions, "rt": to_text}.items()}
    tt, rr = torch.eye(2).double() + bar["text"], torch.eye(3).double() + bar["regions"]

    def normal(seen: Tensor) -> Tensor:
        one = torch.eye(len(seen)).double()
        return one + (seen - one) / (seen - one).sum(1, keepdim=True)

    wanted = normal(tt).T @ bar["tr"] @ normal(rr)
    found = relevance(layers, score)
    torch.testing.assert_close(found["text", "regions"][0], wanted)
    torch.testing.assert_close(found["regions", "text"][0], normal(rr).T @ bar["rt"] @ normal(tt))
    torch.testing.assert_close(found["text", "text"][0], tt)  # nothing of the text was in the regions before


def test_similarity_and_plans_are_given_back_in_the_form_of_the_places() -> None:
    pieces = Packed.from_items([torch.eye(3)[:2], torch.eye(3)[1:2]])
    places = Packed.from_items([2 * torch.eye(3)[[1, 0, 2]], torch.eye(3)])
    pairs = cosines(pieces, places)
    record = AlignmentRecord(
        Rows.of("text", [2, 1]),
        Rows.of("image", [3, 3]),
        [(2, 2), (1, 3)],
        similarity=pairs,
        cells=[torch.tensor([0, 1, 3]), torch.arange(3)],
    )
    first, second = alignment_maps(record, "similarity")
    assert first.tolist() == [[[0.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]]  # cell 2 holds no patch
    assert second.tolist() == [[[0.0, 1.0, 0.0]]]
    for method in ("transport", "cross_attention"):
        with pytest.raises(InputError, match=r"no transport|no words attend"):
            alignment_maps(record, method)


def test_without_attention_back_it_is_the_share_of_what_is_drawn() -> None:
    weights = torch.tensor([[[[0.6, 0.4], [0.2, 0.8]]]])
    layers = [[Attended("text", "image", weights)]]
    record = AlignmentRecord(Rows.of("text", [2]), Rows.of("image", [2]), [(2,)], layers)
    torch.testing.assert_close(
        alignment_maps(record, "cross_attention", back=True)[0], torch.tensor([[0.75, 1 / 3], [0.25, 2 / 3]])
    )
