from dataclasses import replace

import pytest
import torch
from torch import Tensor

from coalign.errors import InputError
from coalign.models.bert.heads import (
    BertClassifier,
    BertMultipleChoice,
    BertSpans,
    BertTagger,
    BertTaskConfig,
    task_original,
    task_transformers,
)
from coalign.models.bert.model import Bert, BertPretrainingConfig, google, original, transformers
from coalign.trunks.bert import BertConfig, BertTrunk
from coalign.types import Batch, Draws, Labels, Packed, Text

hf = pytest.importorskip("transformers")

TRUNK = BertConfig(vocab_size=40, dim=24, depth=3, heads=3, hidden_dim=40, positions=20, dropout=0.0)
CONFIG = BertPretrainingConfig(TRUNK, cls_id=1, sep_id=2, mask_id=3)
TASK = BertTaskConfig(TRUNK, classes=5, choices=2, dropout=0.0)
LENGTHS = (9, 4, 12, 6)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def texts(seed=0, lengths=LENGTHS):
    g = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(4, 40, (len(lengths), width), generator=g)
    ids[:, 0] = 1
    types = (torch.arange(width) >= width // 3).long().expand(len(lengths), -1).clone()
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return ids.masked_fill(~mask, 0), types.masked_fill(~mask, 0), mask.long()


def batch_of(ids, types, mask, keep_padding=False, **labels):
    packed = [Packed.from_padded(x, mask, keep_padding) for x in (ids, types)]
    return Batch(text=Text(packed[0], packed[1].values), labels=Labels(**labels))


def randomised(model: torch.nn.Module, seed=0, std=0.3):
    """Weights large enough for a wrong layer to show."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, std, generator=g)
            if parameter.dim() == 1 and parameter.shape[0] == 24:
                parameter.add_(0.5)
    return model.eval()


def hf_config(**more):
    return hf.BertConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=20,
        **more,
    )


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-5, rtol=1e-4)


def fitted(model, losses, steps=25, rate=1e-2):
    """The first and the last total loss of a few steps."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), rate)
    seen = []
    for _ in range(steps):
        loss = sum(losses().values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    return seen[0], seen[-1]


# -------------------------------------------------------------------------------------------------- with transformers
def test_transformers_loads_our_export_and_agrees(tmp_path):
    ours = randomised(Bert(CONFIG))
    theirs = hf.BertForPreTraining(hf_config()).eval()
    theirs.save_pretrained(tmp_path)
    from safetensors.torch import save_file

    exported = transformers(CONFIG).export(ours.state_dict())
    save_file({name: tensor.clone() for name, tensor in exported.items()}, tmp_path / "model.safetensors")
    loaded, info = hf.BertForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids, types, mask = texts()
    seen = loaded.eval()(input_ids=ids, token_type_ids=types, attention_mask=mask, output_hidden_states=True)
    batch = batch_of(ids, types, mask)
    states = ours.encode(batch).tokens["text"]
    real = mask.bool()
    assert close(states.values, seen.hidden_states[-1][real])
    assert close(ours.logits(states).values, seen.prediction_logits[real])
    assert close(ours.follows(states.first), seen.seq_relationship_logits)


def test_we_load_theirs_and_agree():
    theirs = randomised(hf.BertForPreTraining(hf_config()), seed=3)
    ours = Bert(CONFIG).eval()
    ours.load_state_dict(transformers(CONFIG).load(theirs.state_dict()).state)
    ids, types, mask = texts(4)
    labels = torch.full_like(ids, -100)
    labels[:, 2] = ids[:, 2]
    follows = torch.tensor([0, 1, 1, 0])
    seen = theirs(input_ids=ids, token_type_ids=types, attention_mask=mask, labels=labels, next_sentence_label=follows)
    packed = Packed.from_padded(labels, mask).values
    losses = ours.losses(batch_of(ids, types, mask, mlm_labels=packed, next_sentence=follows))
    assert close(losses["mlm"] + losses["nsp"], seen.loss)


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (BertClassifier, "BertForSequenceClassification"),
        (BertTagger, "BertForTokenClassification"),
        (BertSpans, "BertForQuestionAnswering"),
        (BertMultipleChoice, "BertForMultipleChoice"),
    ],
)
def test_fine_tuned_models_agree(task, name):
    theirs = randomised(getattr(hf, name)(hf_config(num_labels=2 if task is BertSpans else 5)), seed=5)
    ours = task(TASK).eval()
    names = task_transformers(TASK, task)
    ours.load_state_dict(names.load(theirs.state_dict()).state)
    assert names.export(ours.state_dict()).keys() == theirs.state_dict().keys()
    ids, types, mask = texts(6)
    real, batch = mask.bool(), batch_of(ids, types, mask)
    inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
    if task is BertMultipleChoice:
        inputs = {key: value.unflatten(0, (2, 2)) for key, value in inputs.items()}
    seen, encoding = theirs(**inputs), ours.encode(batch)
    if task is BertSpans:
        assert close(encoding.tokens["spans"].values, torch.stack([seen.start_logits, seen.end_logits], -1)[real])
    elif task is BertTagger:
        assert close(encoding.tokens["tags"].values, seen.logits[real])
    else:
        assert close(encoding.pooled["logits"], seen.logits)


def test_older_names_load():
    ours = randomised(Bert(CONFIG))
    state = transformers(CONFIG).export(ours.state_dict())
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in state.items()
        if name != "cls.predictions.decoder.bias"
    }
    assert any(name.endswith("gamma") for name in old)
    old["bert.embeddings.position_ids"] = torch.arange(20)[None]
    loaded = transformers(CONFIG).load(old)
    assert loaded.state.keys() == ours.state_dict().keys()
    assert all(torch.equal(loaded.state[name], tensor) for name, tensor in ours.state_dict().items())
    assert list(loaded.carried) == ["bert.embeddings.position_ids"]


def test_encoders_load_with_a_prefix_or_none():
    encoder = replace(CONFIG, objectives=())
    ours = randomised(Bert(encoder))
    bare = transformers(encoder).export(ours.state_dict())
    assert "embeddings.word_embeddings.weight" in bare
    prefixed = {f"bert.{name}": tensor for name, tensor in bare.items()}
    for file in (bare, prefixed):
        assert transformers(encoder).load(file).state.keys() == ours.state_dict().keys()
    whole = transformers(CONFIG).export(Bert(CONFIG).state_dict())
    assert transformers(TRUNK).load(whole).state.keys() == BertTrunk(TRUNK).state_dict().keys()


def test_googles_layout_there_and_back():
    config = google(CONFIG)
    ours, again = randomised(Bert(config)), Bert(config).eval()
    file = original(config).export(ours.state_dict())
    assert file["bert/encoder/layer_2/intermediate/dense/kernel"].shape == (24, 40)
    again.load_state_dict(original(config).load(file).state)
    batch = batch_of(*texts())
    assert torch.equal(ours.encode(batch).pooled["text"], again.encode(batch).pooled["text"])
    erf = Bert(CONFIG).eval()
    erf.load_state_dict(again.state_dict())
    assert not torch.allclose(erf.encode(batch).pooled["text"], again.encode(batch).pooled["text"], atol=1e-5)
    spans = BertSpans(TASK)
    exported = task_original(TASK, BertSpans).export(spans.state_dict())
    assert exported["cls/squad/output_weights"].shape == (2, 24)


# ------------------------------------------------------------------------------------------------------- independence
def test_padding_and_batch_mates_do_not_matter():
    model = randomised(Bert(CONFIG))
    ids, types, mask = texts()
    packed = model.encode(batch_of(ids, types, mask))
    padded = model.encode(batch_of(ids, types, mask, keep_padding=True))
    assert close(packed.tokens["text"].values, padded.tokens["text"].values[mask.bool().flatten()])
    assert close(packed.vectors["text"], padded.vectors["text"])
    order = torch.tensor([2, 0, 3, 1])
    permuted = model.encode(batch_of(ids[order], types[order], mask[order]))
    assert close(permuted.pooled["text"], packed.pooled["text"][order])
    alone = model.encode(batch_of(ids[1:2, :4], types[1:2, :4], mask[1:2, :4]))
    assert close(alone.vectors["text"], packed.vectors["text"][1:2])


def test_padding_enters_the_span_softmax_only_where_asked():
    ids, types, mask = texts()
    labels = {"start": torch.tensor([3, 0, 7, 1]), "end": torch.tensor([4, 0, 7, 5])}
    model = randomised(BertSpans(TASK))
    padded, packed = (batch_of(ids, types, mask, keep, **labels) for keep in (True, False))
    expected = model.losses(packed)["spans"]
    assert close(model.losses(padded)["spans"], expected)
    model.config = replace(TASK, padding_in_softmax=True)
    assert not torch.allclose(model.losses(padded)["spans"], expected, atol=1e-3)


def test_a_span_outside_of_its_window_is_left_out():
    ids, types, mask = texts(lengths=(9, 4))
    model = randomised(BertSpans(TASK))

    def loss(rows, start, end):
        labels = {"start": torch.tensor(start), "end": torch.tensor(end)}
        return model.losses(batch_of(ids[rows], types[rows], mask[rows], **labels))["spans"]

    both = loss([0, 1], [2, 7], [3, 7])  # the second text has four pieces
    assert close(both, loss([0], [2], [3]))
    assert loss([1], [7], [9]) == 0


# ---------------------------------------------------------------------------------------------------------- training
def test_pretraining_learns():
    model = Bert(CONFIG)
    batch = batch_of(*texts(), next_sentence=torch.tensor([0, 1, 1, 0]))
    g = torch.Generator().manual_seed(1)
    drawn = model.draw(batch.text, batch.labels, g, {}, ("mlm", "nsp"))
    assert 0 < int((drawn["mlm_labels"] != -100).sum()) < sum(LENGTHS)
    assert not bool((drawn["mlm_labels"] == 1).any())  # [CLS] is never hidden
    first, last = fitted(model, lambda: model.losses(batch, Draws(choices=drawn)))
    assert last < 0.6 * first
    assert set(model.losses(batch, Draws(only=("nsp",)))) == {"nsp"}


def test_the_same_generator_hides_the_same_words():
    model, batch = Bert(CONFIG), batch_of(*texts())
    drawn = [
        model.draw(batch.text, Labels(), torch.Generator().manual_seed(seed), {}, ("mlm",))["mlm_labels"]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_whole_words_are_hidden_together():
    ids = Packed.from_items([torch.arange(4, 34)])
    words = torch.tensor([-1, *(i // 3 for i in range(28)), -1])
    model = Bert(replace(CONFIG, whole_word=True, mask_probability=0.4))
    labels = model.draw(Text(ids, words=words), Labels(), torch.Generator().manual_seed(0), {}, ("mlm",))["mlm_labels"]
    hidden = (labels != -100)[1:-2].view(9, 3)
    assert torch.equal(hidden.all(1), hidden.any(1))
    assert 0 < int(hidden.all(1).sum()) < 9
    with pytest.raises(InputError, match=r"Text\.words"):
        model.losses(Batch(text=Text(ids)), Draws(only=("mlm",)))


@pytest.mark.parametrize("task", [BertClassifier, BertTagger, BertSpans, BertMultipleChoice])
def test_fine_tuning_learns(task):
    ids, types, mask = texts()
    tags = torch.arange(sum(LENGTHS)) % 5
    labels = {
        BertClassifier: {"label": torch.tensor([0, 4, 2, 1])},
        BertTagger: {"tags": torch.where(tags == 0, -100, tags)},
        BertSpans: {"start": torch.tensor([3, 0, 7, 1]), "end": torch.tensor([4, 0, 9, 5])},
        BertMultipleChoice: {"label": torch.tensor([1, 0])},
    }[task]
    model = task(TASK)
    model.start_from(Bert(CONFIG))
    batch = batch_of(ids, types, mask, **labels)
    first, last = fitted(model, lambda: model.losses(batch))
    assert last < 0.6 * first


def test_regression_learns():
    label = torch.tensor([0.5, 4.0, 2.0, 1.0])
    model, batch = BertClassifier(replace(TASK, classes=1)), batch_of(*texts(), label=label)
    _, last = fitted(model, lambda: model.losses(batch), steps=60, rate=3e-3)
    assert last < 0.4 * float(label.var(correction=0))  # better than always saying the mean


def test_fine_tuning_starts_from_what_was_learned():
    pretrained, task = randomised(Bert(CONFIG)), BertClassifier(TASK).eval()
    task.start_from(pretrained)
    batch = batch_of(*texts())
    assert torch.equal(task.encode(batch).tokens["text"].values, pretrained.encode(batch).tokens["text"].values)


# --------------------------------------------------------------------------------------------------------- bad input
def test_what_is_wrong_is_said():
    batch = batch_of(*texts())
    with pytest.raises(InputError, match=r"labels\.next_sentence is missing"):
        Bert(CONFIG).losses(batch)
    with pytest.raises(InputError, match="reads texts"):
        Bert(CONFIG).encode(Batch())
    with pytest.raises(InputError, match="3 tags for 31 pieces"):
        BertTagger(TASK).losses(batch_of(*texts(), tags=torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(InputError, match="no whole number of questions"):
        BertMultipleChoice(replace(TASK, choices=3)).encode(batch)
    with pytest.raises(ValueError, match="30 pieces"):
        Bert(CONFIG).encode(Batch(text=Text(Packed.uniform(torch.ones(1, 30, dtype=torch.int64)))))
    encoder = Bert(replace(CONFIG, objectives=()))
    with pytest.raises(ValueError, match="without the masked-word objective"):
        encoder.logits(encoder.encode(batch).tokens["text"])


def test_the_record_holds_every_layer():
    seen = Bert(CONFIG).eval().encode(batch_of(*texts()), record=True)
    assert seen.record["text.2.hidden"].shape == (sum(LENGTHS), 24)
    assert seen.record["text.0.attention"].shape == (4, 3, 12, 12)
    assert torch.equal(seen.record["text.2.hidden"], seen.tokens["text"].values)
