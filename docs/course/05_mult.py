# %% [markdown]
# # 5. Pairs of modalities: the multimodal transformer
#
# Option 2: look at pairs. MulT (Tsai et al., ACL 2019) has a cross-modal transformer for each pair β → α: queries are the steps of α, keys
# and values those of β. Streams have rates of their own and nothing is aligned beforehand: attention has to find what goes with what.
#
# In the generated world the score is made of *two* things: the sign of the judging word times the sign of the voice (and of the face). No
# stream alone tells anything. Voice and face come two words late.

# %%
import lab
import torch

from coalign.models.mult.config import Stream

data, words = lab.speakers("joint,lag=2,events=1,items=1000")
streams = (Stream("text", 16), Stream("audio", 12), Stream("vision", 10))
model = lab.fresh(
    "mult",
    words,
    streams=streams,
    targets=("text",),
    dim=32,
    heads=4,
    embedding_dropout=0.0,
    memory_attention_dropout=0.0,
    relu_dropout=0.0,
    residual_dropout=0.0,
)
train, test = data.splits["train"], lab.all_of(model, data.splits["test"])
item = train[0]
print(" ".join(item.words), "→", item.label.item(), {name: len(rows) for name, rows in item.streams.items()})

# %% [markdown]
# ## Cross-modal attention
#
# softmax(Q_α K_βᵀ / √d) V_β: as many rows as α has steps, each a mixture of steps of β. By hand, from random matrices:

# %%
torch.manual_seed(0)
alpha, beta = item.streams["text"], item.streams["audio"]
query, key, value = torch.randn(16, 8), torch.randn(12, 8), torch.randn(12, 8)
weights = ((alpha @ query) @ (beta @ key).T / 8**0.5).softmax(1)
moved = weights @ (beta @ value)
print(f"α {tuple(alpha.shape)}, β {tuple(beta.shape)}, weights {tuple(weights.shape)}, β → α {tuple(moved.shape)}")
lab.check(moved.shape[0] == len(item.words), "what comes of β has the steps of α")
lab.show(lab.heat(weights, item.words, [""] * len(beta), "before learning: words look at the voice"), "05_by_hand")

# %% [markdown]
# ## Training
#
# For a while the error stays where guessing leaves it; then the directions are found, and it falls.

# %%
history = lab.train(model.model, lab.series_batches(model, train, lab.steps(700), size=48), lr=2e-3)
lab.show(lab.curves(history), "05_losses")
with torch.no_grad():
    seen = model.model.eval().encode(test, record=True)
off = (seen.pooled["logits"][:, 0] - test.labels.label).abs().mean().item()
guess = (test.labels.label - test.labels.label.median()).abs().mean().item()
print(f"mean absolute error {off:.2f}; of the median {guess:.2f}")
lab.check(off < 0.5 * guess, "words and voice are read together")

# %% [markdown]
# ## What the words look at
#
# The figure of the paper (its figure 6) from your own run: a word's attention over the steps of the voice. The green lines are the truth: the
# judging word, and where the voice answers it.

# %%
number = next(n for n, item in enumerate(data.splits["test"]) if len(item.words) >= 7)
item, event = data.splits["test"][number], data.events[data.splits["test"][number].id][0]
maps = [seen.record[f"text.audio.{layer}.cross_attention"][number].mean(0) for layer in range(2)]
for layer, weights in enumerate(maps):
    own = weights[: len(item.words), : len(item.streams["audio"])]
    figure = lab.heat(
        own, item.words, [str(n // 2) for n in range(own.shape[1])], f"layer {layer + 1}; the voice by words of time"
    )
    figure.axes[0].axhline(event.word, color="lime", linewidth=1)
    figure.axes[0].axvline(event.rows["audio"], color="lime", linewidth=1)
    lab.show(figure, f"05_attention_{layer + 1}")

# %% [markdown]
# **Exercise.** By how many words does the voice come late? Average, over all test utterances, the attention of the judging word by
# distance in words, and take the peak. (The world was made with a lag of 2.)

# %%
profile = torch.zeros(2, 30)
for number, item in enumerate(data.splits["test"]):
    event = data.events[item.id][0]
    for layer in range(2):
        looks = seen.record[f"text.audio.{layer}.cross_attention"][number].mean(0)[event.word]
        for step, share in enumerate(looks[: len(item.streams["audio"])].tolist()):
            profile[layer, step // 2 - event.word + 15] += share / len(data.splits["test"])
lags = range(-6, 7)
best = max(range(2), key=lambda layer: profile[layer].max())
lab.show(
    lab.bars(
        {f"{lag:+d}": float(profile[best, lag + 15]) for lag in lags}, "attention of the judging word, by lag in words"
    ),
    "05_lag",
)
found = int(profile[best].argmax()) - 15
print(f"the voice comes {found} words late")
lab.check(found == 2, "the planted lag is found by attention alone")
