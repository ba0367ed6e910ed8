# %% [markdown]
# # 2. Contextualised multimodal embeddings: the simple solution
#
# A word means what its context makes of it; in speech the voice is part of that context. The simple solution puts words and sound
# end to end in one sequence and lets a BERT's self-attention do the rest. Nothing says which sound goes with which word.
#
# The utterances are generated, so that the truth is known: the *voice* alone says whether a film was liked; "gripping" and "dull" are
# said in earnest or in irony.

# %%
import lab
import torch

data, words = lab.speakers("single,carrier=audio,events=1,items=512,distractors=0")
model = lab.fresh("concat", words, streams=(("audio", 12),))
train, test = data.splits["train"], lab.all_of(model, data.splits["test"])
item = train[0]
print(" ".join(item.words), "→", item.label.item())
lab.show(
    lab.heat(item.streams["audio"].T, [""] * 12, [""] * len(item.streams["audio"]), "a voice, two rows a word"),
    "02_voice",
)


# %% [markdown]
# ## Training
#
# [CLS] words [SEP] sound, positions and a vector for the stream; the pooled [CLS] tells the score, by squared error. Who always says 0
# has an error of 9, the scores being 3 and -3.


# %%
def error(of, batch=test):
    """Mean absolute error on the test split."""
    with torch.no_grad():
        return (of.model.eval().encode(batch).pooled["logits"][:, 0] - batch.labels.label).abs().mean().item()


history = lab.train(model.model, lab.series_batches(model, train, lab.steps(100)))
lab.show(lab.curves(history, {"regression": 9.0}), "02_losses")

# %% [markdown]
# The same network with no sound to look at, for comparison: the voices in its batches are silent.

# %%
from dataclasses import replace

from coalign.types import Series


def silent(batch):
    streams = {name: rows.with_values(torch.zeros_like(rows.values)) for name, rows in batch.series.streams.items()}
    return replace(batch, series=Series(streams, batch.series.places))


deaf = lab.fresh("concat", words, streams=(("audio", 12),))
lab.train(deaf.model, [silent(batch) for batch in lab.series_batches(deaf, train, lab.steps(40))])
errors = {"words alone": error(deaf, silent(test)), "words and voice": error(model)}
print({name: round(value, 2) for name, value in errors.items()}, "always 0: 3.0")
lab.check(errors["words and voice"] < 0.5 * errors["words alone"], "the voice is read")

# %% [markdown]
# ## One word, in context
#
# The vector of the judging word ("gripping", "dull" …) before the first layer, and after each: two directions of largest variance, coloured
# by what the *voice* does. Before, the vectors know the word alone. After, the same word lies elsewhere when it is said otherwise.

# %%
with torch.no_grad():
    seen = model.model.encode(test, record=True)
    before = model.model.read(test)[0].values
starts = test.text.ids.offsets[:-1]
events = [data.events[item.id][0] for item in data.splits["test"]]
voice = torch.tensor([event.signs["audio"] for event in events])
place = torch.tensor(
    [
        (test.text.words[a:b] == e.word).nonzero()[0, 0]
        for a, b, e in zip(starts.tolist(), test.text.ids.offsets[1:].tolist(), events, strict=True)
    ]
)
joint = seen.tokens["joint"].offsets[:-1] + place
layers = {"embedding": before[starts + place]}
layers |= {f"layer {n + 1}": seen.record[f"joint.{n}.hidden"][joint] for n in range(2)}
lab.show(lab.scatter(layers, voice > 0, ("the voice dislikes", "the voice likes")), "02_words")

# %% [markdown]
# **Exercise.** How much of the voice can be told from that word's vector? Fit a line on half of the utterances, for each layer, and
# count how often its sign is right on the other half. Chance is a half.

# %%
half = len(voice) // 2
told = {}
for name, rows in layers.items():
    known = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    line = torch.linalg.solve(
        known[:half].T @ known[:half] + torch.eye(known.shape[1]), known[:half].T @ voice[:half].float()
    )
    told[name] = float(((known[half:] @ line).sign() == voice[half:]).float().mean())
print({name: round(value, 2) for name, value in told.items()})
lab.check(told["layer 2"] > told["embedding"] + 0.2, "the word's vector has taken up the voice")
