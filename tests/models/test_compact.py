"""The compact system: each of its settings does what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from coalign.models.compact.model import Compact
from coalign.models.compact.towers import CompactConfig
from coalign.objectives.matching import draw_negative_pairs
from coalign.trunks.bert import BertConfig
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Candidates, Draws, Images, Packed, Text

TINY = CompactConfig(
    image=VitConfig(image_size=16, patch_size=4, dim=24, depth=1, heads=2, hidden_dim=32),
    text=BertConfig(
        vocab_size=1100, dim=16, depth=2, heads=2, hidden_dim=32, context_dim=24, cross_from=1, dropout=0.0
    ),
    embed_dim=12,
    text_hidden=20,
    queue_size=8,
    max_text_length=8,
    alpha=0.0,
    match_items=64,
    word_items=64,
    projection_dropout=0.0,
)
SIZE = 6


def model(**options: Any) -> Compact:
    torch.manual_seed(0)
    return Compact(replace(TINY, **options)).train()


def pairs(size: int = SIZE, candidates: Candidates | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    words = [torch.randint(110, 200, (3 + i % 3,), generator=generator) for i in range(size)]
    text = Text(Packed.from_items([torch.cat([torch.tensor([101]), word]) for word in words]))
    pixels = torch.randn(size, 3, 16, 16, generator=generator)
    return Batch(text=text, images=Images(pixels=pixels), ids=torch.arange(size), candidates=candidates)


def losses(of: Compact, batch: Batch, *only: str) -> dict[str, torch.Tensor]:
    of.before_step()
    return of.losses(batch, Draws(torch.Generator().manual_seed(2), only=only or None))


def test_further_texts_stand_beside_the_batch_and_share_its_ids() -> None:
    compact = model()
    bank, ids = torch.randn(5, 16), torch.tensor([3, 100, 101, 102, 103])
    own, _, contrast = compact.contrast(pairs(candidates=Candidates(bank, ids)))
    wide = SIZE + TINY.queue_size
    assert contrast.similarity_i2t.shape == (SIZE, wide + 5) and contrast.similarity_t2i.shape == (SIZE, wide)
    projected = compact.online.project_text(bank)
    torch.testing.assert_close(contrast.similarity_i2t[:, wide:], own.image_vector @ projected.T / compact.temperature)
    positive = contrast.target_i2t[3] > 0
    assert positive.nonzero().flatten().tolist() == [3, wide]  # its own text, and the further one of the same id
    assert torch.equal(contrast.target_i2t.sum(1), torch.ones(SIZE))


def test_matching_and_masking_part_of_a_batch() -> None:
    batch = pairs()
    assert batch.text is not None
    few = model(match_items=2, word_items=2)
    _, _, contrast = few.contrast(batch)
    drawn = few.draw(batch, contrast, torch.Generator().manual_seed(0), {}, ("itm", "mlm"))
    assert drawn["neg_text_index"].shape == drawn["neg_image_index"].shape == (2,)
    assert len(drawn["mlm_labels"]) == int(batch.text.ids.lengths[:2].sum())
    # the pairs that are left out have no part in the loss
    choices = {name: drawn[name].clamp(max=3) for name in ("neg_text_index", "neg_image_index")}
    assert batch.images is not None and batch.images.pixels is not None
    pixels = batch.images.pixels.clone()
    pixels[4:] = 0
    other = replace(batch, images=Images(pixels=pixels))
    matched = [few.losses(b, Draws(choices=choices, only=("itm",)))["itm"] for b in (batch, other)]
    torch.testing.assert_close(*matched)


def test_the_momentum_leaves_the_random_start_behind() -> None:
    compact = model()
    before = compact.momentum.image_projection.weight.clone()
    with torch.no_grad():
        compact.online.image_projection.weight.add_(1.0)
    compact.before_step()
    moved = compact.momentum.image_projection.weight - before
    torch.testing.assert_close(moved, torch.full_like(moved, 0.9), rtol=1e-3, atol=1e-5)


def test_frozen_text_states_come_with_the_batch() -> None:
    compact, batch = model(), pairs()
    assert batch.text is not None
    with torch.no_grad():
        states = compact.online.read(batch.text).values
    ready = replace(batch, text=replace(batch.text, states=states))
    for name in ("itc", "itm"):
        torch.testing.assert_close(losses(compact, batch, name)[name], losses(compact, ready, name)[name])


def test_the_queue_takes_in_a_step_when_the_step_is_done() -> None:
    compact, batch = model(), pairs()
    before = compact.queue.get_buffer("image").clone()
    losses(compact, batch)
    assert torch.equal(compact.queue.get_buffer("image"), before)
    compact.after_step()
    assert compact.queue.ids[0, :SIZE].tolist() == list(range(SIZE))
    assert not torch.equal(compact.queue.get_buffer("image"), before)


def test_a_batch_of_one_pair_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="at least two pairs"):
        losses(model(), pairs(1), "itm")


def test_negatives_follow_the_similarity_as_sharply_as_asked() -> None:
    next_one = (torch.arange(SIZE) + 1) % SIZE
    near = torch.zeros(SIZE, SIZE)
    near[torch.arange(SIZE), next_one] = 50.0  # the next item is by far the most similar
    generator, found = torch.Generator().manual_seed(0), {}
    for sharpness in (0.0, 1.0):
        drawn = [
            draw_negative_pairs(near, near, torch.eye(SIZE, dtype=torch.bool), generator, sharpness)["neg_text_index"]
            for _ in range(50)
        ]
        found[sharpness] = torch.stack(drawn).eq(next_one).float().mean().item()
    assert found[1.0] == 1.0 and found[0.0] == pytest.approx(1 / (SIZE - 1), abs=0.08)


def test_a_phrase_is_read_alone() -> None:
    compact = model().eval()
    red, apple, dog = 110, 111, 112

    def text(*items: list[int]) -> Text:
        return Text(Packed.from_items([torch.tensor([101, *item, 102]) for item in items]))

    joined = compact.phrase_states(text([red, apple, 1010, dog], [dog]))
    alone = [compact.phrase_states(text(item)).values[1:-1] for item in ([red, apple], [dog])]
    torch.testing.assert_close(joined.values[1:3], alone[0])
    torch.testing.assert_close(joined.values[4:5], alone[1])
    torch.testing.assert_close(joined.values[7:8], alone[1])
    whole = compact.text_states(text([red, apple])).values[1:-1]
    torch.testing.assert_close(alone[0], whole)  # without punctuation it is the text itself
    assert not joined.values[[0, 3, 5, 6, 8]].any()


def test_the_names_of_classes_have_their_share_of_the_similarity() -> None:
    """The ConSE vector by its formula, beside the learned part; features computed beforehand give the same."""
    image = replace(TINY.image, image_size=64, patch_size=16, stem="efficientnet_lite0")
    compact = model(image=image, classes=1000, patch_dim=None).eval()
    assert compact.stem is not None and compact.online.classes is not None
    generator = torch.Generator().manual_seed(3)
    sentences = torch.randn(1000, 16, generator=generator)
    compact.online.classes.name(sentences)
    batch = replace(pairs(4), images=Images(pixels=torch.randn(4, 3, 64, 64, generator=generator)))
    assert batch.images is not None and batch.images.pixels is not None
    got = compact.encode(batch)
    names = torch.nn.functional.normalize(sentences, dim=-1)
    with torch.no_grad():
        seen = compact.stem.network(batch.images.pixels).softmax(-1)
    means = torch.stack([row @ (names - names.mean(0)) for row in seen])
    text = torch.nn.functional.normalize(got.tokens["text"].mean(), dim=-1) - names.mean(0)
    wanted = torch.nn.functional.cosine_similarity(means[:, None], text[None], dim=-1)
    of_names = got.vectors["image"][:, 12:] @ got.vectors["text"][:, 12:].T
    torch.testing.assert_close(of_names, wanted / 3, atol=1e-5, rtol=1e-4)
    learned = got.vectors["image"][:, :12].norm(dim=-1) ** 2
    torch.testing.assert_close(learned, torch.full((4,), 2 / 3))
    again = compact.encode(replace(batch, images=compact.features(batch.images)))
    torch.testing.assert_close(again.vectors["image"], got.vectors["image"])
    batch = replace(batch, images=compact.features(batch.images))
    assert losses(compact.train(), batch, "itc")["itc"].isfinite()


def test_a_words_map_points_at_the_cell_whose_class_has_its_name() -> None:
    image = replace(TINY.image, image_size=64, patch_size=16, stem="efficientnet_lite0")
    compact = model(image=image, classes=1000, patch_dim=8).eval()
    assert compact.stem is not None and compact.online.classes is not None and compact.word_patches is not None
    generator = torch.Generator().manual_seed(3)
    batch = replace(pairs(4), images=Images(pixels=torch.randn(4, 3, 64, 64, generator=generator)))
    assert batch.images is not None and batch.images.pixels is not None and batch.text is not None
    states = compact.phrase_states(batch.text)
    sentences = torch.randn(1000, 16, generator=generator)
    sentences[7] = states.values[1]  # class 7 has the name that the first word is
    compact.online.classes.name(sentences)
    logits = torch.zeros(4, 2, 2, 1000)
    logits[..., 9], logits[:, 1, 0, 9], logits[:, 1, 0, 7] = 50.0, 0.0, 50.0
    named = compact.online.classes.similarity(logits, states, (4, 4))
    assert named[0].shape == (4, 4, 4) and named[0][1].max() == named[0][1][3, 0]
    assert float(named[0][1][3, 0]) == pytest.approx(1.0, abs=1e-4)
    grid = compact.stem(batch.images.pixels)
    plain, both = compact.word_patches.maps(grid, states), compact.word_patches.maps(grid, states, named)
    assert int(both[0][1].argmax()) in (8, 12) and both[0][1][2:, :2].sum() > 0.99 > plain[0][1][2:, :2].sum()

    record = compact.alignment_record(batch)
    assert compact.stem.classes(batch.images.pixels).shape == (4, 4, 4, 1000) and record.similarity is not None
    without = compact.alignment_record(replace(batch, images=compact.features(batch.images))).similarity
    assert without is not None
    torch.testing.assert_close(without[0].view_as(plain[0]), plain[0])
    assert not torch.allclose(record.similarity[0], without[0])
