"""Frozen features: what is cached is what the model computes; batches are a function of their place."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from coalign.data.loaded import Loaded
from coalign.data.pairs.frozen import FrozenFeatures
from coalign.data.pairs.frozen_parts import RandomCrops, Views
from coalign.data.pairs.sources import open_source
from coalign.data.words.tokenizer import Tokenizer
from coalign.types import Images, ImageSpec, InputSpec, Model, Packed, Text, TextSpec

WORDS = ["red", "green", "blue", "square", "thing", "dark"]


@Model.register
class Parts(nn.Module):
    """A stem that averages 4 x 4 cells, and text states that are two numbers of each word piece."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 4, stride=4)
        self.calls = 0

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(text=TextSpec(vocab_size=200, max_length=20), image=ImageSpec.square(16))

    def frozen_parts(self):
        return [self.stem]

    def features(self, images: Images) -> Images:
        self.calls += 1
        grid = self.stem(images.pixels)
        return Images(grid=grid, pooled=grid.mean((2, 3)))

    def text_states(self, text: Text) -> Packed:
        ids = text.ids.values.float()
        return text.ids.with_values(torch.stack([ids, ids**0.5], 1))

    def phrase_states(self, text: Text) -> Packed:
        return self.text_states(text)

    def pool_states(self, states: Packed) -> torch.Tensor:
        return states.mean()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([" ".join(WORDS)], 120, min_frequency=1)


@pytest.fixture(scope="module")
def source():
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(9)]
    return open_source(
        [(p, [f"a {WORDS[i % 6]} thing", WORDS[i % 6], "dark"][: 1 + i % 3]) for i, p in enumerate(pictures)]
    )


def of(source, tokenizer, file=None, **views):
    torch.manual_seed(0)
    model = Parts()
    return model, FrozenFeatures(Loaded(model, tokenizer), source, Views(**{"count": 3, **views}), file)


def test_the_first_view_is_that_of_evaluation_and_texts_have_their_states(source, tokenizer):
    model, frozen = of(source, tokenizer)
    (batch,) = frozen.loader(9, train=False)
    assert torch.equal(batch.images.grid, frozen.grids[:, 0]) and frozen.grids.shape == (9, 3, 5, 4, 4)
    assert not torch.equal(frozen.grids[:, 0], frozen.grids[:, 1])
    assert len(batch.text.ids) == sum(1 + i % 3 for i in range(9))
    torch.testing.assert_close(batch.text.states, model.text_states(batch.text).values.half().float())
    torch.testing.assert_close(frozen.sentences[:1], model.pool_states(frozen._states(torch.tensor([0]))))
    items, place = frozen._items, {text: row for row, text in enumerate(frozen._place)}
    assert items.ids.tolist() == list(range(9))  # their texts are read by id
    assert items.rows[:, 0].tolist() == [place[source[row].texts[0]] for row in range(9)]


def test_training_draws_views_texts_and_candidates_of_other_items(source, tokenizer):
    _, frozen = of(source, tokenizer)
    loader = frozen.loader(4, first=1.0, further=3, seed=1)
    batches = [batch for _ in range(3) for batch in loader]
    for batch in batches:
        rows = batch.ids
        views = (batch.images.grid[:, None] == frozen.grids[rows]).flatten(2).all(2)
        assert torch.equal(views.sum(1), torch.ones(4, dtype=torch.int64))
        assert torch.equal(batch.images.pooled, frozen.pooled[rows, views.int().argmax(1)])  # of the same view
        assert len(batch.candidates.ids) == 3 and not set(batch.candidates.ids.tolist()) & set(rows.tolist())
        own = [frozen.source[row].texts[0] for row in rows.tolist()]  # with first = 1.0
        assert torch.equal(batch.text.ids.values, tokenizer.encode(own, 20).ids.values)
    assert len({tuple(batch.ids.tolist()) for batch in batches}) > 3
    again = frozen.loader(4, first=1.0, further=3, seed=1)
    again.load_state_dict({**again.state_dict(), "epoch": 1, "batch": 1})
    later = next(iter(again))
    assert torch.equal(later.images.grid, batches[3].images.grid)
    assert torch.equal(later.candidates.states, batches[3].candidates.states)


def test_a_file_is_read_again_unless_something_is_another(source, tokenizer, tmp_path):
    file = tmp_path / "features.safetensors"
    first, frozen = of(source, tokenizer, file, mosaics=1)
    second, again = of(source, tokenizer, file, mosaics=1)
    assert first.calls and not second.calls and torch.equal(frozen.grids, again.grids)
    assert frozen.pooled.shape == (9, 3, 5) and torch.equal(frozen.pooled, again.pooled)
    assert torch.equal(frozen.mosaics[0].cells, again.mosaics[0].cells)
    third, _ = of(source, tokenizer, file, mosaics=1, seed=1)
    assert third.calls
    other = Parts()  # other weights
    FrozenFeatures(Loaded(other, tokenizer), source, Views(3, mosaics=1, seed=1), file)
    assert other.calls
    file.write_bytes(b"broken")
    assert of(source, tokenizer, file, mosaics=1)[0].calls


def test_a_mosaic_holds_its_pictures_and_each_word_names_the_cell_of_its_text(source, tokenizer):
    def plain(pictures, generator):
        del generator
        crops = RandomCrops(Parts().input_spec)
        return torch.cat([crops([picture], torch.Generator().manual_seed(0)) for picture in pictures])

    model, frozen = of(source, tokenizer, mosaics=2, augment=plain)
    mosaics = frozen.loader(4, mosaics=5, seed=0)
    batch = next(iter(mosaics)).mosaics
    assert batch.ids.shape == (5, 4) and batch.images.grid.shape == (5, 5, 4, 4)
    lengths = batch.text.ids.lengths.tolist()
    every = torch.full_like(batch.text.ids.values, -1).index_copy(0, batch.rows, batch.cells)
    rows, cells = batch.text.ids.values.split(lengths), every.split(lengths)
    assert batch.named.tolist() == [4 * m + c for m, own in enumerate(cells) for c in range(4) if (own == c).any()]
    for ids, named, members in zip(rows, cells, batch.ids.tolist(), strict=True):
        for cell, member in enumerate(members):
            text = min(source[member].texts, key=len)
            assert torch.equal(ids[named == cell], tokenizer.encode([text]).ids.values[1:-1])
        assert (named == -1).sum() == 2 + 3  # [CLS], [SEP] and three commas
    assert any(named[named >= 0][0] != 0 for named in cells)  # captions are not in the order of the cells
    # the stem has no overlap, so a cell of the mosaic is what the stem gives of its picture alone, half as large
    ids = batch.ids[0].tolist()
    picture = torch.from_numpy(np.array(source[ids[3]].image)).permute(2, 0, 1)
    from torchvision.transforms.v2.functional import resize

    half = resize(plain([picture] * 1, None), [8, 8], antialias=True)
    alone = model.features(Images(pixels=(half - 0.5) / 0.5)).grid[0]
    torch.testing.assert_close(batch.images.grid[0][:, 2:, 2:], alone, atol=2e-3, rtol=2e-3)  # half precision
