# %% [markdown]
# # 3. Concatenated transformers: one stream
#
# Option 1: put the modalities end to end and learn a BERT over both. VisualBERT (Li et al. 2019) lays words and detected
# regions in one sequence; UNITER (Chen et al., ECCV 2020) does the same with other objectives. Nothing tells the network which
# word belongs to which region: attention has to find out.

# %%
import lab
import torch

from coalign.types import Batch

scenes, captions = lab.scenes_and_captions(320, things=(2, 2))
model = lab.fresh("visualbert", captions)
width = model.spec.regions.width
print(f"regions of {width} numbers; {captions[0]!r}")
lab.show(lab.pictures([[scene.draw(96) for scene in scenes[:4]]], ["a scene", "another", "", ""]), "03_scenes")


# %%
def batch_of(rows):
    chosen = [scenes[i] for i in rows]
    return Batch(text=model.vocabulary.encode([captions[i] for i in rows], 32), regions=lab.regions_of(chosen, width))


# %% [markdown]
# Two objectives: hidden words, which may now be read off the picture, and whether a caption belongs to a picture, the
# sentence-image prediction (chance: log 2).

# %%
batches = [batch_of([(step * 32 + i) % 320 for i in range(32)]) for step in range(lab.steps(200))]
history = lab.train(model.model, batches, lr=1e-3)
lab.show(lab.curves(history, {"itm": 0.693}), "03_losses")
lab.check(sum(history["mlm"][-20:]) < 0.5 * sum(history["mlm"][:20]), "hidden words are read")

# %% [markdown]
# ## Where does a word look?
#
# The figure of the paper (its figure 4) from your own run: rows are words and regions, columns what they look at.

# %%
one = batch_of([0])
with torch.no_grad():
    record = model.model.encode(one, record=True).record
names = [model.vocabulary.id_to_piece(int(i)) for i in one.text.ids.values]
names += [f"▣ {thing.colour} {thing.shape}" for thing in scenes[0].things]
layers = [value[0].mean(0) for name, value in record.items() if name.endswith("attention")]
for number, layer in enumerate(layers):
    lab.show(lab.heat(layer, names, names, f"layer {number + 1}"), f"03_attention_{number + 1}")
lab.check(len(names) == layers[0].shape[0], "words and regions are one sequence")

# %% [markdown]
# **Exercise.** How much of what the words give goes to regions? Compute it for every layer: the mean, over word rows, of the
# sum over region columns, and compare it with the share of regions in the sequence.

# %%
words = len(one.text.ids.values)
across = [float(layer[:words, words:].sum(1).mean()) for layer in layers]
even = 1 - words / len(names)
print({f"layer {n + 1}": round(value, 2) for n, value in enumerate(across)}, "even:", round(even, 2))
lab.check(max(across) > 1.5 * even, "a layer gives regions half as much again as their share of the sequence")

# %% [markdown]
# ## UNITER: the same stream, other objectives
#
# Four of them, and a step trains one, drawn by chance: hidden words (MLM); hidden regions (MRM), of which the feature is told, or the detector's
# class; whether text and picture match (ITM); and beside it word-region alignment (WRA). Only one modality is hidden at a time, so that the
# other can tell what is missing.

# %%
from dataclasses import replace

from coalign.layers.initialise import init_tied
from coalign.types import Regions

CLASSES = [f"{colour} {shape}" for colour in lab.ATTRIBUTES["colour"] for shape in lab.ATTRIBUTES["shape"]]
uniter = lab.fresh(
    "uniter",
    captions,
    region_width=32,
    classes=len(CLASSES) + 1,
    objectives=("mlm", "mrfr", "mrc", "itm"),
    ratios=(2.0, 1.0, 1.0, 2.0),
    mask_probability=0.3,
    alignment_weight=1.0,  # the paper's 0.1 shows in longer runs
)
uniter.model.apply(init_tied)  # weights by their width: a narrow model learns sooner than with the paper's


def pairs_of(rows):
    """As `batch_of`, with the classes of a detector that is never wrong, the first of them background."""
    seen = lab.regions_of([scenes[i] for i in rows], 32)
    kinds = [CLASSES.index(f"{thing.colour} {thing.shape}") + 1 for i in rows for thing in scenes[i].things]
    classes = torch.nn.functional.one_hot(torch.tensor(kinds), len(CLASSES) + 1).float()
    return Batch(
        text=uniter.vocabulary.encode_for([captions[i] for i in rows], uniter.spec),
        regions=Regions(seen.features, seen.boxes, classes),
        ids=torch.tensor([*rows]),
    )


order = torch.Generator().manual_seed(0)
batches = [pairs_of(torch.randperm(256, generator=order)[:32].tolist()) for _ in range(lab.steps(600))]
history = lab.train(uniter.model, batches, lr=1e-3)
print({name: len(values) for name, values in history.items()})
lab.show(lab.panels(history, {"itm": 0.693}), "03_uniter_losses")

# %% [markdown]
# WRA takes words and regions for two heaps of earth: the *optimal transport* between them is the cheapest way to carry one to the other, where a
# way costs 1 - cos of a word and a region. The cost of a pair that belongs together is to fall, that of another to rise; the plan says what was
# carried where (figure 3 of the paper's appendix shows such plans).

# %%
held = range(256, 320)
one = pairs_of([256])
with torch.no_grad():
    record = uniter.model.eval().encode(one, record=True).record
names = [uniter.vocabulary.id_to_piece(int(i)) for i in one.text.ids.values]
regions = [f"▣ {thing.colour} {thing.shape}" for thing in scenes[256].things]
plan = record["transport.plan"][0]
lab.show(lab.heat(plan.T, regions, names, "transport of words to regions"), "03_uniter_plan")
lab.check(abs(float(plan.sum()) - 1) < 1e-3, "all that there is is carried")
lab.check(torch.allclose(plan.sum(0), torch.full((2,), 0.5), atol=1e-2), "every region takes the same share")

# %% [markdown]
# **Exercise.** What does each objective give? On 64 pictures that were not trained on: how often is the colour of the second thing told when it is hidden
# (MLM), and the class of the second region (MRM), with the other modality of the same pair and with that of another? How often is matching
# right (ITM)? And is the transport of a right pair cheaper (WRA)?

# %%
batch, wrong = pairs_of(held), pairs_of([*held[1:], held[0]])
colour = batch.text.ids.offsets[:-1] + 6  # [CLS] a colour shape and a COLOUR ...
ids = batch.text.ids.values.clone()
answers = ids[colour].clone()
ids[colour] = uniter.vocabulary.mask_id
second = batch.regions.features.offsets[:-1] + 1
hidden = torch.zeros(len(batch.regions.boxes), dtype=torch.bool)
hidden[second] = True
classes = batch.regions.classes[second].argmax(1)
told = {}
with torch.no_grad():
    for name, other in (("its own", batch), ("another's", wrong)):
        text = replace(batch.text, ids=batch.text.ids.with_values(ids))
        joint = uniter.model.trunk(replace(batch, text=text, regions=other.regions)).tokens("regions")
        words = uniter.model.word_logits(joint["text"].values[colour]).argmax(1)
        told[f"word, {name} regions"] = float((words == answers).float().mean())
        joint = uniter.model.trunk(replace(batch, text=other.text), hidden=hidden).tokens("regions")
        guessed = uniter.model.classes(joint["regions"].values[second]).argmax(1)
        told[f"region, {name} words"] = float((guessed == classes).float().mean())
    joint = {
        name: uniter.model.trunk(replace(batch, text=of.text)) for name, of in (("right", batch), ("wrong", wrong))
    }
    match = {name: uniter.model.match_head(uniter.model.trunk.pool(rows)).argmax(1) for name, rows in joint.items()}
    cost = {name: uniter.model.align(rows).distance for name, rows in joint.items()}
matched = float(torch.cat([match["right"] == 1, match["wrong"] == 0]).float().mean())
told["matching"] = matched
lab.show(lab.bars(told, "told rightly, pictures that were not trained on"), "03_uniter_told")
lab.show(
    lab.two_histograms(cost["right"], cost["wrong"], ("right pairs", "wrong pairs"), "cost of transport"),
    "03_uniter_cost",
)
print({name: round(value, 2) for name, value in told.items()})
print({name: round(float(value.mean()), 3) for name, value in cost.items()})
lab.check(told["word, its own regions"] > told["word, another's regions"] + 0.15, "hidden words are read off regions")
lab.check(told["region, its own words"] > told["region, another's words"] + 0.15, "hidden regions are read off words")
lab.check(bool(cost["right"].mean() < cost["wrong"].mean()), "right pairs are carried more cheaply")
