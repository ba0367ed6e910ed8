from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from coalign.errors import InputError
from coalign.retrieval.embed import Entry, embed, encode_corpus, join_items
from coalign.types import Batch, Encoding, Images, Packed


class MeanColour:
    """An image's vector is its mean colour, its tokens are its pixels; counts the images it is asked for."""

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        assert batch.images is not None and batch.images.pixels is not None
        pixels = batch.images.pixels.flatten(2).transpose(1, 2)
        self.encoded += len(pixels)
        return Encoding({"image": Packed.uniform(pixels)}, vectors={"image": normalize(pixels.mean(1), dim=1)})


class ListStore:
    def __init__(self) -> None:
        self.vectors: list[Tensor] = []
        self.entries: list[Entry] = []
        self.sizes: list[int] = []

    def count(self, modality: str | None = None) -> int:
        return len(self.entries)

    def append(self, vectors: Tensor, entries: Sequence[Entry], modality: str) -> None:
        assert len(vectors) == len(entries) and modality == "image"
        self.vectors.append(vectors)
        self.entries.extend(entries)
        self.sizes.append(len(entries))


PIXELS = torch.rand(23, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def corpus(size: int, stop: int | None = None) -> Iterator[tuple[Batch, list[Entry]]]:
    for begin in range(0, len(PIXELS), size):
        if stop is not None and begin >= stop:
            raise KeyboardInterrupt
        part = PIXELS[begin : begin + size]
        ids = torch.arange(begin, begin + len(part)) * 10
        yield Batch(images=Images(part), ids=ids), [Entry(image=f"{begin + i}.png") for i in range(len(part))]


def test_embed_streams_in_order_and_flushes() -> None:
    model, store, seen = MeanColour(), ListStore(), []
    assert embed(model, corpus(4), store, "image", flush=8, progress=seen.append) == 23
    assert store.sizes == [8, 8, 7]
    assert seen == [4, 8, 12, 16, 20, 23]
    assert [entry.image for entry in store.entries] == [f"{i}.png" for i in range(23)]
    torch.testing.assert_close(torch.cat(store.vectors), normalize(PIXELS.mean((2, 3)), dim=1))


def test_an_interrupted_run_is_taken_up_even_with_another_batch_size() -> None:
    store, whole = ListStore(), ListStore()
    with pytest.raises(KeyboardInterrupt):
        embed(MeanColour(), corpus(4, stop=16), store, "image", flush=8)
    assert store.count() == 16
    model = MeanColour()
    assert embed(model, corpus(5), store, "image") == 7
    assert model.encoded == 8  # the batch of items 15 to 19, and the last 3
    embed(MeanColour(), corpus(4), whole, "image")
    assert store.entries == whole.entries
    torch.testing.assert_close(torch.cat(store.vectors), torch.cat(whole.vectors))
    assert embed(model, corpus(4), store, "image") == 0


def test_mistakes_are_named() -> None:
    batch = Batch(images=Images(PIXELS[:2]))
    with pytest.raises(InputError, match="2 items but 1 entries"):
        embed(MeanColour(), [(batch, [Entry()])], ListStore(), "image")
    with pytest.raises(InputError, match=r"no text vectors .*gives: image"):
        embed(MeanColour(), [(batch, [Entry(), Entry()])], ListStore(), "text")
    with pytest.raises(InputError, match="no image to embed"):
        encode_corpus(MeanColour(), [], "image")


def test_a_corpus_in_memory() -> None:
    batches = [batch for batch, _ in corpus(4)]
    got = encode_corpus(MeanColour(), batches, "image", tokens=True)
    assert got.ids.tolist() == [10 * i for i in range(23)]
    assert got.tokens is not None and len(got.tokens) == 23
    torch.testing.assert_close(got.tokens.mean(), PIXELS.mean((2, 3)))
    assert encode_corpus(MeanColour(), [Batch(images=Images(PIXELS[:3]))] * 2, "image").ids.tolist() == list(range(6))


def test_joined_items_drop_hidden_padding() -> None:
    x = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    joined = join_items([Packed.from_padded(x, mask, keep_padding=True), Packed.from_padded(x, mask)])
    assert joined.lengths.tolist() == [2, 1, 2, 1]
    assert joined.layout.hidden is None
    assert torch.equal(joined.values, x[mask.bool()].repeat(2, 1))
