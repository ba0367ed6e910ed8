from dataclasses import replace

import pytest
import torch

from coalign.errors import InputError
from coalign.models.lxmert.heads import HEADS
from coalign.models.lxmert.model import Lxmert, LxmertConfig
from coalign.models.lxmert.names import transformers
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Draws, Labels, Packed, Regions, Text

CONFIG = LxmertConfig(
    BertConfig(vocab_size=50, dim=32, depth=2, heads=4, hidden_dim=64, positions=20, dropout=0.0),
    region_depth=1,
    cross_depth=2,
    region_width=8,
    objects=6,
    attributes=5,
    answers=7,
    mask_probability=0.4,
    cls_id=1,
    sep_id=2,
    mask_id=3,
)
WORDS, REGIONS = [7, 3, 5], [2, 4, 1]


def batch_of(words=WORDS, regions=REGIONS, seed=0, keep_padding=False, **labels):
    g = torch.Generator().manual_seed(seed)
    ids = [torch.cat([torch.tensor([1]), torch.randint(4, 50, (n - 1,), generator=g)]) for n in words]
    corner = torch.rand(sum(regions), 2, generator=g) / 2
    boxes = torch.cat([corner, corner + 0.3], 1)
    text = Packed.from_items(ids)
    seen = Packed.from_items([torch.randn(n, 8, generator=g) for n in regions])
    classes = torch.rand(sum(regions), 6, generator=g).softmax(1)
    attributes = torch.randint(5, (sum(regions),), generator=g)
    if keep_padding:
        boxes = Packed.from_padded(seen.with_values(boxes).to_padded(), seen.padding_mask(), True).values
        text, seen = (Packed.from_padded(x.to_padded(), x.padding_mask(), True) for x in (text, seen))
    return Batch(text=Text(text), regions=Regions(seen, boxes, classes, attributes), labels=Labels(**labels))


def model_of(config=CONFIG, kind=Lxmert):
    torch.manual_seed(0)
    return kind(config).eval()


def train(model, batch, steps=25, **given):
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(steps):
        losses = model.train().losses(batch, Draws(torch.Generator().manual_seed(1), **given))
        history.append({name: loss.item() for name, loss in losses.items()})
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    return history


def test_padding_changes_nothing():
    model = model_of()
    packed, kept = model.encode(batch_of()), model.encode(batch_of(keep_padding=True))
    torch.testing.assert_close(packed.pooled, kept.pooled)
    for name in ("fused", "fused_regions"):
        real = kept.tokens[name].padding_mask()
        torch.testing.assert_close(packed.tokens[name].values, kept.tokens[name].to_padded()[real])


def test_items_do_not_see_each_other():
    model, batch, order = model_of(), batch_of(), torch.tensor([2, 0, 1])
    seen = batch.regions.features
    regions = Regions(seen.select(order), seen.with_values(batch.regions.boxes).select(order).values)
    other = Batch(text=Text(batch.text.ids.select(order)), regions=regions)
    torch.testing.assert_close(model.encode(batch).pooled["fused"][order], model.encode(other).pooled["fused"])


@pytest.mark.parametrize("task", ["mlm", "itm", "objects", "attributes", "features", "answers"])
def test_each_objective_is_learned(task):
    batch = batch_of([6] * 4, [3] * 4, answer=torch.tensor([0, 3, 1, 6]))
    history = train(model_of(), batch, 40, only=(task,))
    assert history[-1][task] < 0.6 * history[0][task]
    assert set(history[0]) == {task}


def test_draws_are_named_and_come_from_the_generator():
    model, batch = model_of(), batch_of([6] * 5, [3] * 5, answer=torch.rand(5, 7))
    first, second = (model.draw(batch, torch.Generator().manual_seed(2), {}, CONFIG.objectives) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    given = model.losses(batch, Draws(choices=first))
    again = model.losses(batch, Draws(torch.Generator().manual_seed(2)))
    assert {k: v.item() for k, v in given.items()} == {k: v.item() for k, v in again.items()}


def test_a_wrong_text_has_no_answer():
    model = model_of(replace(CONFIG, mismatch_probability=1.0))
    batch = batch_of(answer=torch.tensor([1, 2, 3]))
    drawn = model.draw(batch, torch.Generator().manual_seed(0), {}, CONFIG.objectives)
    assert not drawn["matched"].any() and drawn["answer"].tolist() == [-1, -1, -1]
    losses = model.losses(batch, Draws(choices=drawn))
    assert losses["answers"].item() == 0.0 and all(loss.isfinite() for loss in losses.values())


def test_matching_pairs_as_their_batch_does():
    model, batch = model_of(), batch_of()
    seen = model.encode(batch)
    pairs = torch.tensor([[2, 2], [0, 0], [0, 1]])
    scores = model.match(seen.tokens["regions"], seen.tokens["text"], pairs)
    logits = seen.pooled["match_logits"]
    torch.testing.assert_close(scores[:2], (logits[:, 1] - logits[:, 0])[[2, 0]])


def test_alignment_maps():
    model, batch = model_of(), batch_of()
    maps = model.alignment(batch, "cross_attention")
    assert [tuple(m.shape) for m in maps] == [(7, 2), (3, 4), (5, 1)]
    for m in maps:
        torch.testing.assert_close(m.sum(1), torch.ones(len(m)))
    torch.testing.assert_close(model.alignment(batch)[0], model.alignment(batch, "rollout")[0])  # points best


def test_agrees_with_transformers():
    hf = pytest.importorskip("transformers")
    torch.manual_seed(1)
    theirs = hf.LxmertForPreTraining(
        hf.LxmertConfig(
            vocab_size=50,
            hidden_size=32,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=20,
            l_layers=2,
            r_layers=1,
            x_layers=2,
            visual_feat_dim=8,
            num_object_labels=6,
            num_attr_labels=5,
            num_qa_labels=7,
            initializer_range=0.2,
        )
    ).eval()
    ours, names, state = model_of(), transformers(CONFIG), theirs.state_dict()
    ours.load_state_dict(names.load(state).state)
    assert set(names.export(ours.state_dict())) == set(state)
    batch = batch_of()
    ids, seen = batch.text.ids, batch.regions.features
    with torch.no_grad():
        out = theirs(
            input_ids=ids.to_padded(),
            attention_mask=ids.padding_mask().float(),
            visual_feats=seen.to_padded(),
            visual_pos=seen.with_values(batch.regions.boxes).to_padded(),
            visual_attention_mask=seen.padding_mask().float(),
        )
        found = ours.encode(batch)
        words = ours.predict(found.tokens["fused"].values)
    torch.testing.assert_close(words, out.prediction_logits[ids.padding_mask()], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.pooled["match_logits"], out.cross_relationship_score, atol=2e-5, rtol=1e-5)
    answers = ours.answer_head(found.pooled["fused"])
    torch.testing.assert_close(answers, out.question_answering_score, atol=2e-5, rtol=1e-5)


def test_edge_cases_and_bad_input():
    model = model_of()
    assert model.encode(batch_of([2], [1])).pooled["fused"].shape == (1, 32)
    without = batch_of()
    with pytest.raises(InputError, match="lacks texts or regions"):
        model.losses(Batch(text=without.text))
    wide = replace(without, regions=replace(without.regions, features=Packed.from_items([torch.zeros(2, 9)] * 3)))
    with pytest.raises(InputError, match="9 wide"):
        model.encode(wide)
    bare = replace(without, regions=replace(without.regions, classes=None))
    with pytest.raises(InputError, match="class probabilities"):
        model.losses(bare)


@pytest.mark.parametrize("task", list(HEADS))
def test_heads_learn(task):
    head = HEADS[task]
    config = replace(head.config(CONFIG), classes=2)
    label = torch.tensor([0, 1, 1, 0]) if task == "nlvr2" else torch.eye(2)[[0, 1, 1, 0]]
    batch = batch_of([6] * 4, [3] * 4 * config.images, label=label)
    history = train(model_of(config, head.model), batch, 40)
    assert history[-1]["answers"] < 0.5 * history[0]["answers"]


def test_nlvr2_reads_first_images_then_second_ones():
    config = replace(HEADS["nlvr2"].config(CONFIG), classes=2)
    model, batch = model_of(config, HEADS["nlvr2"].model), batch_of([5, 4], [2, 3, 1, 2])
    seen = batch.regions.features
    order = torch.tensor([1, 0, 3, 2])
    other = Batch(
        text=Text(batch.text.ids.select([1, 0])),
        regions=Regions(seen.select(order), seen.with_values(batch.regions.boxes).select(order).values),
    )
    logits = model.encode(batch).pooled["logits"]
    torch.testing.assert_close(logits.flip(0), model.encode(other).pooled["logits"])
    with pytest.raises(InputError, match="need 4 images"):
        model.encode(batch_of([5, 4], [2, 3]))
