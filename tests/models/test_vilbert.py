from dataclasses import replace

import pytest
import torch

from coalign.errors import InputError
from coalign.models.vilbert.heads import HEADS, VilbertTasks, VilbertTasksConfig
from coalign.models.vilbert.model import Vilbert
from coalign.models.vilbert.trunk import VilbertConfig
from coalign.ops.boxes import overlaps_chosen
from coalign.ops.packing import insert_row, moved_rows
from coalign.ops.pairing import draw_rows
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Draws, Labels, Layout, Packed, Regions, Text

CONFIG = VilbertConfig(
    BertConfig(vocab_size=50, dim=32, depth=3, heads=4, hidden_dim=64, positions=20, dropout=0.0),
    region_width=8,
    region_dim=24,
    region_depth=2,
    region_heads=2,
    region_hidden_dim=40,
    co_dim=16,
    co_heads=2,
    text_connections=(1, 2),
    region_connections=(0, 1),
    region_targets=6,
    negatives=10,
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
    boxes = torch.cat([corner, corner + 0.1], 1)
    text = Packed.from_items(ids)
    seen = Packed.from_items([torch.randn(n, 8, generator=g) for n in regions])
    classes = torch.rand(sum(regions), 6, generator=g).pow(4)
    classes = classes / classes.sum(1, keepdim=True)
    if keep_padding:
        boxes = Packed.from_padded(seen.with_values(boxes).to_padded(), seen.padding_mask(), True).values
        text, seen = (Packed.from_padded(x.to_padded(), x.padding_mask(), True) for x in (text, seen))
    return Batch(text=Text(text), regions=Regions(seen, boxes, classes), labels=Labels(**labels))


def model_of(config=CONFIG, kind=Vilbert):
    torch.manual_seed(0)
    return kind(config).eval()


def train(model, batch, steps=30, **given):
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(steps):
        losses = model.train().losses(batch, Draws(torch.Generator().manual_seed(1), **given))
        history.append({name: loss.item() for name, loss in losses.items()})
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    return history


@pytest.mark.parametrize("dynamic", [False, True])
def test_padding_changes_nothing(dynamic):
    model = model_of(replace(CONFIG, dynamic_attention=dynamic))
    packed, kept = model.encode(batch_of()), model.encode(batch_of(keep_padding=True))
    torch.testing.assert_close(packed.pooled, kept.pooled)
    for name in ("fused", "fused_regions"):
        real = kept.tokens[name].padding_mask()
        torch.testing.assert_close(packed.tokens[name].values, kept.tokens[name].to_padded()[real])


@pytest.mark.parametrize("tasks", [0, 4])
def test_items_do_not_see_each_other(tasks):
    model, order = model_of(replace(CONFIG, task_tokens=tasks)), torch.tensor([2, 0, 1])
    batch = batch_of(task=torch.tensor([1, 3, 0]))
    seen = batch.regions.features
    regions = Regions(seen.select(order), seen.with_values(batch.regions.boxes).select(order).values)
    other = Batch(
        text=Text(batch.text.ids.select(order)), regions=regions, labels=Labels(task=batch.labels.task[order])
    )
    torch.testing.assert_close(model.encode(batch).pooled["fused"][order], model.encode(other).pooled["fused"])


def test_the_task_token_stands_behind_cls_and_matters():
    model = model_of(replace(CONFIG, task_tokens=4))
    first, second = (model.encode(batch_of(task=torch.full((3,), task))) for task in (0, 1))
    assert first.tokens["fused"].lengths.tolist() == [8, 4, 6]
    assert not torch.allclose(first.pooled["fused"], second.pooled["fused"])
    with pytest.raises(InputError, match="task"):
        model.encode(batch_of())


def test_text_attends_to_regions_through_the_connections_alone():
    model, batch = model_of(), batch_of()
    changed = replace(
        batch,
        regions=replace(batch.regions, features=batch.regions.features.with_values(batch.regions.features.values + 1)),
    )
    a, b = model.encode(batch), model.encode(changed)
    assert torch.equal(a.tokens["text"].values, b.tokens["text"].values)
    assert not torch.allclose(a.tokens["fused"].values, b.tokens["fused"].values)


@pytest.mark.parametrize("task", ["mlm", "regions", "itm"])
def test_each_objective_is_learned(task):
    batch = batch_of([6] * 4, [3] * 4)
    assert batch.regions is not None
    sharp = replace(batch.regions, classes=torch.eye(6)[torch.arange(12) % 6])
    history = train(model_of(), replace(batch, regions=sharp), 40, only=(task,))
    assert history[-1][task] < 0.6 * history[0][task]
    assert set(history[0]) == {task}


@pytest.mark.parametrize(("target", "width"), [("features", 8), ("contrast", 8)])
def test_other_region_targets_are_learned(target, width):
    model = model_of(replace(CONFIG, region_target=target, region_targets=width))
    history = train(model, batch_of([6] * 4, [5] * 4), 40, only=("regions",))
    assert history[-1]["regions"] < 0.7 * history[0]["regions"]


def test_draws_are_named_and_come_from_the_generator():
    model, batch = model_of(), batch_of([6] * 5, [3] * 5)
    first, second = (model.draw(batch, torch.Generator().manual_seed(2), {}, CONFIG.objectives) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    given = model.losses(batch, Draws(choices=first))
    again = model.losses(batch, Draws(torch.Generator().manual_seed(2)))
    assert {k: v.item() for k, v in given.items()} == {k: v.item() for k, v in again.items()}


def test_mismatched_pairs_predict_nothing():
    model, batch = model_of(replace(CONFIG, mismatch_probability=1.0)), batch_of()
    drawn = model.draw(batch, torch.Generator().manual_seed(0), {}, CONFIG.objectives)
    assert drawn["mismatched"].all() and not drawn["predicted"].any() and (drawn["mlm_labels"] == -100).all()
    losses = model.losses(batch, Draws(choices=drawn))
    assert losses["mlm"].item() == losses["regions"].item() == 0.0 and losses["itm"] > 0


def test_regions_that_overlap_a_hidden_one_are_hidden_too():
    batch = batch_of([4], [3])
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.45], [0.6, 0.6, 0.9, 0.9]])
    packed = batch.regions.features.with_values(boxes)
    chosen = torch.tensor([True, False, False])
    assert overlaps_chosen(packed, chosen, 0.4).tolist() == [True, True, False]
    split = Packed(boxes, Layout.of([1, 2]))  # the second box is another image's
    assert overlaps_chosen(split, chosen, 0.4).tolist() == [True, False, False]


def test_the_whole_image_is_the_mean_of_what_is_shown():
    batch = batch_of()
    regions = batch.regions
    model = model_of(replace(CONFIG, mask_overlap=None))
    features, whole, chosen = model.hide_regions(regions, 0.5, torch.Generator().manual_seed(3))
    x, layout = regions.features.values, regions.features.layout
    for item in range(3):
        shown = x[(layout.item == item) & ~chosen]
        torch.testing.assert_close(whole[item], shown.mean(0) if len(shown) else torch.zeros(8))
    assert chosen.any() and not torch.equal(features, x)


def test_rows_put_in_and_found_again():
    x = Packed(torch.arange(6.0)[:, None], Layout.of([3, 0, 2, 1]))
    out = insert_row(x, torch.tensor([[10.0], [11.0], [12.0], [13.0]]), 1)
    assert out.values.flatten().tolist() == [0, 10, 1, 2, 11, 3, 12, 4, 5, 13]
    assert out.lengths.tolist() == [4, 1, 3, 2]
    moved = moved_rows(x.layout, torch.arange(6), 1)
    assert torch.equal(out.values[moved], x.values)


def test_negatives_are_other_rows_mostly_of_other_items():
    layout, rows = Layout.of([4, 3, 5]), torch.tensor([0, 5, 11])
    drawn = draw_rows(layout, rows, 100, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 100) and not (drawn == rows[:, None]).any()
    assert torch.equal((layout.item[drawn] != layout.item[rows][:, None]).sum(1), torch.full((3,), 70))


def test_matching_pairs_as_their_batch_does():
    model, batch = model_of(), batch_of()
    seen = model.encode(batch)
    scores = model.match(seen.tokens["regions"], seen.tokens["text"], torch.tensor([[2, 2], [0, 0], [0, 1]]))
    logits = seen.pooled["match_logits"]
    torch.testing.assert_close(scores[:2], (logits[:, 0] - logits[:, 1])[[2, 0]])


@pytest.mark.parametrize("tasks", [0, 4])
def test_alignment_maps(tasks):
    model = model_of(replace(CONFIG, task_tokens=tasks))
    maps = model.alignment(batch_of(task=torch.tensor([1, 1, 1])))
    assert [tuple(m.shape) for m in maps] == [(7, 2), (3, 4), (5, 1)]
    assert all((m > 0).all() and (m.sum(1) < 1).all() for m in maps)  # the rest looks at the whole image


def test_edge_cases_and_bad_input():
    model, batch = model_of(), batch_of()
    assert model.encode(batch_of([2], [1])).pooled["fused"].shape == (1, 16)
    assert all(loss.isfinite() for loss in model.losses(batch_of([2], [1])).values())
    with pytest.raises(InputError, match="lacks texts or regions"):
        model.losses(Batch(text=batch.text))
    with pytest.raises(InputError, match="class probabilities"):
        model.losses(replace(batch, regions=replace(batch.regions, classes=None)))
    with pytest.raises(InputError, match="9 wide"):
        wide = Packed.from_items([torch.zeros(n, 9) for n in REGIONS])
        model.encode(replace(batch, regions=replace(batch.regions, features=wide)))
    with pytest.raises(ValueError, match="differ in number"):
        Vilbert(replace(CONFIG, text_connections=(0,)))


@pytest.mark.parametrize("name", list(HEADS))
def test_heads_learn(name):
    config = HEADS[name].config(replace(CONFIG, task_tokens=20))
    config = replace(config, answers=2, gqa_answers=2)
    images, texts = (8 if config.task == "nlvr2" else 4), 4
    labels = {
        "vqa": torch.eye(2)[[0, 1, 1, 0]],
        "gqa": torch.eye(2)[[0, 1, 1, 0]],
        "nlvr2": torch.tensor([0, 1, 1, 0]),
        "entailment": torch.tensor([0, 1, 2, 0]),
        "choice": torch.tensor([1, 0]),
        "grounding": torch.eye(3)[[0, 2, 1, 0]].flatten(),
    }
    batch = batch_of([6] * texts, [3] * images, label=labels[config.task])
    history = train(model_of(config, VilbertTasks), batch, 40)
    assert min(losses[config.task] for losses in history[-10:]) < 0.6 * history[0][config.task]


def test_several_candidates_of_one_image():
    """A text that serves two images gives what the text written twice gives."""
    model = model_of(VilbertTasksConfig(CONFIG, "choice"), VilbertTasks)
    once = batch_of([5, 4], [2, 3, 1, 2])
    twice = replace(once, text=Text(once.text.ids.select([0, 0, 1, 1])))
    torch.testing.assert_close(model.encode(once).pooled["logits"], model.encode(twice).pooled["logits"])
    with pytest.raises(InputError, match="do not pair up"):
        model.encode(batch_of([5, 4], [2, 3, 1]))


def test_the_first_release_has_no_head_for_pairs():
    model = model_of(VilbertTasksConfig(CONFIG, "nlvr2", heads="single"), VilbertTasks)
    with pytest.raises(InputError, match="no head"):
        model.encode(batch_of([5, 4], [2, 3, 1, 2]))
