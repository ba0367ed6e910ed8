# %% [markdown]
# # 7. Modality shifting
#
# One modality leads, the others move it. In MAG-BERT (Rahman et al., ACL 2020) a gate shifts the vector of each word by the sound and
# the face that go with it, before BERT reads on: z' = LayerNorm(z + α h), where h comes of sound and face and α keeps it shorter than z.
#
# The utterances are those of notebook 2: the voice alone says what is felt. Here voice and face are averaged over each word.

# %%
import lab
import torch

data, words = lab.speakers("single,carrier=audio,events=1,items=512,distractors=0")
model = lab.fresh("mag_bert", words, visual_dim=10, acoustic_dim=12, gate_dropout=0.1)
train, test = data.splits["train"], lab.all_of(model, data.splits["test"])
items = data.splits["test"]
print(" ".join(items[0].words), "→", items[0].label.item())

# %% [markdown]
# ## The gate, by hand
#
# The word says how much it lets in: g = relu(W [m ; z] + b), and h = Σ g · (W' m + b').

# %%
gate = model.model.gate
with torch.no_grad():
    text = test.text.ids
    z = model.model.trunk.embedding(text, test.text.types)
    from coalign.models.mag_bert.model import at_pieces

    heard = {name: at_pieces(test, test.text, name, width) for name, width in (("visual", 10), ("acoustic", 12))}


def shift_of(z, heard):
    """h and the bounded α h of every word."""
    h = sum(gate.gates[m](torch.cat([rows, z], 1)).relu() * gate.shifts[m](rows) for m, rows in heard.items())
    alpha = (gate.beta * z.norm(dim=1) / h.norm(dim=1).clamp(min=1e-6)).clamp(max=1.0)
    return h, alpha[:, None] * h


with torch.no_grad():
    by_hand = gate.eval().norm(z + shift_of(z, heard)[1])
    model.model.eval()
    ours = model.model.encode(test, record=True).record["gate.output"]
lab.check(torch.allclose(by_hand, ours, atol=1e-5), "the formula above is what the gate computes")

# %% [markdown]
# ## Training, with and without a shift


# %%
def error(of):
    with torch.no_grad():
        return (of.model.eval().encode(test).pooled["logits"][:, 0] - test.labels.label).abs().mean().item()


history = lab.train(model.model, lab.series_batches(model, train, lab.steps(150)), lr=1e-3)
alone = lab.fresh("mag_bert", words, visual_dim=10, acoustic_dim=12, beta=0.0)  # α = 0: nothing is shifted
lab.train(alone.model, lab.series_batches(alone, train, lab.steps(40)), lr=1e-3)
lab.show(lab.curves(history), "07_losses")
errors = {"always 0": 3.0, "words alone": error(alone), "shifted words": error(model)}
lab.show(lab.bars(errors, "mean absolute error"), "07_errors")
print({name: round(value, 2) for name, value in errors.items()})
lab.check(errors["shifted words"] < 0.5 * errors["words alone"], "the shift tells what words alone cannot")

# %% [markdown]
# ## The figure of the lecture: words on the move
#
# The vectors of the judging words before and after the shift, coloured by what the voice does. Where the voice differs, one word goes to
# different places.

# %%
events = [data.events[item.id][0] for item in items]
rows = test.text.ids.offsets[:-1] + torch.tensor(
    [
        (test.text.words[a:b] == e.word).nonzero()[0, 0]
        for a, b, e in zip(test.text.ids.offsets[:-1].tolist(), test.text.ids.offsets[1:].tolist(), events, strict=True)
    ]
)
voice = torch.tensor([event.signs["audio"] for event in events])
with torch.no_grad():
    record = model.model.encode(test, record=True).record
    moved = {"before": record["text.embedding"][rows], "after the shift": record["gate.output"][rows]}
lab.show(lab.scatter(moved, voice > 0, ("the voice dislikes", "the voice likes")), "07_shift")

# %% [markdown]
# **Exercise.** Which words are shifted most? Average |α h| / |z| by word, and compare the judging words with the others.

# %%
with torch.no_grad():
    z = record["text.embedding"]
    share = shift_of(z, heard)[1].norm(dim=1) / z.norm(dim=1)
judging = torch.zeros(len(share), dtype=torch.bool)
judging[rows] = True
spoken = test.text.words >= 0
pieces = [model.vocabulary.id_to_piece(int(i)) for i in test.text.ids.values]
each = {
    piece: float(share[[n for n, other in enumerate(pieces) if other == piece]].mean())
    for piece in dict.fromkeys(pieces)
}
lab.show(lab.bars(dict(sorted(each.items(), key=lambda pair: -pair[1])[:12]), "|shift| / |word|"), "07_by_word")
means = {"judging words": float(share[judging].mean()), "other words": float(share[spoken & ~judging].mean())}
print({name: round(value, 2) for name, value in means.items()})
lab.check(means["judging words"] > means["other words"], "words with something to hear are moved further")
