from dataclasses import replace

import pytest
import torch

from coalign.errors import InputError
from coalign.models.actbert.config import ActBertConfig, PaddedLengths, StreamConfig
from coalign.models.actbert.model import ActBert, original
from coalign.models.actbert.trunk import stretched_rows
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Draws, Labels, Layout, Packed, Regions, Text, Video

CONFIG = ActBertConfig(
    BertConfig(vocab_size=50, dim=24, depth=3, heads=4, hidden_dim=32, positions=12),
    StreamConfig(6, 16, 2, 2, 24),
    StreamConfig(5, 24, 2, 3, 32),
    co_dim=16,
    co_heads=4,
    text_connections=(1, 2),
    region_targets=7,
    action_targets=9,
    mask_probability=0.4,
    mask_id=3,
    cls_id=1,
    sep_id=2,
)
WORDS, REGIONS, ACTIONS = [7, 4, 5], [3, 5, 1], [4, 2, 3]


def batch_of(order=(0, 1, 2), keep_padding=False):
    g = torch.Generator().manual_seed(0)

    def packed(make, lengths):
        items = [make(n) for n in lengths]
        whole = Packed.from_items([items[i] for i in order])
        return Packed.from_padded(whole.to_padded(), whole.padding_mask(), True) if keep_padding else whole

    ids = packed(lambda n: torch.randint(4, 50, (n,), generator=g), WORDS)
    features = packed(lambda n: torch.randn(n, 6, generator=g), REGIONS)
    boxes = packed(lambda n: torch.rand(n, 4, generator=g).sort(1).values, REGIONS)
    classes = packed(lambda n: torch.rand(n, 7, generator=g).softmax(1), REGIONS)
    actions = packed(lambda n: torch.randn(n, 5, generator=g), ACTIONS)
    labels = packed(lambda n: torch.randint(9, (n,), generator=g), ACTIONS)
    return Batch(
        text=Text(ids),
        regions=Regions(features, boxes.values, classes.values),
        video=Video(features=actions),
        labels=Labels(action=labels.values),
    )


def model_of(config=CONFIG):
    torch.manual_seed(0)
    return ActBert(config).eval()


def test_padding_changes_nothing():
    model = model_of()
    packed, kept = model.encode(batch_of()), model.encode(batch_of(keep_padding=True))
    torch.testing.assert_close(packed.pooled, kept.pooled)
    for name, x in kept.tokens.items():
        torch.testing.assert_close(packed.tokens[name].values, x.to_padded()[x.padding_mask()])


def test_an_item_does_not_depend_on_its_batch_mates():
    model = model_of()
    together = model.encode(batch_of()).pooled["match_logits"]
    for i in range(3):
        torch.testing.assert_close(model.encode(batch_of((i,))).pooled["match_logits"][0], together[i])


def test_items_may_be_permuted():
    model, order = model_of(), (2, 0, 1)
    expected = model.encode(batch_of()).pooled["match_logits"][list(order)]
    torch.testing.assert_close(model.encode(batch_of(order)).pooled["match_logits"], expected)


def test_actions_are_stretched_by_nearest_neighbour():
    actions, text = Layout.of([2, 4]), Layout.of([5, 3])
    assert stretched_rows(actions, text).tolist() == [0, 0, 0, 1, 1, 2, 3, 4]
    whole = Layout.uniform(2, 4)
    for length in range(1, 12):
        ours = stretched_rows(whole, Layout.uniform(2, length), length).view(2, length)
        theirs = torch.nn.functional.interpolate(torch.arange(4.0)[None, None], length)[0, 0].long()
        assert torch.equal(ours, torch.stack([theirs, theirs + 4]))


def test_actions_guide_text_and_regions():
    model, batch = model_of(), batch_of()
    for layer in model.trunk.connections:
        for p in layer.parameters():
            p.data *= 10  # fresh weights are too small to tell
    other = replace(batch, video=Video(features=batch.video.features.with_values(batch.video.features.values + 1)))
    a, b = model.encode(batch), model.encode(other)
    assert not torch.allclose(a.tokens["text"].values, b.tokens["text"].values, atol=1e-5)
    assert not torch.allclose(a.tokens["regions"].values, b.tokens["regions"].values, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_losses_fall(shared):
    model, batch = model_of(replace(CONFIG, shared_value=shared)), batch_of()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(25):
        losses = model.losses(batch, Draws(torch.Generator().manual_seed(2)))
        history.append({name: loss.item() for name, loss in losses.items()})
        optimiser.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        optimiser.step()
    assert set(history[0]) == {"mlm", "regions", "actions", "match"}
    assert all(history[0][name] > 0 for name in history[0])
    assert all(history[-1][name] < 0.7 * history[0][name] for name in ("mlm", "actions", "match"))
    assert history[-1]["regions"] < history[0]["regions"]
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert unused == set()


def test_choices_are_drawn_by_the_generator_and_wrong_texts_are_not_predicted():
    model, batch = model_of(), batch_of()
    draws = [model.draw(batch, torch.Generator().manual_seed(s), {}, CONFIG.objectives) for s in (2, 2, 3)]
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])
    assert any(not torch.equal(draws[0][name], draws[2][name]) for name in ("mlm_labels", "predicted"))
    wrong = model.draw(batch, torch.Generator(), {"partner": torch.tensor([1, 2, 0])}, CONFIG.objectives)
    assert (wrong["mlm_labels"] == -100).all()
    assert (wrong["action_labels"] == -100).all()
    assert not wrong["predicted"].any()
    losses = model.losses(batch, Draws(choices=wrong))
    assert losses["mlm"].item() == losses["actions"].item() == losses["regions"].item() == 0
    assert set(model.losses(batch, Draws(only=("mlm",)))) == {"mlm"}


def test_losses_as_means_over_all_padded_places():
    plain, padded = model_of(), model_of(replace(CONFIG, padded=PaddedLengths(7, 6, 4)))
    batch = batch_of((0, 0, 0), keep_padding=True)  # three of one length: nothing is stretched otherwise
    choices = plain.draw(batch, torch.Generator().manual_seed(2), {"partner": torch.arange(3)}, CONFIG.objectives)
    batch = replace(batch, regions=replace(batch.regions, classes=None))
    for name, places in (("mlm", 3 * 7), ("actions", 3 * 4)):
        labels = {"mlm": "mlm_labels", "actions": "action_labels"}[name]
        predicted = (choices[labels] != -100).sum()
        assert 0 < predicted < places
        plain_loss, padded_loss = (
            m.losses(batch, Draws(choices=choices, only=(name,)))[name] for m in (plain, model_with(padded, regions=4))
        )
        torch.testing.assert_close(padded_loss * places, plain_loss * predicted)


def model_with(model, regions):
    """The same model, its padded length of regions set to what the batch has."""
    for layer in model.trunk.connections:
        layer.padded = replace(layer.padded, regions=regions)
    return model


def test_the_padding_word_reads_zeros():
    model = model_of()
    ids = Packed.from_items([torch.tensor([1, 0, 5])])
    before = model.trunk.embed_text(Text(ids)).values
    model.trunk.embedding.word.weight.data[0] += 3.0
    torch.testing.assert_close(model.trunk.embed_text(Text(ids)).values, before)


def test_weights_come_back_under_the_ports_names():
    for shared in (True, False):
        config = replace(CONFIG, shared_value=shared)
        model, names = model_of(config), original(config)
        file = names.export(model.state_dict())
        assert file["bert.encoder.c_layer.0.ent_attention.query2.weight"].shape == (24, 16)  # [in, out]
        back = names.load(file).state
        assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_bad_input_is_named():
    model, batch = model_of(), batch_of()
    with pytest.raises(InputError, match="lacks one of them"):
        model.encode(replace(batch, video=None))
    with pytest.raises(InputError, match="actions are 3 wide, this model reads 5"):
        narrow = batch.video.features.with_values(batch.video.features.values[:, :3])
        model.encode(replace(batch, video=Video(features=narrow)))
    with pytest.raises(InputError, match="at least one action"):
        empty = Packed.from_items([torch.zeros(0, 5), torch.zeros(2, 5), torch.zeros(2, 5)])
        model.encode(replace(batch, video=Video(features=empty)))
    with pytest.raises(InputError, match="7 class probabilities"):
        choices = {"partner": torch.arange(3)}
        model.losses(replace(batch, regions=replace(batch.regions, classes=None)), Draws(choices=choices))
    with pytest.raises(InputError, match=r"labels\.action is missing"):
        model.losses(replace(batch, labels=Labels()))
    with pytest.raises(InputError, match="differ in number"):
        ActBert(replace(CONFIG, text_connections=(1,)))
    with pytest.raises(InputError, match="as wide as the text"):
        ActBert(replace(CONFIG, actions=replace(CONFIG.actions, dim=27)))


def test_connections_have_equal_parameters_and_show_each_stream_the_right_others():
    batch = batch_of()
    other = replace(batch.regions, features=batch.regions.features.with_values(batch.regions.features.values + 1))
    sizes: list[int] = []
    for kind, sees in (("tangled", True), ("joint", True), ("apart", False)):
        model = model_of(replace(CONFIG, connection=kind))
        sizes.append(sum(p.numel() for p in model.parameters()))
        before, after = model.encode(batch).tokens, model.encode(replace(batch, regions=other)).tokens
        assert torch.equal(before["text"].values, after["text"].values) != sees, kind
        # actions ask the others in tangled layers, and what they find goes to the others, not to themselves
        assert torch.equal(before["actions"].values, after["actions"].values) == (kind != "joint"), kind
        alone = model.encode(batch_of((1,))).tokens["text"].values
        torch.testing.assert_close(before["text"].select([1]).values, alone)
    assert max(sizes) - min(sizes) <= 2 * 150, sizes  # a row of each connection's feed-forwards
