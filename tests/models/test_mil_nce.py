from dataclasses import replace

import numpy as np
import pytest
import torch

from coalign.data.words.word_list import WordList
from coalign.errors import InputError
from coalign.layers.s3d import S3dConfig, SpaceTimeConv, pool_same, space_to_depth
from coalign.models.mil_nce.model import MilNceConfig, MilNceModel, original
from coalign.objectives.mil_nce import MilNce
from coalign.types import Batch, Packed, Text, Video

CONFIG = MilNceConfig(
    S3dConfig((4, 4, 6), ((3, 4, 4, 2, 2, 2),) * 9),
    dim=8,
    vocab_size=30,
    word_dim=6,
    text_hidden_dim=12,
    max_words=5,
)
WORDS = [[3, 4], [5], [6, 7, 8], [9, 9, 9, 9, 9, 9, 10], [], [11, 12]]


def batch_of(clips=(0, 1, 2), per_clip=2, size=32):
    g = torch.Generator().manual_seed(0)
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])[:, None, :, None, None]
    frames = (0.7 * colours + 0.3 * torch.rand(3, 8, 3, size, size, generator=g))[list(clips)]
    items = [torch.tensor(WORDS[i * per_clip + k], dtype=torch.int64) for i in clips for k in range(per_clip)]
    return Batch(video=Video(frames=frames), text=Text(Packed.from_items(items)))


def model_of(config=CONFIG):
    torch.manual_seed(0)
    return MilNceModel(config).eval()


def test_the_objective_by_hand():
    g = torch.Generator().manual_seed(0)
    s = torch.randn(3, 3, 2, generator=g, dtype=torch.float64)
    expected = []
    for i in range(3):
        own = s[i, i].exp().sum()
        expected.append(-(own / (s[i].exp().sum() + s[:, i].exp().sum())).log())
    torch.testing.assert_close(MilNce()(s), torch.stack(expected).mean())
    torch.testing.assert_close(MilNce("none")(s), torch.stack(expected))
    assert MilNce()(torch.zeros(1, 1, 1)).item() == pytest.approx(np.log(2))  # the own one counts twice


def test_packed_words_are_slots_without_padding():
    model, text = model_of(), batch_of().text
    slots = text.ids.to_padded(7)[:, :5]
    torch.testing.assert_close(model.text(text.ids), model.text(Packed.uniform(slots)))
    kept = Packed.from_padded(text.ids.to_padded(7), text.ids.padding_mask(7), True)
    torch.testing.assert_close(model.text(text.ids), model.text(kept))
    alone = model.text(Packed.from_items([torch.tensor([3, 4])]))
    torch.testing.assert_close(alone[0], model.text(text.ids)[0])


def test_words_past_the_last_slot_are_not_read():
    model = model_of()
    a, b = ([9, 9, 9, 9, 9, last] for last in (10, 11))
    a, b = (model.text(Packed.from_items([torch.tensor(x)])) for x in (a, b))
    assert torch.equal(a, b)


def test_without_padding_slots():
    model = model_of(replace(CONFIG, padding_counts=False))
    before = model.text(batch_of().text.ids)
    model.text.word.weight.data[0] += 5
    assert torch.equal(model.text(batch_of().text.ids), before)
    torch.testing.assert_close(before[4], model.text.out.bias)  # a text without words


@pytest.mark.parametrize("cells", [True, False])
def test_items_do_not_depend_on_batch_mates(cells):
    model, order = model_of(replace(CONFIG, video=replace(CONFIG.video, space_to_depth=cells))), (2, 0, 1)
    together = model.encode(batch_of()).pooled["video"]
    alone = model.encode(batch_of(order)).pooled["video"]
    torch.testing.assert_close(alone, together[list(order)], atol=1e-6, rtol=1e-4)


def test_pooling_counts_a_last_part_window():
    x = torch.arange(7.0).view(1, 1, 1, 1, 7)
    # zeros: none in front, one behind; windows of 3, stride 2: 012 234 456 6(0)
    assert pool_same(x, (1, 1, 3), (1, 1, 2)).flatten().tolist() == [2, 4, 6, 6]
    x = torch.arange(1.0, 6).view(1, 1, 5, 1, 1)
    assert pool_same(x, (2, 1, 1), (2, 1, 1)).flatten().tolist() == [2, 4, 5]
    assert pool_same(-x, (3, 1, 1), (2, 1, 1)).flatten().tolist() == [-1, -3, 0]  # zeros, not minus infinity


def test_cells_become_channels():
    x = torch.rand(1, 3, 4, 6, 2)
    cells = space_to_depth(x)
    assert cells.shape == (1, 24, 2, 3, 1)
    time, row, column, colour = 1, 0, 1, 2
    assert cells[0, time * 12 + row * 6 + column * 3 + colour, 1, 2, 0] == x[0, colour, 3, 4, 1]


def test_gradients_in_bfloat16_over_two_frames_are_those_in_float32():
    """The library's own are of memory that was never written, on a processor."""
    torch.manual_seed(0)
    layer, x = SpaceTimeConv(16, 32, (3, 3, 3), padding=(1, 1, 1), separable=True), torch.randn(4, 16, 2, 4, 4)
    found = []
    for low in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            layer(x).float().square().sum().backward()
        found.append(layer.time.weight.grad)
    torch.testing.assert_close(found[1], found[0], atol=0.05 * float(found[0].abs().max()), rtol=0)


def test_loss_falls():
    model, batch = model_of(replace(CONFIG, train_words=True)), batch_of()
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    history = []
    for _ in range(60):
        loss = model.train().losses(batch)["mil_nce"]
        history.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert min(history[-10:]) < 0.75 * history[0], history  # tiny batch norms make the way down uneven


def test_words_are_frozen_unless_asked_for():
    model = model_of()
    model.losses(batch_of())["mil_nce"].backward()
    assert model.text.word.weight.grad is None
    assert all(p.grad is not None for name, p in model.named_parameters() if name != "text.word.weight")


def test_weights_come_back_under_the_authors_names():
    model = model_of()
    for prefix in ("", "module."):
        names = original(CONFIG, prefix)
        file = names.export(model.state_dict())
        assert f"{prefix}mixed_4e.conv_b2_b.bn2.running_var" in file
        back = names.load(file).state
        assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_encoding():
    model, batch = model_of(), batch_of()
    seen = model.encode(batch, record=True)
    assert torch.equal(seen.vectors["text"], seen.pooled["text"]) and model.similarity == "dot"
    assert seen.record["mixed_5c"].shape[:2] == (3, CONFIG.video.width)
    assert set(model.encode(Batch(text=batch.text)).pooled) == {"text"}


def test_bad_input_is_named():
    model, batch = model_of(), batch_of()
    with pytest.raises(InputError, match="has neither"):
        model.encode(Batch())
    with pytest.raises(InputError, match="6 texts cannot be shared evenly by 4 clips"):
        frames = torch.cat([batch.video.frames, batch.video.frames[:1]])
        model.losses(replace(batch, video=Video(frames=frames)))
    with pytest.raises(InputError, match="must be even"):
        model.encode(Batch(video=Video(frames=torch.rand(1, 7, 3, 32, 32))))
    with pytest.raises(InputError, match="frames are"):
        model.encode(Batch(video=Video(frames=torch.rand(1, 3, 8, 32, 32))))


def test_whole_words_of_a_list(tmp_path):
    words = WordList(["add", "don't", "2"])
    assert words.ids("Add -- DON'T zebra 2_ 2!") == [1, 2, 3]
    assert WordList(["add"], lowercase=False).ids("Add add") == [1]
    text = words.text(["zebra", "add 2 add", ""], max_words=2)
    assert text.ids.lengths.tolist() == [0, 2, 0]
    assert text.ids.values.tolist() == [1, 3]
    np.save(tmp_path / "dict.npy", np.array(["add", "2"]))
    (tmp_path / "dict.txt").write_text("add\n2\n")
    for name in ("dict.npy", "dict.txt"):
        assert WordList.load(tmp_path / name).ids("2 add") == [2, 1]
    np.save(tmp_path / "code.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"code\.npy: not a readable list"):
        WordList.load(tmp_path / "code.npy")
