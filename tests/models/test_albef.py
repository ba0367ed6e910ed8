"""ALBEF's options for runnable sizes: each does what it says. The paper's own form is held against recordings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from coalign.models.albef.model import Albef
from coalign.models.albef.trunk import AlbefConfig
from coalign.trunks.bert import BertConfig
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Images, Packed, Text

TINY = AlbefConfig(
    image=VitConfig(image_size=16, patch_size=4, dim=24, depth=1, heads=2, hidden_dim=32),
    text=BertConfig(vocab_size=200, dim=16, depth=2, heads=2, hidden_dim=32, context_dim=24, cross_from=1, dropout=0.0),
    embed_dim=12,
    queue_size=8,
    max_text_length=8,
    distill=False,
    targets="ids",
)
SIZE = 6


def model(**options: Any) -> Albef:
    torch.manual_seed(0)
    return Albef(replace(TINY, **options)).train()


def pairs(size: int = SIZE, **labels: torch.Tensor) -> Batch:
    generator = torch.Generator().manual_seed(1)
    words = [torch.randint(110, 200, (3 + i % 3,), generator=generator) for i in range(size)]
    text = Text(Packed.from_items([torch.cat([torch.tensor([101]), word]) for word in words]))
    pixels = torch.randn(size, 3, 16, 16, generator=generator)
    return Batch(text=text, images=Images(pixels=pixels), ids=torch.arange(size), labels=labels)


def losses(of: Albef, batch: Batch, *only: str) -> dict[str, torch.Tensor]:
    of.before_step()
    return of.losses(batch, generator=torch.Generator().manual_seed(2), only=only or None)


def test_online_keys_have_a_gradient_and_the_papers_have_none() -> None:
    for online in (False, True):
        albef, batch = model(online_keys=online), pairs()
        seen = albef.contrast(batch, 0.0)
        (gradient,) = torch.autograd.grad(seen.similarity_i2t[0, 1], seen.text_vector, allow_unused=True)
        assert (gradient is not None) is online  # of image 0 against text 1, with respect to the texts


def test_a_text_bank_stands_beside_the_batch_and_shares_its_ids() -> None:
    albef = model(online_keys=True)
    bank, ids = torch.randn(5, 16), torch.tensor([3, 100, 101, 102, 103])
    seen = albef.contrast(pairs(text_bank=bank, text_bank_ids=ids), 0.0)
    wide = SIZE + TINY.queue_size
    assert seen.similarity_i2t.shape == (SIZE, wide + 5) and seen.similarity_t2i.shape == (SIZE, wide)
    projected = albef.online.project_text(bank)
    torch.testing.assert_close(seen.similarity_i2t[:, wide:], seen.image_vector @ projected.T / albef.temperature)
    positive = seen.target_i2t[3] > 0
    assert positive.nonzero().flatten().tolist() == [3, wide]  # its own text, and the bank's of the same id
    assert torch.equal(seen.target_i2t.sum(1), torch.ones(SIZE))


def test_negatives_follow_the_similarity_as_sharply_as_asked() -> None:
    found: dict[float, float] = {}
    for sharpness in (0.0, 1.0):
        albef, batch = model(negative_sharpness=sharpness), pairs()
        assert batch.text is not None
        seen = albef.contrast(batch, 0.0)
        near = torch.zeros(SIZE, SIZE)
        near[torch.arange(SIZE), (torch.arange(SIZE) + 1) % SIZE] = 50.0  # the next item is by far the most similar
        seen = replace(seen, similarity_i2t=near, similarity_t2i=near)
        generator = torch.Generator().manual_seed(0)
        hits = 0
        for _ in range(50):
            drawn = albef.draw(batch.text, seen, batch.ids, generator, {}, ("itm",))
            hits += int((drawn["neg_text_index"] == (torch.arange(SIZE) + 1) % SIZE).sum())
        found[sharpness] = hits / (50 * SIZE)
    assert found[1.0] == 1.0 and found[0.0] == pytest.approx(1 / (SIZE - 1), abs=0.08)


def test_matching_and_masking_part_of_a_batch() -> None:
    batch = pairs()
    assert batch.text is not None
    whole, part = model(), model(match_items=SIZE, word_items=SIZE)
    for name, loss in losses(whole, batch).items():
        torch.testing.assert_close(loss, losses(part, batch)[name])
    few = model(match_items=2, word_items=2)
    seen = few.contrast(batch, 0.0)
    drawn = few.draw(batch.text, seen, batch.ids, torch.Generator().manual_seed(0), {}, ("itm", "mlm"))
    assert drawn["neg_text_index"].shape == drawn["neg_image_index"].shape == (2,)
    hidden, labels = few.hidden_words(batch.text.ids, drawn)
    assert len(hidden) == 2 and labels.shape == hidden.values.shape
    # the pairs that are left out have no part in the loss
    choices = {name: drawn[name].clamp(max=3) for name in ("neg_text_index", "neg_image_index")}
    assert batch.images is not None and batch.images.pixels is not None
    pixels = batch.images.pixels.clone()
    pixels[4:] = 0
    other = replace(batch, images=Images(pixels=pixels))
    matched = [few.losses(b, choices=choices, only=("itm",))["itm"] for b in (batch, other)]
    torch.testing.assert_close(*matched)


def test_a_warm_momentum_leaves_the_random_start_behind() -> None:
    for warm, rate in ((False, 0.995), (True, 0.1)):
        albef = model(warm_momentum=warm)
        before = albef.momentum.image_projection.weight.clone()
        with torch.no_grad():
            albef.online.image_projection.weight.add_(1.0)
        albef.before_step()
        moved = albef.momentum.image_projection.weight - before
        torch.testing.assert_close(moved, torch.full_like(moved, 1 - rate), rtol=1e-3, atol=1e-5)


def test_frozen_text_states_come_with_the_batch() -> None:
    albef, batch = model(frozen_text=True, text_pool="mean", text_hidden=20), pairs()
    assert batch.text is not None
    with torch.no_grad():
        states = albef.online.read(batch.text).values
    ready = replace(batch, text=replace(batch.text, states=states))
    for name in ("itc", "itm"):
        torch.testing.assert_close(losses(albef, batch, name)[name], losses(albef, ready, name)[name])


def test_a_batch_of_one_pair_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="at least two pairs"):
        losses(model(), pairs(1), "itm")
