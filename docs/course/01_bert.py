# %% [markdown]
# # 1. BERT: transformer pre-training
#
# Devlin et al., NAACL 2019. One network for words and for sentences, the same in pre-training and fine-tuning, which sees
# both sides of every word. How can it be trained without being told the answer? Words are hidden, and it says which.

# %%
import lab
import torch

from coalign.types import Batch

scenes, captions = lab.scenes_and_captions(256)
bert = lab.fresh("bert", captions)
words = bert.vocabulary
print(captions[0])

# %% [markdown]
# ## Masked language model
#
# 15 % of the words are chosen. Of these 80 % become [MASK], 10 % a word at random, 10 % stay: what is read at a hidden word
# must come from its neighbours, and a word that is there is not to be trusted blindly.

# %%
text = words.encode(captions[:64], 32)
batch = Batch(text=text)
drawn = bert.model.draw(text, batch.labels, torch.Generator().manual_seed(0), {}, ("mlm",))
hidden, labels = drawn["mlm_input_ids"], drawn["mlm_labels"]
chosen = labels != -100
as_mask = hidden == words.mask_id
kept = chosen & (hidden == text.ids.values)
share = {"chosen": chosen, "of these [MASK]": as_mask[chosen], "of these unchanged": kept[chosen]}
for name, value in share.items():
    print(f"{name}: {value.float().mean():.2f}")
lab.check(0.08 < chosen.float().mean() < 0.25, "about 15 % of the words are chosen")

# %%
first = slice(0, int(text.ids.lengths[0]))
pieces = [[words.id_to_piece(int(i)) for i in ids[first]] for ids in (text.ids.values, hidden)]
codes = torch.stack([torch.zeros_like(chosen[first]), chosen[first]]).float()
lab.show(
    lab.heat(codes, ["given", "hidden"], [f"{a}→{b}" if a != b else a for a, b in zip(*pieces, strict=True)]), "01_mask"
)

# %% [markdown]
# What is the loss? Cross-entropy over the vocabulary at the chosen words, and at no others.

# %%
number = lab.steps(150)
batches = [Batch(text=words.encode(captions[i * 32 % 224 : i * 32 % 224 + 32], 32)) for i in range(number)]
history = lab.train(bert.model, batches, lr=2e-3, only=("mlm",))
chance = {"mlm": float(torch.tensor(words.vocab_size).log())}
lab.show(lab.curves(history, chance), "01_losses")
lab.check(sum(history["mlm"][-10:]) / 10 < 0.6 * chance["mlm"], "hidden words are told far better than by chance")

# %% [markdown]
# ## Self-attention
#
# A row says where a word looks. In the last layer words look at those that tell them what they are.

# %%
with torch.no_grad():
    seen = bert.model.encode(Batch(text=words.encode(captions[:1], 32)), record=True)
attention = [value for name, value in seen.record.items() if name.endswith("attention")]
lab.show(lab.heat(attention[-1][0].mean(0), pieces[0], pieces[0], "last layer, mean of heads"), "01_attention")
lab.check(torch.allclose(attention[-1][0].sum(-1), torch.ones(())), "a row of attention sums to 1")

# %% [markdown]
# ## Fine-tuning
#
# The state of [CLS] is the sentence's: one new layer on it makes a classifier. Here: does the caption speak of two things?
#
# **Exercise.** Train `answer` and the encoder together on the states `encode(batch).tokens["text"].first` until at least
# 95 % are right. A solution is below; change `lr` or leave the encoder frozen, and see what that costs.

# %%
target = torch.tensor([" and " in caption for caption in captions]).long()
answer = torch.nn.Linear(bert.model.encode(batch).tokens["text"].values.shape[1], 2)
optimiser = torch.optim.AdamW([*bert.model.parameters(), *answer.parameters()], 1e-3)
for step in range(lab.steps(40)):
    rows = torch.arange(step * 32, step * 32 + 32) % len(captions)
    states = bert.model.encode(Batch(text=words.encode([captions[i] for i in rows], 32))).tokens["text"]
    loss = torch.nn.functional.cross_entropy(answer(states.first), target[rows])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
with torch.no_grad():
    states = bert.model.encode(Batch(text=words.encode(captions, 32))).tokens["text"]
right = (answer(states.first).argmax(1) == target).float().mean()
print(f"{right:.2f} right")
lab.check(bool(right >= 0.95), "at least 95 % of the sentences are classified rightly")
