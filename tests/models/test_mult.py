import re
from dataclasses import replace

import pytest
import torch

from coalign.checkpoints import read_tensors
from coalign.errors import InputError
from coalign.layers.ctc_alignment import CtcAlignment
from coalign.layers.grouped import run_grouped
from coalign.layers.sincos import sincos_steps
from coalign.models.mult.config import MulTConfig, Stream
from coalign.models.mult.model import MulT
from coalign.models.mult.names import original
from coalign.types import Batch, Labels, Layout, Packed, Series

STREAMS = (Stream("text", 6), Stream("audio", 5), Stream("vision", 3))
CONFIG = MulTConfig(STREAMS, dim=8, heads=2, layers=2)
LENGTHS = {"text": [4, 2, 3], "audio": [7, 9, 1], "vision": [3, 5, 6], "touch": [2, 2, 4]}


def items_of(stream):
    g = torch.Generator().manual_seed(stream.width)
    return [torch.randn(n, stream.width, generator=g) for n in LENGTHS[stream.name]]


def batch_of(order=(0, 1, 2), streams=STREAMS, **labels):
    return Batch(
        series=Series({s.name: Packed.from_items([items_of(s)[i] for i in order]) for s in streams}),
        labels=Labels(**labels),
    )


def model_of(config=CONFIG):
    torch.manual_seed(0)
    return MulT(config).eval()


def test_an_item_does_not_depend_on_its_batch_mates():
    model = model_of()
    together = model.encode(batch_of(), record=True)
    for i in range(3):
        alone = model.encode(batch_of((i,)))
        torch.testing.assert_close(alone.pooled["logits"][0], together.pooled["logits"][i])
    plain = model.encode(batch_of())  # the fast attention, without a record
    torch.testing.assert_close(plain.pooled["logits"], together.pooled["logits"])


def test_items_may_be_permuted():
    model, order = model_of(), (2, 0, 1)
    expected = model.encode(batch_of()).pooled["logits"][list(order)]
    torch.testing.assert_close(model.encode(batch_of(order)).pooled["logits"], expected)


def test_no_step_sees_beyond_the_difference_of_lengths():
    weights = model_of().encode(batch_of(), record=True).record["text.audio.0.cross_attention"]
    for item, (words, sounds) in enumerate(zip(LENGTHS["text"], LENGTHS["audio"], strict=True)):
        seen = weights[item, :, :words, :].sum(0) > 0
        place = torch.arange(seen.shape[1])
        expected = place <= torch.arange(words)[:, None] + abs(words - sounds)
        assert torch.equal(seen, expected & (place < sounds))


def test_positions():
    table = sincos_steps(torch.tensor([0, 3]), 7)
    assert table.shape == (2, 7)
    angles = 3 * torch.tensor([1.0, 10000**-0.5, 10000**-1.0])
    torch.testing.assert_close(table[1], torch.cat([angles.sin(), angles.cos(), torch.zeros(1)]))


@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_streams(count):
    streams = (*STREAMS, Stream("touch", 4))[:count]
    model = model_of(replace(CONFIG, streams=streams))
    seen = model.encode(batch_of(streams=streams))
    assert list(seen.tokens) == [s.name for s in streams]
    assert seen.pooled["pooled"].shape == (3, count * (count - 1) * 8)


def test_one_target_alone():
    model = model_of(replace(CONFIG, targets=("audio",)))
    assert set(model.cross) == {"audio"}
    assert model.encode(batch_of()).pooled["pooled"].shape == (3, 16)


def test_a_stream_of_the_common_width_is_not_projected():
    streams = (replace(STREAMS[0], width=8), *STREAMS[1:])
    config = replace(CONFIG, streams=streams)
    model = model_of(config)
    assert set(model.projections) == {"audio", "vision"}
    file = original(config).export(model.state_dict())
    loaded = original(config).load({**file, "proj_l.weight": torch.ones(8, 8, 1)})  # the authors' has one all the same
    assert set(loaded.carried) == {"proj_l.weight"}
    assert set(loaded.state) == set(model.state_dict())


@pytest.mark.parametrize(
    ("config", "label", "name"),
    [
        (CONFIG, torch.tensor([[1.5], [-2.0], [0.5]]), "regression"),
        (
            replace(CONFIG, outputs=8, task="emotions"),
            torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]]),
            "emotions",
        ),
    ],
)
def test_loss_falls(config, label, name):
    config = replace(config, embedding_dropout=0.0, relu_dropout=0.0, residual_dropout=0.0)
    model, batch = model_of(config), batch_of(label=label)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(25):
        loss = model.losses(batch)[name]
        history.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert history[-1] < 0.3 * history[0]


def test_weights_come_back_under_the_authors_names():
    model, names = model_of(), original(CONFIG)
    file = names.export(model.state_dict())
    assert file["proj_a.weight"].shape == (8, 5, 1)
    assert file["trans_v_with_l.layers.1.self_attn.in_proj_weight"].shape == (24, 8)
    back = names.load(file).state
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


class Whole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 1)


def test_a_pickled_module_is_refused_with_the_line_that_saves_it_again(tmp_path, monkeypatch):
    torch.save(Whole(), tmp_path / "mult_MULT.pt")
    with pytest.raises(InputError, match="loading it would run code") as error:
        read_tensors(tmp_path / "mult_MULT.pt")
    (line,) = re.findall(r'python -c "(.+?)" ', str(error.value))
    monkeypatch.chdir(tmp_path)
    exec(line)  # the line does what it says
    assert set(read_tensors(tmp_path / "weights.pth")) == {"head.weight", "head.bias"}


def test_bad_input_is_named():
    model, batch = model_of(), batch_of()
    with pytest.raises(InputError, match="stream 'text'"):
        model.encode(Batch())
    streams = batch.series.streams
    with pytest.raises(InputError, match="'audio' has 6 features, the model reads 5"):
        model.encode(Batch(series=Series({**streams, "audio": streams["text"]})))
    with pytest.raises(InputError, match="target 'smell' is no stream"):
        MulT(replace(CONFIG, targets=("smell",)))
    with pytest.raises(InputError, match="two or more streams"):
        MulT(replace(CONFIG, streams=STREAMS[:1]))
    with pytest.raises(InputError, match=r"labels\.label is missing"):
        model.losses(batch)


# ------------------------------------------------------------------------------------------- directions run together


def keeping_step(lengths=(4, 2, 3), streams=STREAMS, **labels):
    layout = Layout.of(lengths)
    rows = {
        s.name: torch.randn(sum(lengths), s.width, generator=torch.Generator().manual_seed(s.width)) for s in streams
    }
    return Batch(series=Series({name: Packed(x, layout) for name, x in rows.items()}), labels=Labels(**labels))


@pytest.mark.parametrize("lengths", [(4, 2, 3), (3, 3, 3)])
@pytest.mark.parametrize("targets", [None, ("audio",)])
@pytest.mark.parametrize("causal", [True, False])
def test_directions_run_together_as_they_run_alone(lengths, targets, causal):
    streams = (replace(STREAMS[0], attention_dropout=0.1), *STREAMS[1:])  # two groups
    config = replace(CONFIG, streams=streams, targets=targets, causal=causal)
    together, alone = model_of(config), model_of(replace(config, grouped=False))
    with torch.no_grad():  # norms of ones and zeros would hide a mistake
        for p in together.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    alone.load_state_dict(together.state_dict())
    batch = keeping_step(lengths, label=torch.tensor([1.0, -2.0, 0.5]))
    for model in (together, alone):
        model.losses(batch)["regression"].backward()
    torch.testing.assert_close(together.encode(batch).pooled, alone.encode(batch).pooled)
    for (name, p), q in zip(together.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_directions_run_together_only_where_streams_keep_step(monkeypatch):
    calls = []
    monkeypatch.setattr("coalign.models.mult.model.run_grouped", lambda *a: calls.append(a) or run_grouped(*a))
    model = model_of()
    model.encode(batch_of())
    model.encode(keeping_step(), record=True)
    assert not calls
    model.encode(keeping_step())
    assert len(calls) == 2  # all directions, then all targets


# ----------------------------------------------------------------------------------------------------- CTC alignment
def test_ctc_moves_streams_to_the_words():
    config = replace(CONFIG, aligned=("audio", "vision"), align_steps=6)
    model, batch = model_of(config), batch_of(label=torch.tensor([1.0, -2.0, 0.5]))
    moved, places = model.at_steps(model.read(batch))
    assert moved["audio"].layout is moved["vision"].layout is moved["text"].layout
    for i, (words, sounds) in enumerate(zip(LENGTHS["text"], LENGTHS["audio"], strict=True)):
        rows = items_of(STREAMS[1])[i]
        share = model.align["audio"].place(rows[None])[0][0].softmax(-1)[:, 1 : 1 + words]  # the plain formula
        mine = moved["audio"].values[moved["audio"].offsets[i] : moved["audio"].offsets[i + 1]]
        torch.testing.assert_close(mine, share.T @ rows)
        torch.testing.assert_close(places["audio"][i, :sounds], model.align["audio"].place(rows[None])[0][0])
    losses = model.losses(batch)
    losses["ctc"].backward()
    assert set(losses) == {"regression", "ctc"}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.align.parameters())
    file = original(config).export(model.state_dict())
    assert "ctc_a2l_module.pred_output_position_inclu_blank.weight_ih_l0" in file


def test_ctc_learns_the_order():
    torch.manual_seed(0)
    module, steps = CtcAlignment(4, 3), Layout.of([3, 2])
    x = Packed.from_items([torch.eye(4)[[0, 0, 1, 1, 2, 2]], torch.eye(4)[[0, 0, 0, 1, 1, 1]]])
    optimiser = torch.optim.Adam(module.parameters(), 0.05)
    history = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = module.loss(module(x, steps)[1], x.layout, steps)
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]  # an LSTM's outputs stay within 1, so no chance comes near 1
    aligned = module(x, steps)[0].values
    assert aligned[:, :3].argmax(1).tolist() == [0, 1, 2, 0, 1]
    with pytest.raises(InputError, match="knows 3"):
        module(x, Layout.of([4, 2]))


def test_bad_alignments_are_named():
    with pytest.raises(InputError, match="aligned 'smell' is no stream"):
        MulT(replace(CONFIG, aligned=("smell",)))
    with pytest.raises(InputError, match="cannot be aligned to itself"):
        MulT(replace(CONFIG, aligned=("text",)))


def test_classes():
    model = model_of(replace(CONFIG, outputs=3, task="classes"))
    assert model.losses(batch_of(label=torch.tensor([0, 2, 1])))["classes"].item() > 0


def test_a_stream_without_rows_gives_a_finite_answer():
    streams = {
        s.name: Packed.from_items([torch.zeros(0, s.width) if s.name == "audio" else items_of(s)[0]]) for s in STREAMS
    }
    logits = model_of().encode(Batch(series=Series(streams))).pooled["logits"]
    assert bool(logits.isfinite().all())
