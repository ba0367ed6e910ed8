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
