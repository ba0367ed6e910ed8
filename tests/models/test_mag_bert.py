from dataclasses import replace

import pytest
import torch

from coalign.errors import InputError
from coalign.layers.gating import AdaptationGate
from coalign.models.bert.model import Bert, BertPretrainingConfig
from coalign.models.mag_bert.model import MagBert, MagBertConfig, original
from coalign.ops.attention import Mask
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Labels, Packed, Series, Text

TRUNK = BertConfig(vocab_size=50, dim=32, depth=2, heads=4, hidden_dim=64, positions=12)
CONFIG = MagBertConfig(TRUNK, visual_dim=5, acoustic_dim=3)
WORDS = [7, 3, 5]


def batch_of(order=(0, 1, 2), keep_padding=False, **labels):
    g = torch.Generator().manual_seed(0)
    items = [(torch.randint(4, 50, (n,), generator=g), torch.randn(n, 8, generator=g)) for n in WORDS]

    def packed(parts):
        whole = Packed.from_items(parts)
        return Packed.from_padded(whole.to_padded(), whole.padding_mask(), True) if keep_padding else whole

    streams = {
        "visual": packed([items[i][1][:, :5] for i in order]),
        "acoustic": packed([items[i][1][:, 5:] for i in order]),
    }
    return Batch(text=Text(packed([items[i][0] for i in order])), series=Series(streams), labels=Labels(**labels))


def model_of(config=CONFIG):
    torch.manual_seed(0)
    return MagBert(config).eval()


def test_padding_changes_nothing():
    packed, kept = model_of().encode(batch_of()), model_of().encode(batch_of(keep_padding=True))
    torch.testing.assert_close(packed.pooled, kept.pooled)
    torch.testing.assert_close(
        packed.tokens["text"].values, kept.tokens["text"].to_padded()[kept.tokens["text"].padding_mask()]
    )


def test_items_may_be_permuted():
    model, order = model_of(), (2, 0, 1)
    logits = model.encode(batch_of()).pooled["logits"]
    assert torch.allclose(model.encode(batch_of(order)).pooled["logits"], logits[list(order)], atol=1e-6)


@pytest.mark.parametrize(
    ("classes", "labels", "name"),
    [(1, torch.tensor([1.5, -2.0, 0.5]), "regression"), (3, torch.tensor([2, 0, 1]), "classification")],
)
def test_loss_falls(classes, labels, name):
    model, batch = model_of(replace(CONFIG, classes=classes)), batch_of(label=labels)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(25):
        loss = model.losses(batch)[name]
        history.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert history[-1] < 0.2 * history[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.gate.parameters())


def test_features_of_a_word_are_repeated_for_its_pieces():
    words = torch.tensor([-1, 0, 0, 1, -1, -1, 0, -1])
    ids = Packed.from_items([torch.tensor([1, 10, 11, 12, 2]), torch.tensor([1, 13, 2])])
    g = torch.Generator().manual_seed(0)
    by_word = {
        n: [torch.randn(2, w, generator=g), torch.randn(1, w, generator=g)] for n, w in (("visual", 5), ("acoustic", 3))
    }
    by_piece = {
        name: [torch.stack([a[0] * 0, a[0], a[0], a[1], a[0] * 0]), torch.stack([b[0] * 0, b[0], b[0] * 0])]
        for name, (a, b) in by_word.items()
    }
    given = [
        Batch(text=Text(ids, words=own), series=Series({n: Packed.from_items(x) for n, x in rows.items()}))
        for own, rows in ((words, by_word), (None, by_piece))
    ]
    a, b = (model_of().encode(batch).pooled["logits"] for batch in given)
    assert torch.equal(a, b)


def test_the_shift_is_never_longer_than_beta_times_the_word():
    torch.manual_seed(0)
    gate = AdaptationGate(8, {"sound": 3}, beta=0.25, dropout=0.0)
    x, sound, kept = torch.randn(20, 8), 50 * torch.randn(20, 3), {}
    gate(x, {"sound": sound}, record=kept)
    shift = gate.gates["sound"](torch.cat([sound, x], -1)).relu() * gate.shifts["sound"](sound)
    longer = shift.norm(dim=1) > 0.25 * x.norm(dim=1)
    assert longer.any()
    torch.testing.assert_close((kept["gate.alpha"] * shift.norm(dim=1))[longer], 0.25 * x.norm(dim=1)[longer])
    gate.gates["sound"].weight.data.zero_()
    gate.gates["sound"].bias.data.zero_()
    torch.testing.assert_close(gate(x, {"sound": sound}), gate.norm(x))  # a shift of length 0


def test_starts_from_bert():
    model, bert = model_of(), Bert(BertPretrainingConfig(TRUNK))
    model.start_from(bert)
    for name, tensor in bert.trunk.state_dict().items():
        assert torch.equal(model.trunk.state_dict()[name], tensor)
    assert torch.equal(model.pooler.dense.weight, bert.pooler.dense.weight)


def test_weights_come_back_under_the_authors_names():
    model = model_of()
    names = original(CONFIG)
    file = names.export(model.state_dict())
    assert {"bert.MAG.W_hv.weight", "bert.MAG.W_a.bias", "classifier.weight"} <= set(file)
    back = names.load(file).state
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_bad_input_is_named():
    model, batch = model_of(), batch_of()
    with pytest.raises(InputError, match="reads a stream 'visual'"):
        model.encode(replace(batch, series=None))
    streams = batch.series.streams
    with pytest.raises(InputError, match="'acoustic' has 5 features, the model reads 3"):
        model.encode(replace(batch, series=Series({**streams, "acoustic": streams["visual"]})))
    with pytest.raises(InputError, match="14 rows for 15 pieces"):
        short = Packed.from_items([torch.zeros(6, 5), torch.zeros(3, 5), torch.zeros(5, 5)])
        model.encode(replace(batch, series=Series({**streams, "visual": short})))
    with pytest.raises(InputError, match=r"labels\.label is missing"):
        model.losses(batch)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_the_gate_may_stand_after_any_layer(before):
    model, batch = model_of(replace(CONFIG, gate_after=before)), batch_of()
    x, mask = model.trunk.embedding(batch.text.ids), Mask.within(batch.text.ids)
    others = {name: rows.values for name, rows in batch.series.streams.items()}
    for i, block in enumerate([*model.trunk.encoder.blocks, None]):
        x = model.gate(x, others) if i == before else x
        x = x if block is None else block(x, mask)
    seen = model.encode(batch, record=True)
    torch.testing.assert_close(seen.tokens["text"].values, x)
    assert {"text.0.hidden", "text.1.hidden", "gate.output"} <= set(seen.record)
    with pytest.raises(InputError, match="the trunk has 2 layers"):
        MagBert(replace(CONFIG, gate_after=3))
