from dataclasses import replace

import pytest
import torch

from coalign.errors import InputError
from coalign.models.visualbert.heads import (
    HEADS,
    VisualBertClassifier,
    VisualBertGrounding,
    VisualBertTaskConfig,
    grounding_accuracy,
    vqa_accuracy,
)
from coalign.models.visualbert.model import VisualBert, VisualBertConfig, transformers
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Draws, Labels, Packed, Regions, Text

CONFIG = VisualBertConfig(
    BertConfig(vocab_size=50, dim=32, depth=2, heads=4, hidden_dim=64, positions=20, dropout=0.0),
    region_width=8,
    mask_id=3,
    special_ids=(0, 1, 2),
)
WORDS, REGIONS = [7, 3, 5], [2, 4, 0]


def batch_of(words=WORDS, regions=REGIONS, width=8, seed=0, keep_padding=False):
    g = torch.Generator().manual_seed(seed)
    ids = [torch.cat([torch.tensor([1]), torch.randint(4, 50, (n - 1,), generator=g)]) for n in words]
    features = [torch.randn(n, width, generator=g) for n in regions]
    boxes = torch.rand(sum(regions), 4, generator=g)
    text, seen = Packed.from_items(ids), Packed.from_items(features)
    if keep_padding:
        text, seen, boxes = (
            Packed.from_padded(x.to_padded(fill=0.0), x.padding_mask(), True)
            for x in (text, seen, seen.with_values(boxes))
        )
        boxes = boxes.values
    return Batch(text=Text(text), regions=Regions(seen, boxes))


def model_of(kind=VisualBert, config=CONFIG):
    torch.manual_seed(0)
    return kind(config).eval()


def test_padding_changes_nothing():
    model = model_of()
    packed, kept = model.encode(batch_of()), model.encode(batch_of(keep_padding=True))
    for name in ("text", "regions"):
        mask = kept.tokens[name].padding_mask()
        torch.testing.assert_close(packed.tokens[name].values, kept.tokens[name].to_padded()[mask])
    torch.testing.assert_close(packed.pooled["match_logits"], kept.pooled["match_logits"])


def test_items_do_not_see_each_other():
    model, batch, order = model_of(), batch_of(), torch.tensor([2, 0, 1])
    assert batch.text is not None and batch.regions is not None
    boxes = batch.regions.features.with_values(batch.regions.boxes).select(order).values
    other = Batch(text=Text(batch.text.ids.select(order)), regions=Regions(batch.regions.features.select(order), boxes))
    first, second = (model.encode(b).pooled["pooled"] for b in (batch, other))
    torch.testing.assert_close(first[order], second)


def test_intermediates_by_name():
    seen = model_of().encode(batch_of(), record=True)
    assert seen.record["joint.1.attention"].shape == (3, 4, 9, 9)
    torch.testing.assert_close(seen.record["joint.0.attention"][0].sum(-1), torch.ones(4, 9))
    assert seen.tokens["regions"].lengths.tolist() == REGIONS


def test_training_lowers_both_losses():
    model, batch = model_of(config=replace(CONFIG, mask_probability=0.4)).train(), batch_of([6] * 4, [3] * 4)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    history = []
    for _ in range(25):
        losses = model.losses(batch, Draws(torch.Generator().manual_seed(1)))
        history.append({name: loss.item() for name, loss in losses.items()})
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    assert set(history[0]) == {"mlm", "itm"}
    for name in ("mlm", "itm"):
        assert history[-1][name] < 0.5 * history[0][name]


def test_choices_are_obeyed_and_drawn_from_the_generator():
    model, batch = model_of(), batch_of()
    drawn = [model.draw(batch, torch.Generator().manual_seed(4), {}) for _ in range(2)]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert set(drawn[0]) == {"text_index", "swapped", "mlm_input_ids", "mlm_labels"}
    given = model.losses(batch, Draws(choices=drawn[0]))
    again = model.losses(batch, Draws(torch.Generator().manual_seed(4)))
    assert {k: v.item() for k, v in given.items()} == {k: v.item() for k, v in again.items()}
    assert set(model.losses(batch, Draws(choices=drawn[0], only=("itm",)))) == {"itm"}


def test_only_words_of_true_pairs_are_predicted_and_those_of_all_hidden():
    config = replace(CONFIG, mask_probability=1.0)
    batch = batch_of([6] * 8, [1] * 8)
    drawn = model_of(config=config).draw(batch, torch.Generator().manual_seed(0), {})
    predicted = (drawn["mlm_labels"] != -100).view(8, 6)
    assert 0 < drawn["swapped"].sum() < 8
    assert predicted.any(1).tolist() == (drawn["swapped"] == 0).tolist()
    assert not predicted[:, 0].any()  # [CLS]
    hidden = (drawn["mlm_input_ids"] == config.mask_id).view(8, 6)
    assert hidden[drawn["swapped"] == 1].any() and hidden[drawn["swapped"] == 0].any()


def test_agrees_with_transformers():
    hf = pytest.importorskip("transformers")
    c = CONFIG.text
    torch.manual_seed(1)
    theirs = hf.VisualBertForPreTraining(
        hf.VisualBertConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.dim,
            visual_embedding_dim=8,
            num_hidden_layers=c.depth,
            num_attention_heads=c.heads,
            intermediate_size=c.hidden_dim,
            max_position_embeddings=c.positions,
        )
    ).eval()
    ours, names = model_of(), transformers(CONFIG)
    state = theirs.state_dict()
    ours.load_state_dict(names.load(state).state)
    assert set(names.export(ours.state_dict())) == set(state)
    batch = batch_of(regions=[2, 4, 3])
    assert batch.text is not None and batch.regions is not None
    ids, features = batch.text.ids, batch.regions.features
    with torch.no_grad():
        out = theirs(
            input_ids=ids.to_padded(),
            attention_mask=ids.padding_mask().long(),
            visual_embeds=features.to_padded(),
            visual_attention_mask=features.padding_mask().long(),
            visual_token_type_ids=torch.zeros(3, 4, dtype=torch.long),
        )
        seen = ours.encode(batch)
        logits = ours.word_logits(seen.tokens["text"].values)
    torch.testing.assert_close(logits, out.prediction_logits[:, :7][ids.padding_mask()], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.pooled["match_logits"], out.seq_relationship_logits, atol=1e-5, rtol=1e-5)


def test_aligned_regions_take_the_positions_of_their_words():
    model, batch = model_of(), batch_of([5], [2])
    plain = model.trunk.embed(batch.text, batch.regions).rows.values
    labels = Labels(region_alignment=torch.tensor([[-1, -1], [1, 3]]))
    seen = model.encode(replace(batch, labels=labels)).tokens["fused"].values
    table = model.trunk.embedding.position.weight
    embedded = model.trunk.embed(batch.text, batch.regions, None, labels.region_alignment).rows.values
    torch.testing.assert_close(embedded[:6], plain[:6])
    regions = model.trunk.regions
    raw = regions.projection(batch.regions.features.values[1]) + regions.position.weight[0] + regions.segment.weight[0]
    torch.testing.assert_close(embedded[6], model.trunk.embedding.norm(raw + (table[1] + table[3]) / 2))
    assert not torch.allclose(seen, model.encode(batch).tokens["fused"].values)


def test_region_tables_start_as_the_words():
    trunk = model_of().trunk
    assert torch.equal(trunk.regions.position.weight, trunk.embedding.position.weight)
    assert torch.equal(trunk.regions.segment.weight, trunk.embedding.segment.weight)


def test_text_alone_and_many_regions():
    model = model_of()
    assert set(model.encode(Batch(text=batch_of().text)).tokens) == {"text", "fused"}
    assert model.encode(batch_of([4], [100])).tokens["regions"].lengths.tolist() == [100]


def test_bad_input_is_named():
    model = model_of()
    with pytest.raises(InputError, match="regions have 5 features, this model reads 8"):
        model.encode(batch_of(width=5))
    with pytest.raises(InputError, match="no text"):
        model.encode(Batch(regions=batch_of().regions))
    with pytest.raises(InputError, match="3 texts cannot be paired with 2 images"):
        model.encode(Batch(text=batch_of().text, regions=batch_of([3, 3], [1, 1]).regions))
    with pytest.raises(ValueError, match="21 pieces"):
        model.encode(batch_of([21], [1]))
    with pytest.raises(InputError, match="lacks one"):
        model.losses(Batch(text=batch_of().text))


@pytest.mark.parametrize("task", ["vqa", "nlvr2", "vcr"])
def test_heads_learn(task):
    head = HEADS[task].config(CONFIG)
    model = model_of(VisualBertClassifier, replace(head, classes=5, choices=2)).train()
    batch = batch_of([6, 5, 6, 4], [2, 2, 1, 3])
    label = {"vqa": torch.eye(5)[[0, 3, 2, 4]], "nlvr2": torch.tensor([0, 1, 1, 0]), "vcr": torch.tensor([1, 0])}
    batch = replace(batch, labels=Labels(label=label[task]))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(20):
        loss = model.losses(batch)[task]
        history.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert history[-1] < 0.5 * history[0]
    shape = model.eval().encode(batch).pooled["logits"].shape
    assert shape == ((2, 2) if task == "vcr" else (4, 5))


def test_vqa_reads_the_piece_before_the_last():
    config = VisualBertTaskConfig(CONFIG, "vqa", 5)
    model, batch = model_of(VisualBertClassifier, config), batch_of()
    seen = model.encode(batch)
    rows = seen.tokens["text"].to_padded()[torch.arange(3), torch.tensor(WORDS) - 2]
    torch.testing.assert_close(seen.pooled["logits"], model.classifier(rows))
    scores = torch.tensor([[1.0, 0.0, 0.3]])
    assert vqa_accuracy(torch.tensor([[9.0, 0.0, 1.0]]), scores).item() == pytest.approx(0.3)  # never answer 0


def test_grounding_scores_regions_of_entities():
    model = model_of(VisualBertGrounding)
    entities, target = torch.tensor([[2, -1]]), torch.zeros(1, 2, 3)
    target[0, 0, 1] = 1.0
    batch = replace(batch_of([5], [3]), labels=Labels(entities=entities, label=target))
    scores = model.encode(batch).pooled["region_scores"]
    assert scores.shape == (1, 2, 3)
    wanted = -scores[0, 0].log_softmax(-1)[1]
    torch.testing.assert_close(model.losses(batch)["grounding"], wanted)
    scores = torch.tensor([[[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]]])
    assert [float(x) for x in grounding_accuracy(scores, target, entities)] == [1.0, 1.0]


def test_alignment_maps():
    model, batch = model_of(), batch_of()
    lengths = list(zip(batch.text.ids.lengths.tolist(), batch.regions.features.lengths.tolist(), strict=True))
    seen = model.encode(batch, record=True).record
    for method in ("cross_attention",):
        maps = model.alignment(batch, method)
        assert [tuple(m.shape) for m in maps] == lengths
    words, regions = lengths[1]
    attention = seen[f"joint.{model.config.text.depth - 1}.attention"].mean(1)
    torch.testing.assert_close(maps[1], attention[1, :words, words : words + regions])
    with pytest.raises(InputError, match="cross_attention"):
        model.alignment(batch, "dowsing")
