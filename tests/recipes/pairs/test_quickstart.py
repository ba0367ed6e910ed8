"""The quick start's pieces on real data; the whole command is the smoke of `.ci/run`."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from coalign.data.images.drawings import augment_drawings
from coalign.data.loaded import Loaded
from coalign.data.pairs.emoji import load_emoji
from coalign.data.pairs.sources import open_source
from coalign.data.prepare import prepare
from coalign.recipes.pairs._compact import compact, tokenizer
from coalign.recipes.pairs.albef_small import bank_of
from coalign.recipes.pairs.quickstart import TEXTS, VIEWS, CachedPairs, Gallery, pixels_of
from coalign.types import Batch


@pytest.fixture(scope="module")
def concepts():
    return load_emoji(96)[:24]


@pytest.fixture(scope="module")
def model():
    return compact(steps=10, seed=0)


@pytest.fixture(scope="module")
def pairs(model, concepts):
    class Few(CachedPairs):
        batch_size = 8

    found = Few(model, concepts, seed=0)
    model.standardise(found.grids[:, 0])
    return found


def test_cached_states_and_features_are_what_the_model_computes(model, concepts):
    gallery = Gallery.of(model, concepts)
    model.eval()
    (batch,) = gallery.batches()
    assert batch.text is not None and batch.images is not None
    cached = model.encode(batch)
    text = model.encode(Batch(text=replace(batch.text, states=None)))
    torch.testing.assert_close(cached.vectors["text"], text.vectors["text"], atol=2e-3, rtol=0)


def test_the_bank_holds_the_vectors_of_the_training_drawings_and_of_full_texts(model, pairs, concepts):
    bank = pairs.querybank(model)
    assert bank.image.shape[0] == 2 * len(concepts) and bank.text.shape[0] == len(concepts)
    gallery = Gallery.of(model, concepts, "openmoji")
    gallery.score(model)
    torch.testing.assert_close(bank.image[len(concepts) :], gallery.vectors["image"], atol=2e-3, rtol=0)
    torch.testing.assert_close(bank.text, gallery.vectors["text"], atol=2e-3, rtol=0)


def test_users_pairs_have_a_bank_too(model, concepts):
    source = open_source([(Image.fromarray(c.images["noto"]), c.text) for c in concepts[:5]])
    bank = bank_of(model, source)
    first = concepts[0]
    batch = prepare(Loaded(model, tokenizer()), images=[Image.fromarray(first.images["noto"])], texts=[first.text])
    seen = model.encode(batch)
    for vectors, own in ((bank.image, seen.vectors["image"]), (bank.text, seen.vectors["text"])):
        assert len(vectors) == 5
        assert (vectors @ own[0]).max() > 0.999


def test_a_stopped_epoch_goes_on_with_the_same_batches(pairs):
    def drawn(loader, count):
        out = []
        for batch in loader:
            out.append((batch.ids.tolist(), float(batch.images.grid.sum()), batch.text.ids.values.tolist()))
            if len(out) == count:
                break
        return out

    start = pairs.state_dict()
    whole = drawn(pairs, 5)
    pairs.load_state_dict(start)
    first = drawn(pairs, 2)
    place = pairs.state_dict()
    pairs.load_state_dict(start)
    pairs.load_state_dict(place)
    assert first + drawn(pairs, 3) == whole
    pairs.load_state_dict(start)


def test_the_loss_falls(model, pairs):
    generator = torch.Generator().manual_seed(0)
    fixed = ("text.embedding", "temperature")  # the recipe's temperature learns ten times slower
    parameters = [p for n, p in model.named_parameters() if p.requires_grad and not any(f in n for f in fixed)]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3)
    losses = []
    model.train()
    for _ in range(5):
        for batch in pairs:
            model.before_step()
            found = model.losses(batch, generator=generator)
            optimiser.zero_grad()
            sum(found.values()).backward()
            optimiser.step()
            model.after_step()
            losses.append(found["itc"].item())
    assert set(found) == {"itc", "itm", "mlm"}
    assert sum(losses[-6:]) / 6 < 0.8 * losses[0]


def test_matching_the_first_rows_alone_is_the_whole_computation(model, concepts):
    model.eval()
    (batch,) = Gallery.of(model, concepts[:6]).batches()
    with torch.no_grad():
        seen = model.encode(batch)
        pairs = torch.arange(6)[:, None].expand(-1, 2)
        alone = model.match(seen.tokens["image"], seen.tokens["text"], pairs)
    torch.testing.assert_close(alone, seen.pooled["match_logits"][:, 1], atol=1e-4, rtol=1e-4)


def test_views_and_texts(pairs, concepts):
    assert pairs.grids.shape == (2 * len(concepts), VIEWS, 232, 6, 6)
    assert len(pairs.texts) == len(concepts) * TEXTS
    assert not torch.equal(pairs.grids[:, 0], pairs.grids[:, 1])


def test_augmented_drawings_stay_on_white(concepts):
    pixels = pixels_of(concepts, "noto")
    changed = augment_drawings(pixels, torch.Generator().manual_seed(0))
    again = augment_drawings(pixels, torch.Generator().manual_seed(0))
    assert torch.equal(changed, again) and not torch.allclose(changed, pixels)
    assert changed.min() >= 0 and changed.max() <= 1
    assert changed[:, :, 0, 0].median() > 0.95
