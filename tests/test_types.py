"""Packed batches: every way in and out keeps every row."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.errors import InputError
from coalign.types import Batch, Images, Labels, Layout, Packed, Text
from coalign.types.labels import MEANING

ragged = st.lists(st.integers(0, 5), min_size=1, max_size=5)


def packed(lengths, seed=0, width=3):
    layout = Layout.of(lengths)
    return Packed(torch.randn(layout.total, width, generator=torch.Generator().manual_seed(seed)), layout)


def items(x: Packed):
    return [x.values[a:b] for a, b in zip(x.offsets[:-1].tolist(), x.offsets[1:].tolist(), strict=True)]


@settings(max_examples=30, deadline=None)
@given(lengths=ragged)
def test_padded_and_back(lengths):
    x = packed(lengths)
    width = x.max_length + 2
    mask = x.padding_mask(width)
    assert mask.sum(1).tolist() == lengths
    back = Packed.from_padded(x.to_padded(width), mask)
    torch.testing.assert_close(back.values, x.values)
    assert back.offsets.tolist() == x.offsets.tolist() and back.max_length == x.max_length


@settings(max_examples=30, deadline=None)
@given(data=st.data(), lengths=ragged)
def test_concat_is_item_by_item_and_split_undoes_it(data, lengths):
    others = data.draw(st.lists(st.integers(0, 5), min_size=len(lengths), max_size=len(lengths)))
    a, b = packed(lengths, 0), packed(others, 1)
    joined = Packed.concat(a, b)
    for whole, x, y in zip(items(joined), items(a), items(b), strict=True):
        torch.testing.assert_close(whole, torch.cat([x, y]))
    assert joined.max_length == max(m + n for m, n in zip(lengths, others, strict=True))
    for part, original in zip(joined.split(a.layout, b.layout), (a, b), strict=True):
        torch.testing.assert_close(part.values, original.values)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), lengths=ragged)
def test_select_takes_items_in_the_order_asked(data, lengths):
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=6))
    x = packed(lengths)
    out = x.select(torch.tensor(chosen, dtype=torch.int64))
    expected = [items(x)[i] for i in chosen]
    assert [len(item) for item in items(out)] == [len(item) for item in expected]
    torch.testing.assert_close(out.values, torch.cat([*expected, x.values[:0]]))


@settings(max_examples=20, deadline=None)
@given(lengths=ragged)
def test_mean_is_over_an_items_own_rows(lengths):
    x = packed(lengths)
    expected = torch.stack([item.mean(0) if len(item) else torch.zeros(3) for item in items(x)])
    torch.testing.assert_close(x.mean(), expected)


def test_kept_padding_stays_a_row_and_is_hidden():
    x, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 1, 1]])
    kept = Packed.from_padded(x, mask, keep_padding=True)
    assert kept.values.shape == (6, 4) and kept.layout.is_uniform
    assert kept.layout.hidden is not None and kept.layout.hidden.tolist() == [False, False, True, False, False, False]
    assert kept.padding_mask().tolist() == mask.bool().tolist()
    torch.testing.assert_close(kept.mean()[0], x[0, :2].mean(0))
    assert kept.select([1, 0]).layout.hidden.tolist() == [False, False, False, False, False, True]


def test_uniform_items_are_views():
    x = torch.randn(2, 3, 4)
    assert Packed.uniform(x).values.data_ptr() == x.data_ptr()
    assert Packed.uniform(x).to_padded().data_ptr() == x.data_ptr()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="values have 2 rows, the layout 3"):
        Packed(torch.zeros(2, 1), Layout.of([3]))
    with pytest.raises(ValueError, match=r"mask has shape \(2, 2\)"):
        Packed.from_padded(torch.zeros(2, 3, 1), torch.ones(2, 2))
    with pytest.raises(ValueError, match="width 1 is shorter than the longest item, 2"):
        packed([2, 1]).to_padded(1)
    with pytest.raises(ValueError, match="cannot join 1 items with 2"):
        Packed.concat(packed([1]), packed([1, 1]))


def test_a_batch_moves_as_one():
    ids = Packed(torch.arange(3), Layout.of([2, 1]))
    batch = Batch(
        text=Text(ids), images=Images(torch.zeros(2, 3, 4, 4)), labels=Labels(answers=ids, first=torch.ones(3))
    )
    moved = batch.to("meta")
    assert moved.text is not None and moved.text.ids.values.is_meta and moved.text.ids.offsets.is_meta
    assert moved.images is not None and moved.images.pixels is not None and moved.images.pixels.is_meta
    assert moved.labels.require("answers").values.is_meta and moved.labels.require("first").is_meta
    assert len(batch) == 2


def test_labels_that_are_missing_are_named_with_what_they_are():
    labels = Labels(start=torch.tensor([1]))
    assert set(MEANING) == {f.name for f in fields(Labels)} and list(labels.given()) == ["start"]
    assert labels.require("start").tolist() == [1]
    with pytest.raises(InputError, match=r"labels\.end is missing .*last piece.* SQuAD's questions, .* has start"):
        labels.require("end")
