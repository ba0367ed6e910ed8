from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from coalign.errors import InputError
from coalign.models.gpt.heads import (
    GptClassifier,
    GptMultipleChoice,
    GptSimilarity,
    GptTaskConfig,
    structured,
    task_original,
    task_transformers,
)
from coalign.models.gpt.model import Gpt, original, released, transformers
from coalign.trunks.gpt import GptConfig, GptTrunk, hugging_face
from coalign.types import Batch, Labels, Packed, Text

hf = pytest.importorskip("transformers")

CONFIG = GptConfig(vocab_size=30, positions=16, dim=24, depth=3, heads=3, dropout=0.0)
TUNED = replace(CONFIG, special=3)
TASK = GptTaskConfig(TUNED, classes=4, dropout=0.0)
LENGTHS = (9, 4, 12, 6)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def texts(seed=0, lengths=LENGTHS):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 30, (len(lengths), max(lengths)), generator=g)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids.masked_fill(~mask, 0), mask


def batch_of(ids, mask, keep_padding=False, **labels):
    return Batch(text=Text(Packed.from_padded(ids, mask, keep_padding)), labels=Labels(**labels))


def sequences(*items, config=TUNED):
    """A batch of structured sequences from lists of parts."""
    return Text(Packed.from_items([torch.tensor(structured(parts, config)) for parts in items]))


def randomised(model, seed=0):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=g)
            if parameter.dim() == 1 and parameter.shape[0] == 24:
                parameter.add_(0.5)
    return model.eval()


def hf_config(**more):
    return hf.OpenAIGPTConfig(vocab_size=33, n_positions=16, n_embd=24, n_layer=3, n_head=3, **more)


def close(a, b):
    return torch.allclose(a, b, atol=2e-5, rtol=1e-4)


def fitted(model, losses, steps=25, rate=1e-2):
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
    config = hugging_face(TUNED)
    ours = randomised(Gpt(config))
    hf.OpenAIGPTLMHeadModel(hf_config()).save_pretrained(tmp_path)
    exported = transformers(config).export(ours.state_dict())
    save_file({name: tensor.clone() for name, tensor in exported.items()}, tmp_path / "model.safetensors")
    theirs, info = hf.OpenAIGPTLMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids, mask = texts()
    seen = theirs.eval()(input_ids=ids, labels=ids.masked_fill(~mask, -100))
    batch = batch_of(ids, mask)
    states = ours.encode(batch).tokens["text"]
    assert close(ours.logits(states).values, seen.logits[mask])
    assert close(ours.losses(batch)["lm"], seen.loss)


def test_we_load_theirs_with_or_without_a_prefix():
    theirs = randomised(hf.OpenAIGPTLMHeadModel(hf_config()), seed=2)
    state = theirs.state_dict()
    bare = theirs.transformer.state_dict() | {"h.0.attn.bias": torch.ones(1, 1, 16, 16)}
    ids, mask = texts(3)
    expected = theirs.transformer(ids).last_hidden_state[mask]
    for file in (state, bare):
        ours = Gpt(hugging_face(TUNED)).eval()
        ours.load_state_dict(transformers(TUNED).load(file).state)
        assert close(ours.encode(batch_of(ids, mask)).tokens["text"].values, expected)


def test_sequence_classification_agrees():
    theirs = randomised(hf.OpenAIGPTForSequenceClassification(hf_config(num_labels=4, pad_token_id=0)), seed=5)
    config = replace(TASK, head_bias=False, read="last")
    ours = GptClassifier(config).eval()
    names = task_transformers(config, "score")
    file = {name: tensor for name, tensor in theirs.state_dict().items() if not name.endswith(".attn.bias")}
    ours.load_state_dict(names.load(theirs.state_dict()).state)
    assert names.export(ours.state_dict()).keys() == file.keys()
    ids, mask = texts(6)
    for keep_padding in (False, True):
        logits = ours.encode(batch_of(ids, mask, keep_padding)).pooled["logits"]
        assert close(logits, theirs(input_ids=ids).logits)


# ------------------------------------------------------------------------------------------------------------- layouts
def test_the_authors_layouts_there_and_back():
    model, again = randomised(Gpt(TUNED)), Gpt(TUNED)
    file = original(TUNED).export(model.state_dict())
    assert file["model/we"].shape == (30 + 3 + 16, 24)
    assert file["model/h2/attn/c_attn/w"].shape == (1, 24, 72)
    again.load_state_dict(original(TUNED).load(file).state)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    pieces = released(CONFIG).export(Gpt(CONFIG).state_dict())
    assert pieces["positions"].shape == (16, 24)
    tuned = task_original(TASK).export(GptClassifier(TASK).state_dict())
    assert tuned["model/clf/w"].shape == (24, 4)


# -------------------------------------------------------------------------------------------------------- independence
def test_no_word_sees_what_follows():
    model = randomised(Gpt(CONFIG))
    ids, mask = texts(lengths=(10, 10))
    changed = ids.clone()
    changed[:, 6:] = 5
    a, b = (model.encode(batch_of(x, mask)).tokens["text"].to_padded() for x in (ids, changed))
    assert torch.allclose(a[:, :6], b[:, :6], atol=1e-6)
    assert not torch.allclose(a[:, 6:], b[:, 6:], atol=1e-3)


def test_padding_and_batch_mates_do_not_matter():
    model = randomised(Gpt(CONFIG))
    ids, mask = texts()
    packed, padded = batch_of(ids, mask), batch_of(ids, mask, keep_padding=True)
    a, b = model.encode(packed), model.encode(padded)
    assert close(a.tokens["text"].values, b.tokens["text"].values[mask.flatten()])
    assert close(a.vectors["text"], b.vectors["text"])
    assert close(model.losses(packed)["lm"], model.losses(padded)["lm"])
    order = torch.tensor([2, 0, 3, 1])
    assert close(model.encode(batch_of(ids[order], mask[order])).vectors["text"], a.vectors["text"][order])
    alone = torch.stack([model.losses(batch_of(ids[i : i + 1], mask[i : i + 1]))["lm"] for i in range(4)])
    assert close(alone.mean(), model.losses(packed)["lm"])  # the mean of each sequence's mean


def test_words_that_do_not_count():
    model = randomised(Gpt(replace(CONFIG, mean="word")))
    ids, mask = texts(lengths=(8,))
    labels = ids.clone()
    labels[:, :5] = -100
    states = model.encode(batch_of(ids, mask)).tokens["text"]
    rows = model.logits(states).values[4:7].log_softmax(-1)  # the states before words 5, 6 and 7
    expected = -rows.gather(1, ids[0, 5:8, None]).mean()
    assert close(model.losses(batch_of(ids, mask, lm_labels=labels[0]))["lm"], expected)


# --------------------------------------------------------------------------------------------------------------- tasks
def test_structured_sequences():
    assert structured([[5, 6]], TUNED) == [30, 5, 6, 32]
    assert structured([[5, 6], [7]], TUNED) == [30, 5, 6, 31, 7, 32]
    long = structured([list(range(20)), list(range(20))], TUNED)
    assert long == [30, *range(6), 31, *range(6), 32]
    assert len(structured([list(range(30))], TUNED)) == 16
    with pytest.raises(InputError, match="do not fit"):
        structured([[1]] * 8, TUNED)


def test_the_first_extract_token_is_read():
    task = GptClassifier(TASK).eval()
    ids = Packed.from_items([torch.tensor([30, 4, 32, 7, 32]), torch.tensor([30, 4, 5])])
    assert task.extract_rows(ids).tolist() == [2, 5]  # without one, the first place: as argmax of nothing


def test_similarity_does_not_know_the_order():
    task = randomised(GptSimilarity(TASK))
    a, b = [4, 5, 6], [7, 8]
    one = task.encode(Batch(text=sequences((a, b), (b, a)))).pooled["logits"]
    other = task.encode(Batch(text=sequences((b, a), (a, b)))).pooled["logits"]
    assert one.shape == (1, 4)
    assert close(one, other)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_multiple_choice_scores_each_ending_alone(weight):
    task = randomised(GptMultipleChoice(replace(TASK, choices=3, lm_weight=weight)))
    context, endings = [4, 5, 6], ([7], [8, 9], [10, 11, 12])
    batch = Batch(text=sequences(*((context, ending) for ending in endings)), labels=Labels(label=torch.tensor([1])))
    logits = task.encode(batch).pooled["logits"]
    alone = randomised(GptMultipleChoice(replace(TASK, choices=1)))
    single = [alone.encode(Batch(text=sequences((context, e)))).pooled["logits"].item() for e in endings]
    assert close(logits[0], torch.tensor(single))
    losses = task.losses(batch)
    assert close(losses["task"], -logits.log_softmax(-1)[0, 1])
    if weight:
        lm = randomised(GptMultipleChoice(replace(TASK, choices=3, lm_weight=1.0))).losses(batch)["lm"]
        assert close(losses["lm"], 0.5 * lm)
    else:
        assert "lm" not in losses


@pytest.mark.parametrize("task", [GptClassifier, GptSimilarity, GptMultipleChoice])
def test_fine_tuning_learns(task):
    pairs = [([4, 5], [6]), ([7, 8, 9], [10]), ([11], [12, 13]), ([14], [15])]
    label = torch.tensor([0, 3, 1, 2])[: 4 if task is GptClassifier else 2] % (2 if task is GptMultipleChoice else 4)
    batch = Batch(text=sequences(*pairs), labels=Labels(label=label))
    model = task(TASK)
    model.start_from(Gpt(CONFIG), torch.Generator().manual_seed(0))
    first, last = fitted(model, lambda: model.losses(batch))
    assert last < 0.6 * first


def test_scores_are_regressed():
    model = GptSimilarity(replace(TASK, classes=1, lm_weight=0.0))
    batch = Batch(text=sequences(([4], [5]), ([5], [4])), labels=Labels(label=torch.tensor([3.5])))
    first, last = fitted(model, lambda: model.losses(batch))
    assert last < 0.3 * first


def test_fine_tuning_starts_from_what_was_learned():
    pretrained = randomised(Gpt(CONFIG))
    task = GptClassifier(replace(TASK, gpt=replace(TUNED, positions=12))).eval()
    task.start_from(pretrained, torch.Generator().manual_seed(0))
    ids = Packed.from_items([torch.tensor([4, 5, 6])])
    seen = pretrained.encode(Batch(text=Text(ids))).tokens["text"].values
    assert torch.equal(task.encode(Batch(text=Text(ids))).tokens["text"].values, seen)
    new = task.trunk.word.weight[30:]
    assert new.shape[0] == 3 and 0.01 < new.std().item() < 0.03


def test_language_modelling_learns():
    model = Gpt(CONFIG)
    batch = batch_of(*texts())
    first, last = fitted(model, lambda: model.losses(batch))
    assert last < 0.6 * first


# ----------------------------------------------------------------------------------------------------------- bad input
def test_what_is_wrong_is_said():
    with pytest.raises(InputError, match="17 pieces, the model 16"):
        GptTrunk(CONFIG)(Packed.uniform(torch.ones(1, 17, dtype=torch.int64)))
    with pytest.raises(InputError, match="reads texts"):
        Gpt(CONFIG).encode(Batch())
    with pytest.raises(InputError, match="special=3"):
        GptClassifier(GptTaskConfig(CONFIG))
    with pytest.raises(InputError, match=r"labels\.label is missing"):
        GptClassifier(TASK).losses(Batch(text=sequences(([4],))))
    with pytest.raises(InputError, match="no whole number of pairs"):
        GptSimilarity(TASK).encode(Batch(text=sequences(([4], [5]))))
