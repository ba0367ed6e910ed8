# %% [markdown]
# # 6. Align before fuse
#
# Two towers give a vector each, and the cosine of the right pairs of a batch shall exceed all others. CLIP (Radford et al.,
# ICML 2021) stops there; ALBEF (Li et al., NeurIPS 2021, "≈ BERT + ViT + CLIP-ish") aligns so before its fusion layers look
# from words to patches.

# %%
import lab
import torch

import coalign
from coalign.types import Batch

scenes, captions = lab.scenes_and_captions(288, things=(1, 1))
model = lab.fresh("clip", captions)
pictures = [scene.draw(64) for scene in scenes]
prepared = coalign.prepare(model, images=pictures, texts=captions)
kinds = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
ids = torch.tensor([kinds[caption] for caption in captions])


# %%
def batch_of(rows):
    text = model.vocabulary.encode_for([captions[i] for i in rows], model.spec)
    images = type(prepared.images)(pixels=prepared.images.pixels[rows])
    return Batch(text=text, images=images, ids=ids[rows])


def similarities(rows):
    with torch.no_grad():
        vectors = model.model.eval().encode(batch_of(rows)).vectors
    return vectors["image"] @ vectors["text"].T


held_out = torch.arange(256, 288)
shown = held_out[:8]
names = [captions[i] for i in shown]
lab.show(lab.heat(similarities(shown), names, names, "before training"), "06_before")

# %% [markdown]
# The loss is a softmax over the rows and over the columns of that matrix. Captions that are the same have the same `ids`, so that
# none is a negative of its like.

# %%
generator = torch.Generator().manual_seed(0)
batches = [batch_of(torch.randperm(256, generator=generator)[:48]) for _ in range(lab.steps(120))]
history = lab.train(model.model, batches, lr=1e-3)
lab.show(lab.curves(history), "06_losses")
after = similarities(shown)
lab.show(lab.heat(after, names, names, "after training, pictures that were not trained on"), "06_after")

# %% [markdown]
# **Exercise.** The recall at 1 on the held-out pictures: is the nearest caption a right one? Beside it stands chance.

# %%
found = similarities(held_out).argmax(1)
recall = float((ids[held_out][found] == ids[held_out]).float().mean())
chance = float((ids[held_out][:, None] == ids[held_out]).float().mean())
print(f"recall@1 {recall:.2f}, chance {chance:.2f}")
lab.check(recall > 3 * chance, "the nearest caption is right at least three times as often as by chance")

# %% [markdown]
# ## ALBEF
#
# The same contrast (ITC) lies under the fusion blocks here. Above it, the network is asked whether picture and text belong together
# (ITM; the wrong ones are those that the contrast finds most alike) and reads hidden words with the picture in view (MLM). A momentum
# copy of the towers gives the contrast its queue of negatives, and soft targets.

# %%
from coalign.layers.initialise import init_tied

albef = lab.fresh("albef", captions, queue_size=192, distill=False, mask_probability=0.4)
torch.manual_seed(0)
albef.model.online.apply(init_tied)  # weights by their width: a narrow model learns sooner than with the paper's
albef.model.momentum.load_state_dict(albef.model.online.state_dict())
side = albef.spec.image.size[0]
config = albef.model.config
print(
    f"text: {config.text.depth} blocks, those from {config.text.cross_from} on look at the patches; pictures of {side} pixels"
)
read = coalign.prepare(albef, images=[scene.draw(side) for scene in scenes], texts=captions)


def pairs_of(rows):
    """Pictures of `rows` with their texts."""
    texts = albef.vocabulary.encode_for([captions[i] for i in rows], albef.spec)
    return Batch(text=texts, images=type(read.images)(pixels=read.images.pixels[rows]), ids=ids[rows])


generator = torch.Generator().manual_seed(0)
batches = [pairs_of(torch.randperm(256, generator=generator)[:32]) for _ in range(lab.steps(210))]
history = lab.train(albef.model, batches, lr=5e-4)
lab.show(lab.curves(history, {"itm": 0.637}), "06_albef_losses")

# %% [markdown]
# Chance of ITM is 0.637: of three pairs one is right. It stays there in so short a run, since the wrong pairs are the most alike that there
# are; the contrast below it and the hidden words are what is learned first.

# %%
with torch.no_grad():
    vectors = albef.model.eval().encode(pairs_of(held_out)).vectors
aligned = vectors["image"] @ vectors["text"].T
lab.show(lab.heat(aligned[:8, :8], names, names, "ALBEF's contrast, pictures not trained on"), "06_albef_contrast")
recall = float((ids[held_out][aligned.argmax(1)] == ids[held_out]).float().mean())
print(f"recall@1 {recall:.2f}, chance {chance:.2f}")
lab.check(recall > 1.5 * chance, "the towers are aligned beneath the fusion")

# %% [markdown]
# ## The figure of the paper
#
# Where words look: the cross-attention of a fusion block, on a picture that was not trained on.

# %%
import numpy as np

from coalign.analysis.runs.alignment import read_alignment

one = int(shown[0])
words = captions[one].split()
(maps,) = read_alignment(albef.model, pairs_of([one]), [words], "cross_attention")
cells = [np.kron(values.numpy(), np.ones((16, 16))) for values in maps.values]
lab.show(lab.pictures([[scenes[one].draw(side), *cells]], ["the picture", *words]), "06_albef_words")

# %% [markdown]
# **Exercise.** Fusion is more than alignment: is a hidden colour read off the picture? Hide it in the held-out captions, and hold each one's own
# picture against another's. Chance is one in six.

# %%
pairs = pairs_of(held_out)
colour = pairs.text.ids.offsets[:-1] + 2  # [CLS] a COLOUR ...
pieces = pairs.text.ids.values.clone()
answers = pieces[colour].clone()
pieces[colour] = albef.vocabulary.mask_id
hidden, towers = pairs.text.ids.with_values(pieces), albef.model.online
told = {}
for name, pixels in (("its own picture", pairs.images.pixels), ("another's", pairs.images.pixels.roll(1, 0))):
    with torch.no_grad():
        patches = towers.image(type(read.images)(pixels=pixels))
        guesses = albef.model.predict_words(towers, hidden, patches, colour).argmax(1)
    told[name] = float((guesses == answers).float().mean())
lab.show(lab.bars(told, "hidden colours that are told", 1 / 6), "06_albef_colours")
print({name: round(value, 2) for name, value in told.items()})
lab.check(told["its own picture"] > told["another's"] + 0.15, "hidden colours are read off the picture")
