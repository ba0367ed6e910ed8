from dataclasses import replace

import pytest
import torch

from coalign.errors import InputError
from coalign.models.bert.model import Bert, BertPretrainingConfig
from coalign.models.videobert.model import VideoBert, VideoBertConfig
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Draws, Packed, Text, Video

TRUNK = BertConfig(vocab_size=50, dim=32, depth=2, heads=4, hidden_dim=64, positions=24)
CONFIG = VideoBertConfig(
    TRUNK, feature_width=6, branching=3, levels=2, mask_probability=0.4, join_id=3, cls_id=1, sep_id=2, mask_id=4
)
WORDS, CLIPS = [5, 3, 4], [4, 6, 2]


def batch_of(order=(0, 1, 2)):
    g = torch.Generator().manual_seed(0)
    texts = [torch.cat([torch.tensor([1]), torch.randint(5, 50, (n,), generator=g), torch.tensor([2])]) for n in WORDS]
    clips = [torch.randn(n, 6, generator=g) for n in CLIPS]
    return Batch(
        text=Text(Packed.from_items([texts[i] for i in order])),
        video=Video(features=Packed.from_items([clips[i] for i in order])),
    )


def model_of(config=CONFIG):
    torch.manual_seed(0)
    model = VideoBert(config).eval()
    g = torch.Generator().manual_seed(0)
    model.visual.grow(torch.randn(200, config.feature_width, generator=g), generator=g)
    return model


def test_the_sequence():
    model, batch = model_of(), batch_of()
    parts = model.parts(batch)
    assert parts["text"].values[:7].tolist() == [*batch.text.ids.values[:6].tolist(), 3]  # [CLS] words [>]
    leaf = model.visual(batch.video.features.values)
    assert parts["video"].values[:5].tolist() == [*(50 + leaf[:4]).tolist(), 2]  # visual words [SEP]
    assert int(leaf.max()) < 9
    alone = model.parts(Batch(video=batch.video))["video"]
    assert alone.values[:6].tolist() == [1, *(50 + leaf[:4]).tolist(), 2]
    lengths = model.encode(batch).tokens["fused"].lengths.tolist()
    assert lengths == [w + 2 + c + 1 for w, c in zip(WORDS, CLIPS, strict=True)]


def test_an_item_does_not_depend_on_its_batch_mates():
    model, order = model_of(), (2, 0, 1)
    together = model.encode(batch_of()).pooled["match_logits"]
    torch.testing.assert_close(model.encode(batch_of(order)).pooled["match_logits"], together[list(order)])
    for i in range(3):
        torch.testing.assert_close(model.encode(batch_of((i,))).pooled["match_logits"][0], together[i])


def test_losses_fall():
    model, batch = model_of(), batch_of()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(35):
        choices = {"partner": torch.tensor([0, 2, 2])}
        losses = model.losses(batch, Draws(torch.Generator().manual_seed(3), choices=choices))
        history.append({name: loss.item() for name, loss in losses.items()})
        optimiser.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        optimiser.step()
    assert all(history[-1][name] < 0.6 * history[0][name] for name in ("mlm", "align")), (history[0], history[-1])


def test_either_part_alone_has_words_to_predict_and_nothing_to_align():
    model, batch = model_of(), batch_of()
    for alone in (Batch(text=batch.text), Batch(video=batch.video)):
        losses = model.losses(alone, Draws(torch.Generator().manual_seed(0)))
        assert set(losses) == {"mlm"}
        assert losses["mlm"] > 0


def test_special_words_are_never_hidden_and_wrong_texts_not_predicted():
    model, batch = model_of(replace(CONFIG, mask_probability=1.0)), batch_of()
    parts = model.parts(batch)
    given = {"partner": torch.tensor([0, 2, 2])}
    d = model.draw(parts, batch, torch.Generator().manual_seed(0), given, CONFIG.objectives)
    assert d["mismatched"].tolist() == [False, True, False]
    words = parts["text"].select(d["partner"])
    item = words.layout.item
    special = torch.isin(words.values, torch.tensor([1, 2, 3]))
    assert torch.equal(d["text_labels"] != -100, ~special & (item != 1))
    video = parts["video"]
    assert torch.equal(d["video_labels"] != -100, (video.values != 2) & (video.layout.item != 1))


def test_starts_from_bert():
    model, bert = model_of(), Bert(BertPretrainingConfig(TRUNK))
    model.start_from(bert)
    words = model.trunk.embedding.word.weight
    assert words.shape == (59, 32)
    assert torch.equal(words[:50], bert.trunk.embedding.word.weight)
    text = Batch(text=batch_of().text)
    torch.testing.assert_close(model.encode(text).tokens["text"].values, bert.eval().encode(text).tokens["text"].values)


def test_the_tree_is_saved_and_not_trained():
    model = model_of()
    assert {"visual.level0", "visual.level1"} <= set(model.state_dict())
    assert not any(name.startswith("visual") for name, _ in model.named_parameters())


def test_bad_input_is_named():
    model, batch = model_of(), batch_of()
    with pytest.raises(InputError, match="has neither"):
        model.encode(Batch())
    with pytest.raises(InputError, match="5 features, the tree was grown from 6"):
        model.encode(Batch(video=Video(features=Packed.from_items([torch.zeros(2, 5)]))))
    with pytest.raises(InputError, match="without padding"):
        ids = Packed.from_padded(batch.text.ids.to_padded(), batch.text.ids.padding_mask(), True)
        model.encode(replace(batch, text=Text(ids)))


def test_slots_are_filled_with_words_and_forecasts_are_visual_words():
    model, batch = model_of(), batch_of()
    ids = batch.text.ids.with_values(batch.text.ids.values.index_fill(0, torch.tensor([2, 8, 9]), CONFIG.mask_id))
    logits, items = model.fill(replace(batch, text=Text(ids)))
    assert logits.shape == (3, 50) and items.tolist() == [0, 1, 1]
    told = model.fill(Batch(text=Text(ids)))[0]
    assert not torch.allclose(told, logits)  # the clips are seen
    scores = model.forecast(batch.video.features)
    assert scores.shape == (3, 9)
    alone = model.forecast(batch.video.features.select([2]))
    torch.testing.assert_close(scores[2:], alone)
    first = batch.video.features.with_values(batch.video.features.values.index_fill(0, torch.tensor([0]), 5.0))
    assert not torch.allclose(model.forecast(first)[0], scores[0])
