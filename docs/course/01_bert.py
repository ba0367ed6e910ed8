# %% [markdown]
# # 1. BERT: transformer pre-training
#
# Devlin et al., NAACL 2019. One network for words and for sentences, the same in pre-training and fine-tuning, which sees
# both sides of every word. How can it be trained without being told the answer? Words are hidden, and it says which.

# %%
import lab
import torch

from coalign.layers.initialise import init_tied
from coalign.types import Batch, Labels

scenes, captions = lab.scenes_and_captions(256)
pairs = [scene.things for scene in lab.scenes_and_captions(480, seed=1, things=(2, 2))[0]]
pairs = [things for things in pairs if things[0].shape != things[1].shape]
stories = [" and ".join(f"a {thing.colour} {thing.shape}" for thing in things) for things in pairs]
asked = "which"  # of the last section but one
bert = lab.fresh("bert", [*captions, *stories, f"the {asked} is it"])
bert.model.apply(init_tied)  # weights by their width: a narrow model learns sooner than with the paper's
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
history = lab.train(bert.model, batches, lr=5e-4, only=("mlm",))
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
# ## Residual connections
#
# A block adds to what comes in: x + attention(x), then x + feed_forward(x), each normed. What enters the first is the sum of three embeddings:
# of the word, of its position, and of its sentence. How much of the entering vector is left after each block, as a cosine?

# %%
table = bert.model.trunk.embedding
one = words.encode(captions[:1], 32).ids
rows = [seen.record["text.embedding"], *(seen.record[f"text.{i}.hidden"] for i in range(bert.model.config.trunk.depth))]
left = [torch.nn.functional.cosine_similarity(rows[0], row, dim=1).mean().item() for row in rows]
lab.show(
    lab.bars({f"after block {i}" if i else "embedding": x for i, x in enumerate(left)}, "cosine with the embedding"),
    "01_residual",
)
with torch.no_grad():
    summed = table.word(one.values) + table.position.weight[: len(one.values)] + table.segment.weight[0]
    lab.check(
        torch.allclose(table.norm(summed), rows[0], atol=1e-5), "word, position and segment are summed, and normed"
    )

# %% [markdown]
# ## Next sentence prediction
#
# The second task of pre-training: of two sentences, does the second follow the first? It is read off [CLS]; half of the second sentences are drawn
# from other documents. A document is here a scene's caption, and a sentence about the same things. (`data/texts/pretraining_text.py` makes such
# pairs of real text, as the authors do.)

# %%
import random

told = [" and ".join(f"the {thing.shape} is {thing.colour}" for thing in things) for things in pairs]
rng, cut = random.Random(0), len(pairs) - 64


def follow(rows):
    """Captions with what follows (0), or with what follows another of the rows (1)."""
    drawn = [rng.random() < 0.5 for _ in rows]
    second = [
        told[rng.choice([j for j in rows if j != i])] if other else told[i]
        for i, other in zip(rows, drawn, strict=True)
    ]
    text = words.encode([(stories[i], sentence) for i, sentence in zip(rows, second, strict=True)], 32)
    return Batch(text=text, labels=Labels(next_sentence=torch.tensor(drawn).long()))


def in_turn(make, number):
    """Batches of 32 rows of those to train on, in turn."""
    return [make([(step * 32 + i) % cut for i in range(32)]) for step in range(lab.steps(number))]


history = lab.train(bert.model, in_turn(follow, 300), lr=5e-4)
lab.show(lab.curves(history, {"nsp": 0.693}), "01_next_sentence")
held = range(cut, len(pairs))
batch = follow([*held] * 4)
with torch.no_grad():
    first = bert.model.encode(batch).tokens["text"].first
    right = (bert.model.follows(first).argmax(1) == batch.labels.next_sentence).float().mean()
print(f"pairs of scenes that were not trained on: {right:.2f} right")
lab.check(bool(right > 0.7), "what follows is told from what does not, seven times in ten")

# %% [markdown]
# ## Fine-tuning 1: a class for a sentence
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

# %% [markdown]
# ## Fine-tuning 2: a class for each word
#
# Tagging (parts of speech, slots): the same new layer, on every state. The slots here: colour and shape of the thing that is named first, and of the
# second. "red" alone does not say which, its place in the sentence does.

# %%
from coalign.data.loaded import Loaded
from coalign.models.bert.heads import BertClassifier, BertSpans, BertTagger, BertTaskConfig


def tuned(kind, classes=2):
    """A task's model on the pre-trained encoder."""
    torch.manual_seed(0)
    model = kind(BertTaskConfig(bert.model.config.trunk, classes, dropout=0.0))
    model.start_from(bert.model)
    return Loaded(model, words)


SLOTS = ["–", "colour 1", "shape 1", "colour 2", "shape 2"]
ORDER = torch.tensor([-100, 0, 1, 2, 0, 0, 3, 4, -100])  # [CLS] a red ring and a blue star [SEP]


def tagged(rows):
    return Batch(text=words.encode([stories[i] for i in rows], 32), labels=Labels(tags=ORDER.repeat(len(rows))))


tagger = tuned(BertTagger, len(SLOTS))
history = lab.train(tagger.model, in_turn(tagged, 30), lr=1e-3)
batch = tagged(held)
with torch.no_grad():
    tags = tagger.model.encode(batch).tokens["tags"].values.softmax(1)
names = [words.id_to_piece(int(i)) for i in batch.text.ids.values[:9]]
lab.show(lab.heat(tags[:9].T, SLOTS, names, "slots of the words"), "01_slots")
counted = batch.labels.tags >= 0
right = (tags.argmax(1) == batch.labels.tags)[counted].float().mean()
lab.check(bool(right > 0.95), "words have their slots, in sentences that were not trained on")

# %% [markdown]
# ## Fine-tuning 3: two sentences
#
# "How to compare two sentences?" Both in one sequence, [CLS] a [SEP] b [SEP], with a segment each; a class is read off [CLS]. Here: do both
# say the same, the things being named the other way round?


# %%
def paraphrases(rows):
    """A caption with its paraphrase (1), or with that of another scene (0)."""
    same, second = [], []
    for i in rows:
        same.append(rng.random() < 0.5)
        things = pairs[i] if same[-1] else rng.choice([other for other in pairs if other != pairs[i]])
        second.append(" and ".join(f"a {thing.colour} {thing.shape}" for thing in reversed(things)))
    text = words.encode([(stories[i], other) for i, other in zip(rows, second, strict=True)], 32)
    return Batch(text=text, labels=Labels(label=torch.tensor(same).long()))


entails = tuned(BertClassifier)
history = {"pre-trained": lab.train(entails.model, in_turn(paraphrases, 150), lr=5e-4)["classification"]}
fresh = Loaded(BertClassifier(entails.model.config), words)
fresh.model.apply(init_tied)
history["fresh"] = lab.train(fresh.model, in_turn(paraphrases, 150), lr=5e-4)["classification"]
lab.show(lab.curves(history), "01_pairs")

# %% [markdown]
# **Exercise.** What is pre-training worth? Hold both classifiers against scenes that were not trained on. Chance is a half.

# %%
batch, right = paraphrases([*held] * 4), {}
with torch.no_grad():
    for name, of in (("pre-trained", entails), ("fresh", fresh)):
        right[name] = float((of.model.encode(batch).pooled["logits"].argmax(1) == batch.labels.label).float().mean())
lab.show(lab.bars(right, "pairs of sentences judged rightly", 0.5), "01_entailment")
print({name: round(value, 2) for name, value in right.items()})
lab.check(right["pre-trained"] > 0.7, "sentences are compared")

# %% [markdown]
# ## Fine-tuning 4: question answering
#
# A question and a paragraph; the answer is a piece of the paragraph. Two new vectors give every word a score as the answer's start and as its end,
# with a softmax over the words. A question without an answer points at [CLS], as in SQuAD 2.0.

# %%
SHAPES = sorted({thing.shape for things in pairs for thing in things})


def questions(rows):
    """Questions of a scene's things, one in four of a shape that is not there."""
    shapes, places = [], []
    for i in rows:
        n = rng.randrange(2)
        missing = rng.random() < 0.25
        own = [thing.shape for thing in pairs[i]]
        shapes.append(rng.choice([shape for shape in SHAPES if shape not in own]) if missing else own[n])
        # [CLS] which SHAPE is it [SEP] a COLOUR SHAPE and a COLOUR SHAPE
        places.append(0 if missing else 7 + 4 * n)
    text = words.encode([(f"{asked} {shape} is it", stories[i]) for i, shape in zip(rows, shapes, strict=True)], 32)
    start = torch.tensor(places)
    return Batch(text=text, labels=Labels(start=start, end=torch.where(start > 0, start + 1, 0)))


reader = tuned(BertSpans)
history = lab.train(reader.model, in_turn(questions, 300), lr=5e-4)
lab.show(lab.curves(history), "01_questions")
batch = questions(held)
with torch.no_grad():
    spans = reader.model.over_positions(reader.model.encode(batch).tokens["spans"])
ids = batch.text.ids
names = [words.id_to_piece(int(i)) for i in ids.values[: int(ids.lengths[0])]]
lab.show(
    lab.heat(spans[0, : len(names)].softmax(0).T, ["start", "end"], names, "where the answer starts and ends"),
    "01_answer",
)

# %% [markdown]
# **Exercise.** How many questions are answered, and how many of those without an answer are left alone? Guessing among the two things and [CLS] gives
# a third.

# %%
found = spans.argmax(1)  # [questions, start and end]
hits = (found == torch.stack([batch.labels.start, batch.labels.end], 1)).all(1)
none = batch.labels.start == 0
right = {name: float(hits[rows].float().mean()) for name, rows in (("answered", ~none), ("left alone", none))}
lab.show(lab.bars(right, "questions treated rightly", 1 / 3), "01_answered")
print({name: round(value, 2) for name, value in right.items()})
lab.check(min(right.values()) > 0.6, "both kinds of question are treated rightly")

# %% [markdown]
# ## The other way: GPT
#
# Radford et al., 2018. A word sees only those before it, and the next word is to be told; nothing is hidden.

# %%
from dataclasses import replace

from coalign.models.gpt.heads import GptClassifier, GptTaskConfig, structured
from coalign.types import Packed, Text

gpt = lab.fresh("gpt", [*captions, *stories, f"the {asked} is it"], dropout=0.0)
gpt.model.apply(init_tied)
spoken = [f"{story} and {sentence}" for story, sentence in zip(stories, told, strict=True)]
history = lab.train(
    gpt.model,
    in_turn(lambda rows: Batch(text=gpt.vocabulary.encode_for([spoken[i] for i in rows], gpt.spec)), 200),
    lr=5e-4,
)
lab.show(lab.curves(history, {"lm": chance["mlm"]}), "01_gpt_losses")
one = gpt.vocabulary.encode_for([spoken[cut]], gpt.spec)
with torch.no_grad():
    seen = gpt.model.encode(Batch(text=one), record=True)
names = [gpt.vocabulary.id_to_piece(int(i)) for i in one.ids.values]
attention = [value[0].mean(0) for name, value in seen.record.items() if name.endswith("attention")]
lab.show(lab.heat(attention[-1], names, names, "GPT, last layer: nothing that comes later"), "01_gpt_attention")
lab.check(bool(attention[-1].triu(1).abs().max() == 0), "no word sees a later one")

# %% [markdown]
# **Exercise.** Fine-tuning turns a task into a sequence: [start] text [delimiter] text [extract], and reads the last state (figure 1 of the paper). Do
# so with the pairs of sentences from above; the next word stays on as a second loss. Who comes out ahead, GPT or BERT, and why?

# %%
torch.manual_seed(0)
task = GptClassifier(GptTaskConfig(replace(gpt.model.config, special=3), dropout=0.0))
task.start_from(gpt.model, torch.Generator().manual_seed(0))


def sequences(batch):
    """The same pairs as GPT reads them."""
    items = []
    sizes = batch.text.ids.lengths.tolist()
    for ids, kinds in zip(batch.text.ids.values.split(sizes), batch.text.types.split(sizes), strict=True):
        inner = ids != words.sep_id
        items.append([ids[inner & (kinds == 0)][1:].tolist(), ids[inner & (kinds == 1)].tolist()])
    ids = [torch.tensor(structured(parts, task.config.gpt)) for parts in items]
    return Batch(text=Text(Packed.from_items(ids)), labels=batch.labels)


pair = paraphrases([cut])
shown = sequences(pair).text.ids.values.tolist()
special = {
    task.config.gpt.start: "[start]",
    task.config.gpt.delimiter: "[delimiter]",
    task.config.gpt.extract: "[extract]",
}
print(" ".join(special.get(i) or words.id_to_piece(i) for i in shown))
history = lab.train(task, [sequences(batch) for batch in in_turn(paraphrases, 300)], lr=5e-4)
batch = paraphrases([*held] * 4)
with torch.no_grad():
    told_by = {
        "BERT": entails.model.encode(batch).pooled["logits"],
        "GPT": task.encode(sequences(batch)).pooled["logits"],
    }
right = {name: float((logits.argmax(1) == batch.labels.label).float().mean()) for name, logits in told_by.items()}
lab.show(lab.bars(right, "pairs of sentences judged rightly", 0.5), "01_gpt_pairs")
print({name: round(value, 2) for name, value in right.items()})
lab.check(right["GPT"] > 0.6, "a pair is a sequence like any other")
