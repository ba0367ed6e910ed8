from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import pytest
import torch
from files import encoded, noise, picture
from test_shards import samples, write_shard
from torch import Tensor

from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import InMemory, Sample, Source, Where
from coalign.data.images.transforms import ImageOptions
from coalign.data.pairs.collate import collate, load_example
from coalign.data.pairs.loader import Loader
from coalign.data.pairs.sources import open_source
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import Batch, ImageSpec, InputSpec, TextSpec

SPEC = InputSpec(text=TextSpec(max_length=6), image=ImageSpec.square(8))
AUGMENTED = ImageOptions(flip=True, jitter=0.3, randaugment=1)
Make = Callable[..., Path]


def pairs(count: int, texts: int = 1) -> InMemory:
    words = ("a", "the", "red", "green", "blue")
    return InMemory([(picture(n), [unlike(words[(n + k) % 5], n) for k in range(texts)]) for n in range(count)])


def unlike(text: str, number: int) -> str:
    """The text with characters that the tokenizer drops: equal texts would make pairs share an id."""
    return text + "\u200b" * number


def same(a: Batch, b: Batch) -> bool:
    assert a.images and b.images and a.text and b.text and a.ids is not None and b.ids is not None
    assert a.images.pixels is not None and b.images.pixels is not None
    return a.images.pixels.equal(b.images.pixels) and a.text.ids.values.equal(b.text.ids.values) and a.ids.equal(b.ids)


def pixels_of(batch: Batch) -> Tensor:
    assert batch.images and batch.images.pixels is not None
    return batch.images.pixels


def ids(batches: Sequence[Batch]) -> list[list[int]]:
    return [batch.ids.tolist() for batch in batches if batch.ids is not None]


def flat(parts: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


def take(loader: Loader, count: int) -> list[Batch]:
    """The next batches, over the ends of epochs."""
    found: list[Batch] = []
    while len(found) < count:
        for batch in loader:
            found.append(batch)
            if len(found) == count:
                break
    return found


# ------------------------------------------------------------------------------------------------------------- batches
def test_a_training_batch(tokenizer: Tokenizer) -> None:
    batches = list(Loader(pairs(10), SPEC, tokenizer, 4))
    assert len(batches) == 2
    batch = batches[0]
    assert batch.images and batch.images.pixels is not None and batch.text
    assert batch.images.pixels.shape == (4, 3, 8, 8)
    assert len(batch) == len(batch.images) == 4 and batch.text.ids.lengths.tolist() == [3] * 4
    levels = ((batch.images.pixels[:, 0, 0, 0] * 0.5 + 0.5) * 255).round().long()
    assert levels.equal(batch.ids)  # the picture, the text and the id are of one sample
    words = [tokenizer.pieces(word)[0] for word in ("a", "the", "red", "green", "blue")]
    found = [tokenizer.id_to_piece(int(id)) for id in batch.text.ids.to_padded()[:, 1]]
    assert batch.ids is not None and found == [words[id % 5] for id in batch.ids.tolist()]


def test_epochs_are_shuffled_and_complete(tokenizer: Tokenizer) -> None:
    loader = Loader(pairs(12), SPEC, tokenizer, 4)
    epochs = [flat(ids(list(loader))) for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 3
    assert epochs[0] != epochs[1] != epochs[2] != list(range(12))
    assert flat(ids(list(Loader(pairs(12), SPEC, tokenizer, 4)))) == epochs[0]
    assert flat(ids(list(Loader(pairs(12), SPEC, tokenizer, 4, seed=1)))) != epochs[0]
    assert loader.epoch == 3


def test_every_sample_of_every_epoch_is_augmented_in_its_own_way(tokenizer: Tokenizer) -> None:
    loader = Loader(InMemory([(noise(), "a") for _ in range(4)]), SPEC, tokenizer, 4)
    looks = [pixels for _ in range(2) for batch in loader for pixels in pixels_of(batch)]
    assert len({tuple(look.flatten().tolist()) for look in looks}) == 8


def test_the_global_generator_is_neither_read_nor_moved(tokenizer: Tokenizer) -> None:
    for workers in (0, 1):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = list(Loader(pairs(8), SPEC, tokenizer, 4, options=AUGMENTED, workers=workers))
        assert torch.get_rng_state().equal(before)
        torch.manual_seed(2)
        again = list(Loader(pairs(8), SPEC, tokenizer, 4, options=AUGMENTED, workers=workers))
        assert all(same(a, b) for a, b in zip(first, again, strict=True))


def test_one_text_of_several_in_training(tokenizer: Tokenizer) -> None:
    loader = Loader(pairs(8, texts=3), SPEC, tokenizer, 8)
    drawn = [batch.text.ids.values.tolist() for _ in range(6) for batch in loader if batch.text]
    assert all(len(values) == 8 * 3 for values in drawn)
    by_image = {id: set[int]() for id in range(8)}
    loader = Loader(pairs(8, texts=3), SPEC, tokenizer, 8)
    for _ in range(20):
        for batch in loader:
            assert batch.text and batch.ids is not None
            for id, piece in zip(batch.ids.tolist(), batch.text.ids.to_padded()[:, 1].tolist(), strict=True):
                by_image[id].add(piece)
    assert all(len(pieces) == 3 for pieces in by_image.values())


def test_a_text_can_be_made_of_all(tokenizer: Tokenizer) -> None:
    joined = Loader(pairs(4, texts=3), SPEC, tokenizer, 4, choose_text=lambda texts, _: " ".join(texts))
    batch = next(iter(joined))
    assert batch.text and batch.text.ids.lengths.tolist() == [5] * 4


def test_evaluation_keeps_everything_in_order(tokenizer: Tokenizer, make_images: Make) -> None:
    folder = make_images(5)
    rows = [
        f"img/{number % 5:03d}.png,{word}" for number, word in enumerate(["a", "the", "red", "green", "blue", "dog"])
    ]
    (folder / "p.csv").write_text("\n".join(["image,text", *rows]))
    batches = list(Loader(open_source(folder / "p.csv"), SPEC, tokenizer, 3, train=False))
    assert ids(batches) == [[0, 1], [2, 3, 4]]
    first = batches[0]
    assert first.text and first.images and len(first.images) == 2 and len(first.text.ids) == 3
    assert first.labels.text_ids.tolist() == [0, 0, 1]
    assert [tokenizer.decode(row) for row in first.text.ids.to_padded()] == ["a", "dog", "the"]


def test_features_go_to_the_grid(tokenizer: Tokenizer) -> None:
    spec = InputSpec(text=TextSpec(max_length=6))
    features = [torch.full((2, 3, 3), float(number)) for number in range(4)]
    source = InMemory([(grid, unlike("a", number)) for number, grid in enumerate(features)])
    batch = next(iter(Loader(source, spec, tokenizer, 4)))
    assert batch.images and batch.images.grid is not None and batch.images.pixels is None and batch.ids is not None
    assert batch.images.grid[:, 1, 2, 2].tolist() == batch.ids.tolist()
    views = InMemory([(torch.stack([grid, grid + 10]), "a") for grid in features])
    loader = Loader(views, spec, tokenizer, 4)
    drawn = {
        int(v)
        for _ in range(8)
        for b in loader
        if b.images and b.images.grid is not None
        for v in b.images.grid[:, 0, 0, 0]
    }
    assert drawn == {0, 1, 2, 3, 10, 11, 12, 13}
    still = next(iter(Loader(views, spec, tokenizer, 4, train=False)))
    assert still.images and still.images.grid is not None and still.images.grid[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_features_that_do_not_fit_together(tokenizer: Tokenizer) -> None:
    odd = InMemory([(torch.zeros(2, 3, 3), "a"), (torch.zeros(2, 3, 4), "a")])
    with pytest.raises(InputError, match=r"\[2, 3, [34]\]"):
        list(Loader(odd, SPEC, tokenizer, 2))
    with pytest.raises(InputError, match="cannot share a batch"):
        list(Loader([(torch.zeros(2, 3, 3), "a"), (picture(1), "a")], SPEC, tokenizer, 2))
    with pytest.raises(InputError, match="reads no pictures"):
        list(Loader(pairs(2), InputSpec(), tokenizer, 2))


def test_collate_without_a_tokenizer() -> None:
    sample = Sample(torch.zeros(1, 2, 2), ("a", "b"), 7, Where("x", 1))
    batch = collate([load_example(sample, None)], SPEC, None)
    assert batch.text is None and batch.images and len(batch) == 1 and batch.labels.text_ids.tolist() == [7, 7]


# -------------------------------------------------------------------------------------------------- ranks and workers
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("total", [24, 29, 31])
def test_ranks_share_the_data_and_make_equal_steps(tokenizer: Tokenizer, total: int, train: bool) -> None:
    ranks = [list(Loader(pairs(total), SPEC, tokenizer, 4, rank=rank, world_size=3, train=train)) for rank in range(3)]
    assert len({len(batches) for batches in ranks}) == 1
    found = flat(flat(ids(batches)) for batches in ranks)
    assert len(set(found)) == len(found) == (24 if train else total)
    if train:
        alone = Loader(pairs(total), SPEC, tokenizer, 12)
        together = [flat(ids(batches)[step] for batches in ranks) for step in range(len(alone))]
        assert together == ids(list(alone))
    else:
        sizes = [len(batch) for batches in ranks for batch in ids(batches)]
        assert max(sizes) <= 4 and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_batches(tokenizer: Tokenizer, workers: int) -> None:
    alone = list(Loader(pairs(20, 3), SPEC, tokenizer, 4, options=AUGMENTED))
    helped = list(Loader(pairs(20, 3), SPEC, tokenizer, 4, options=AUGMENTED, workers=workers))
    assert len(alone) == 5 and all(same(a, b) for a, b in zip(alone, helped, strict=True))


# ------------------------------------------------------------------------------------------------------------- resuming
@pytest.fixture(params=["memory", "table", "shards"])
def source(request: pytest.FixtureRequest, make_images: Make, tmp_path: Path) -> Source:
    if request.param == "memory":
        return pairs(18, texts=2)
    if request.param == "table":
        folder = make_images(18)
        (folder / "p.csv").write_text("\n".join(["image,text", *(f"img/{n:03d}.png,a red {n}" for n in range(18))]))
        return open_source(folder / "p.csv")
    for number in range(3):
        write_shard(tmp_path / f"{number}.tar", samples(6 * number, 6))
    return open_source(tmp_path)


@pytest.mark.parametrize(("workers", "workers_after"), [(0, 0), (2, 2), (2, 0)])
def test_a_run_continues_with_exactly_the_same_batches(
    source: Source, tokenizer: Tokenizer, workers: int, workers_after: int
) -> None:
    def loader(workers: int) -> Loader:
        return Loader(source, SPEC, tokenizer, 2, rank=1, world_size=2, options=AUGMENTED, workers=workers, seed=3)

    never_stopped = take(loader(0), 10)  # four steps an epoch
    for stop in (6,) if workers else (1, 4, 6):
        first = loader(workers)
        assert all(same(a, b) for a, b in zip(take(first, stop), never_stopped, strict=False))
        state = json.loads(json.dumps(first.state_dict()))
        second = loader(workers_after)
        second.load_state_dict(state)
        rest = take(second, 10 - stop)
        assert all(same(a, b) for a, b in zip(rest, never_stopped[stop:], strict=True)), f"stopped after {stop}"


def test_a_state_of_other_data_is_refused(tokenizer: Tokenizer) -> None:
    state = Loader(pairs(8), SPEC, tokenizer, 4).state_dict()
    for other, word in (
        (Loader(pairs(9), SPEC, tokenizer, 4), "samples was 8 and is 9"),
        (Loader(pairs(8), SPEC, tokenizer, 2), "batch_size"),
        (Loader(pairs(8), SPEC, tokenizer, 4, seed=1), "seed"),
    ):
        with pytest.raises(InputError, match=word):
            other.load_state_dict(state)


# --------------------------------------------------------------------------------------------------------- broken data
def broken_pairs(count: int, broken: Sequence[int]) -> InMemory:
    damaged = encoded(picture(1, (90, 90)))[:60]
    images = [damaged + bytes([number]) if number in broken else picture(number) for number in range(count)]
    return InMemory([(image, unlike("a", number)) for number, image in enumerate(images)])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_sample_is_replaced_and_listed(tokenizer: Tokenizer, tmp_path: Path, workers: int) -> None:
    def run(name: str) -> tuple[list[Batch], Quarantine]:
        quarantine = Quarantine(tmp_path / name)
        loader = Loader(broken_pairs(12, [2, 7]), SPEC, tokenizer, 4, quarantine=quarantine, workers=workers)
        return list(loader) + list(loader), quarantine

    batches, quarantine = run("a.jsonl")
    assert [len(batch) for batch in batches] == [4] * 6
    assert not {2, 7} & set(flat(ids(batches)))
    entries = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert sorted(entry["row"] for entry in entries) == [2, 7] and len(quarantine) == 2
    again, _ = run("b.jsonl")
    assert all(same(a, b) for a, b in zip(batches, again, strict=True))


def test_an_evaluation_leaves_broken_samples_out(tokenizer: Tokenizer) -> None:
    loader = Loader(broken_pairs(6, [0, 1, 3]), SPEC, tokenizer, 2, train=False)
    assert ids(list(loader)) == [[2], [4, 5]]
    assert len(loader.quarantine) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_when_nothing_works_the_error_names_the_file(tokenizer: Tokenizer, workers: int, tmp_path: Path) -> None:
    source = InMemory([(tmp_path / f"{number}.png", "a") for number in range(4)])
    with pytest.raises(InputError, match="no such file; the 16 samples to replace it") as caught:
        list(Loader(source, SPEC, tokenizer, 2, workers=workers))
    assert "Traceback" not in str(caught.value)


def test_loaders_that_cannot_work(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="lower the batch size"):
        Loader(pairs(7), SPEC, tokenizer, 4, world_size=2)
    with pytest.raises(InputError, match="rank 2 of 2"):
        Loader(pairs(7), SPEC, tokenizer, 1, rank=2, world_size=2)
    with pytest.raises(InputError, match="the model embeds 5"):
        Loader(pairs(7), InputSpec(text=TextSpec(vocab_size=5), image=ImageSpec.square(8)), tokenizer, 1)
