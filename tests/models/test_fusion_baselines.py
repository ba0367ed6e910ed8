"""`concat`, `fusion` and `raven` against their plain formulas."""

from dataclasses import replace

import pytest
import torch

from coalign.errors import InputError
from coalign.layers.gating import ModalityShift
from coalign.layers.recurrent import LastState, by_place
from coalign.models.bert.model import Bert, BertPretrainingConfig
from coalign.models.concat.model import Concat, ConcatConfig
from coalign.models.fusion.model import Fusion, FusionConfig, outer
from coalign.models.raven.model import Raven, RavenConfig
from coalign.ops.packing import resample, shorten
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Labels, Layout, Packed, Series, Text

TRUNK = BertConfig(vocab_size=50, dim=32, depth=2, heads=4, hidden_dim=64, positions=12)
STREAMS = (("audio", 5), ("vision", 3))
WORDS, LENGTHS = [4, 2, 3], {"text": [4, 2, 3], "audio": [7, 9, 1], "vision": [3, 5, 6]}
WIDTHS = {"text": 6, "audio": 5, "vision": 3}


def items_of(name):
    g = torch.Generator().manual_seed(WIDTHS[name])
    return [torch.randn(n, WIDTHS[name], generator=g) for n in LENGTHS[name]]


def places_of(name, item):
    """Frame f of an item is in word f // 2, the last ones in none."""
    n = LENGTHS[name][item]
    place = torch.arange(n) // 2
    return torch.where(place < WORDS[item], place, -1)


def batch_of(order=(0, 1, 2), **labels):
    g = torch.Generator().manual_seed(0)
    ids = [torch.randint(4, 50, (n,), generator=g) for n in WORDS]
    streams = {name: Packed.from_items([items_of(name)[i] for i in order]) for name in WIDTHS}
    places = {name: torch.cat([places_of(name, i) for i in order]) for name in WIDTHS}
    return Batch(
        Text(Packed.from_items([ids[i] for i in order])), series=Series(streams, places), labels=Labels(**labels)
    )


MODELS = {
    "concat": (Concat, ConcatConfig(TRUNK, STREAMS, max_steps=8)),
    "concat-streams": (Concat, ConcatConfig(TRUNK, tuple(WIDTHS.items()), max_steps=8, words=False, cls_id=1)),
    "raven": (Raven, RavenConfig("text", 6, STREAMS, nonverbal_dim=4, dim=8)),
    **{
        kind: (Fusion, FusionConfig(kind, tuple(WIDTHS.items()), state_dim=8, tensor_dim=3, hidden_dim=8))
        for kind in ("early", "late", "decision", "tensor")
    },
    "tensor-bert": (Fusion, FusionConfig("tensor", STREAMS, TRUNK, state_dim=8, tensor_dim=3, hidden_dim=8)),
}


def model_of(name, **changes):
    kind, config = MODELS[name]
    torch.manual_seed(0)
    return kind(replace(config, **changes)).eval()


@pytest.mark.parametrize("name", list(MODELS))
def test_an_item_depends_neither_on_its_mates_nor_on_its_place(name):
    model, order = model_of(name), (2, 0, 1)
    logits = model.encode(batch_of()).pooled["logits"]
    assert logits.shape == (3, 1)
    torch.testing.assert_close(model.encode(batch_of(order)).pooled["logits"], logits[list(order)])
    torch.testing.assert_close(model.encode(batch_of((1,))).pooled["logits"], logits[1:2])


@pytest.mark.parametrize(
    ("name", "task"),  # most have one and the same head
    [(name, "regression") for name in MODELS] + [(n, t) for n in ("late", "concat") for t in ("emotions", "classes")],
)
def test_loss_falls(name, task):
    labels, outputs = {
        "regression": (torch.tensor([1.5, -2.0, 0.5]), 1),
        "emotions": (torch.tensor([[1, 0], [0, 0], [1, 1]]), 4),
        "classes": (torch.tensor([2, 0, 1]), 3),
    }[task]
    model, batch = model_of(name, task=task, outputs=outputs), batch_of(label=labels)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3 if "concat" in name else 2e-2)
    history = []
    for _ in range(30):
        loss = model.losses(batch)[task]
        history.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert min(history) < 0.5 * history[0]
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_concat_is_bert_over_the_rows_side_by_side():
    model, batch = model_of("concat"), batch_of((1,))
    text = model.trunk.embedding(batch.text.ids)
    rows = [text]
    for name, embedding in model.streams.items():
        x = batch.series.streams[name].values[None]
        x = torch.nn.functional.adaptive_avg_pool1d(x.mT, 8)[0].T if name == "audio" else x[0]  # 9 rows to 8 ...
        if name == "audio":  # ... by stretches that do not overlap: rows 0 and 1 share the first
            raw = batch.series.streams[name].values
            x = torch.cat([raw[:2].mean(0, keepdim=True), raw[2:]])
        place = embedding.position.weight[: len(x)]
        rows.append(embedding.norm(embedding.projection(x) + place + embedding.kind))
    whole = torch.cat(rows)
    from coalign.ops.attention import Mask

    states = model.trunk.encoder(whole, Mask.within(Layout.of([len(whole)])))
    expected = model.head(model.pooler(states[:1]))
    torch.testing.assert_close(model.encode(batch).pooled["logits"], expected)


def test_starts_from_bert():
    bert = Bert(BertPretrainingConfig(TRUNK))
    for name in ("concat", "tensor-bert"):
        model = model_of(name)
        model.start_from(bert)
        assert all(torch.equal(t, model.trunk.state_dict()[n]) for n, t in bert.trunk.state_dict().items())
        assert torch.equal(model.pooler.dense.weight, bert.pooler.dense.weight)


def test_raven_is_its_formula():
    model = model_of("raven")
    batch = batch_of()
    seen = model.encode(batch, record=True)
    shift, row = model.shift, 0
    for item, words in enumerate(WORDS):
        shifted = []
        for word in range(words):
            z, h = items_of("text")[item][word], shift.bias
            for name, _ in STREAMS:
                frames = items_of(name)[item][places_of(name, item) == word]
                state = torch.zeros(4) if not len(frames) else model.nonverbal[name].lstm(frames[None])[1][0][-1, 0]
                share = shift.weights[name](torch.cat([state, z])).sigmoid()
                torch.testing.assert_close(seen.record[f"shift.{name}"][row : row + 1], share)
                h = h + share * shift.shifts[name](state)
            alpha = min(1.0, float((z.norm() / h.norm()).detach()))
            shifted.append(z + alpha * h)
            row += 1
        state = model.words.lstm(torch.stack(shifted)[None])[1][0][-1]
        torch.testing.assert_close(seen.pooled["logits"][item : item + 1], model.head(state))


def test_the_shift_is_bounded():
    torch.manual_seed(0)
    shift = ModalityShift(8, {"sound": 3}, beta=0.25)
    x = torch.randn(20, 8)
    moved = (shift(x, {"sound": 50 * torch.randn(20, 3)}) - x).norm(dim=1)
    bound = 0.25 * x.norm(dim=1)
    assert bool((moved <= bound + 1e-5).all())
    assert (moved - bound).abs().lt(1e-5).sum() > 5  # where the gate lets much in, the bound is what remains


def test_the_outer_product_has_every_product():
    a, b = torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0]])
    assert outer([a, b]).tolist() == [[1, 5, 2, 10, 3, 15]]


def test_early_fusion_brings_streams_to_the_steps_of_the_first():
    x = Packed.from_items([torch.tensor([[1.0], [3.0], [5.0], [7.0]]), torch.tensor([[2.0]]), torch.zeros(0, 1)])
    steps = resample(x, Layout.of([2, 3, 1]))
    assert steps.values.flatten().tolist() == [2, 6, 2, 2, 2, 0]
    assert shorten(x, 3).lengths.tolist() == [3, 1, 0]
    assert shorten(x, 4) is x


def test_rows_by_place():
    x = Packed.from_items([torch.arange(4.0)[:, None], torch.arange(4.0, 6.0)[:, None]])
    words = Packed(torch.zeros(3, 1), Layout.of([2, 1]))
    found = by_place(x, torch.tensor([1, 0, -1, 1, 5, 0]), words)
    assert found.lengths.tolist() == [1, 2, 1]
    assert found.values.flatten().tolist() == [1, 0, 3, 5]
    states = LastState(1, 2)(Packed(torch.zeros(0, 1), Layout.of([0, 0])))
    assert states.tolist() == [[0, 0], [0, 0]]


def test_streams_without_rows_give_a_finite_answer():
    batch = batch_of()
    empty = {name: Packed(torch.zeros(0, w), Layout.of([0, 0, 0])) for name, w in STREAMS}
    places = {name: torch.zeros(0, dtype=torch.int64) for name in empty}
    series = Series({**batch.series.streams, **empty}, {**batch.series.places, **places})
    for name in MODELS:
        assert bool(model_of(name).encode(replace(batch, series=series)).pooled["logits"].isfinite().all())


def test_bad_input_is_named():
    with pytest.raises(InputError, match="the system 'concat'"):
        Fusion(FusionConfig("early", STREAMS, TRUNK))
    with pytest.raises(InputError, match="two or more streams"):
        Fusion(FusionConfig("late", STREAMS[:1]))
    with pytest.raises(InputError, match="reads a stream 'audio'"):
        model_of("late").encode(Batch(series=Series({"text": Packed(torch.zeros(1, 6), Layout.of([1]))})))
    with pytest.raises(InputError, match="which word each row of 'audio' falls in"):
        batch = batch_of()
        model_of("raven").encode(replace(batch, series=Series(batch.series.streams)))
