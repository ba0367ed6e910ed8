# %% [markdown]
# # 9. Going beyond CNNs: vision transformers
#
# Four steps of the lecture, on the same small scenes: a convolution replaced by attention (SASA), a picture read as words (ViT),
# hidden patches painted (MAE), and words and patches in one transformer (ViLT).

# %%
import lab
import torch

import coalign
from coalign.types import Batch, Images
from coalign.types.labels import Labels
from coalign.worlds.scenes import ATTRIBUTES

single, _ = lab.scenes_and_captions(320, things=(1, 1))
kinds = torch.tensor([ATTRIBUTES["colour"].index(scene.things[0].colour) for scene in single])


def painted(picture, spec):
    """Pixels as a model reads them, back in 0 to 1."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (spec.image.mean, spec.image.std))
    return (picture * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


# %% [markdown]
# ## Replacing a convolution by self-attention
#
# SASA (Ramachandran et al., NeurIPS 2019): each pixel asks its neighbourhood, and the keys know where in it they lie:
# y = Σ softmax(q · k + q · r) v, with r a learned vector of the offset. Two classifiers of the colour follow, this one and ViT.


# %%
def taught(model, steps, lr):
    """The classifier, trained on 256 pictures; its pictures and its accuracy on the other 64."""
    side = model.spec.image.size[0]
    pixels = coalign.prepare(model, images=[scene.draw(side) for scene in single]).images.pixels
    order = torch.Generator().manual_seed(0)
    rows = [torch.randperm(256, generator=order)[:32] for _ in range(lab.steps(steps))]
    batches = [Batch(images=Images(pixels=pixels[row]), labels=Labels(label=kinds[row])) for row in rows]
    history = lab.train(model.model, batches, lr)
    with torch.no_grad():
        logits = model.model.encode(Batch(images=Images(pixels=pixels[256:]))).pooled["logits"]
    return pixels, history["classification"], float((logits.argmax(1) == kinds[256:]).float().mean())


torch.manual_seed(0)
sasa = coalign.create("sasa", size="tiny", classes=len(ATTRIBUTES["colour"]))
pixels, sasa_loss, sasa_right = taught(sasa, 60, 2e-3)
lab.show(lab.pictures([[painted(pixels[i], sasa.spec) for i in range(4)]], ["a picture", "", "", ""]), "09_shapes")

# %% [markdown]
# **Exercise.** The lecture's formula by hand, at one pixel of a layer of one head, against the layer itself.

# %%
from coalign.layers.local_attention import LocalAttention

torch.manual_seed(0)
layer, x, place = LocalAttention(4, 4, kernel=5, heads=1), torch.randn(1, 4, 9, 9), 4
with torch.no_grad():
    q, k, v = (part(x)[0] for part in (layer.query, layer.key, layer.value))
    near = slice(place - 2, place + 3)
    asks = q[:, place, place]
    r = torch.cat([layer.column[:, None, :].expand(-1, 5, -1), layer.row[:, :, None].expand(-1, -1, 5)])  # of offsets
    scores = torch.einsum("d,dhw->hw", asks, k[:, near, near] + r)
    weights = scores.flatten().softmax(0).view(5, 5)
    by_hand = (weights * v[:, near, near]).sum((1, 2))
    lab.check(torch.allclose(by_hand, layer(x)[0, :, place, place], atol=1e-5), "the layer computes the formula")
offsets = [str(i) for i in range(-2, 3)]
lab.show(lab.heat(weights, offsets, offsets, "weights of the neighbourhood"), "09_neighbourhood")

# %% [markdown]
# ## Sixteen by sixteen words
#
# ViT (Dosovitskiy et al., ICLR 2021) cuts a picture into patches and reads them as words, with a class token in front. Which patches
# reach it? Attention rollout multiplies the maps of all layers (the paper's figure 6).

# %%
torch.manual_seed(0)
vit = coalign.create("vit", size="mini", classes=len(ATTRIBUTES["colour"]))
pixels, vit_loss, vit_right = taught(vit, 120, 1e-3)
lab.show(lab.curves({"SASA": sasa_loss, "ViT": vit_loss}), "09_classifiers")
lab.show(lab.bars({"SASA": sasa_right, "ViT": vit_right}, "colours named right, and the chance", 1 / 6), "09_accuracy")
print(f"SASA {sasa_right:.2f}, ViT {vit_right:.2f}")
lab.check(min(sasa_right, vit_right) > 2 / 6, "both name colours at least twice as often as by chance")

# %%
held = range(256, 260)
reach = vit.model.rollout(Images(pixels=pixels[list(held)]))
rows = [[painted(pixels[i], vit.spec) for i in held], [values.numpy() for values in reach]]
lab.show(lab.pictures(rows, ["picture, rollout", "", "", ""]), "09_rollout")

# %% [markdown]
# ## Hidden patches
#
# MAE (He et al., CVPR 2022) hides three quarters of the patches and has the network paint them: BERT's idea, on pixels.

# %%
scenes, _ = lab.scenes_and_captions(256, things=(1, 2))
torch.manual_seed(0)
model = coalign.create("mae", size="tiny")
config = model.model.config
side = model.spec.image.size[0]
pixels = coalign.prepare(model, images=[scene.draw(side) for scene in scenes]).images.pixels
print(f"pictures of {side} pixels, {pixels.shape}")

lab.show(lab.pictures([[painted(pixels[i], model.spec) for i in range(4)]], ["given", "", "", ""]), "09_given")

# %% [markdown]
# The loss counts hidden patches alone. Before anything is learned, painting the mean of the picture is what can be done.

# %%
order = torch.Generator().manual_seed(0)
rows = [torch.randperm(len(pixels), generator=order)[:32] for _ in range(lab.steps(200))]
history = lab.train(model.model, [Batch(images=Images(pixels=pixels[row])) for row in rows], lr=1.5e-3)
lab.show(lab.curves(history), "09_losses")
first, last = (sum(history["reconstruction"][part]) for part in (slice(0, 10), slice(-10, None)))
lab.check(last < 0.8 * first, "hidden patches are painted better than at the beginning")

# %% [markdown]
# ## The figure of the paper
#
# Given, what the network sees, and what it makes of it.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

from coalign.analysis.runs.reconstruction import reconstruct, reconstruction_sheet

with TemporaryDirectory() as folder:
    paths = [Path(folder) / f"{number}.png" for number in range(3)]
    for path, scene in zip(paths, scenes, strict=False):
        scene.draw(side).save(path)
    sheet = reconstruction_sheet(reconstruct(model.model, paths, 0))
lab.show(lab.pictures([[sheet]], ["given · seen · painted"], inches=9), "09_painted")

# %% [markdown]
# **Exercise.** Into how many patches is a picture cut, and of how many does the encoder know in training? Compute both from the
# configuration, and hold the first against the rows that `encode` gives of a whole picture (one more: the class token).

# %%
patches = (side // config.trunk.patch_size) ** 2
known = round(patches * (1 - config.mask_ratio))
with torch.no_grad():
    rows_seen = model.model.encode(Batch(images=Images(pixels=pixels[:1]))).tokens["image"].lengths
print(f"{patches} patches, {known} of them known in training; {int(rows_seen[0])} rows of a whole picture")
lab.check(int(rows_seen[0]) == patches + 1 and known == patches // 4, "a row a patch, and one for the class")

# %% [markdown]
# ## Words and patches
#
# ViLT (Kim et al., ICML 2021), "≈ BERT + ViT": no detector and no towers; words and patches are one sequence from the first block on.
# Hidden words are to be read off the patches.

# %%
from coalign.layers.initialise import init_tied

scenes, captions = lab.scenes_and_captions(320, things=(1, 1))
vilt = lab.fresh("vilt", captions, mask_probability=0.4)
vilt.model.apply(init_tied)  # weights by their width: a narrow model learns sooner than with the paper's
side = vilt.spec.image.size[0]
pixels = coalign.prepare(vilt, images=[scene.draw(side) for scene in scenes]).images.pixels


def pairs_of(rows):
    text = vilt.vocabulary.encode_for([captions[i] for i in rows], vilt.spec)
    return Batch(text=text, images=Images(pixels=pixels[list(rows)]))


order = torch.Generator().manual_seed(0)
batches = [pairs_of(torch.randperm(256, generator=order)[:32].tolist()) for _ in range(lab.steps(300))]
history = lab.train(vilt.model, batches, lr=7e-4, only=("mlm",))
lab.show(lab.curves(history), "09_vilt_losses")

# %% [markdown]
# The figure of the lecture: where each word looks, here by the rollout of all layers.

# %%
import numpy as np

from coalign.analysis.runs.alignment import read_alignment

words = captions[256].split()
(maps,) = read_alignment(vilt.model, pairs_of([256]), [words], "rollout")
cells = [np.kron(values.numpy(), np.ones((16, 16))) for values in maps.values]
lab.show(lab.pictures([[scenes[256].draw(side), *cells]], ["the picture", *words]), "09_vilt_words")

# %% [markdown]
# **Exercise.** Is a hidden colour read off the picture? Hide it in 64 pairs that were not trained on, and hold its own picture
# against another's. Chance is one in six.

# %%
from dataclasses import replace

pairs = pairs_of(range(256, 320))
colour = pairs.text.ids.offsets[:-1] + 2  # [CLS] a COLOUR ...
ids = pairs.text.ids.values.clone()
answers = ids[colour].clone()
ids[colour] = vilt.vocabulary.mask_id
text = replace(pairs.text, ids=pairs.text.ids.with_values(ids))
told = {}
for name, shown in (("its own picture", pixels[256:]), ("another's", pixels[256:].roll(1, 0))):
    with torch.no_grad():
        states = vilt.model.encode(Batch(text=text, images=Images(pixels=shown))).tokens["text"]
        told[name] = float((vilt.model.words(states.values[colour]).argmax(1) == answers).float().mean())
lab.show(lab.bars(told, "hidden colours that are told", 1 / 6), "09_vilt_colours")
print({name: round(value, 2) for name, value in told.items()})
lab.check(told["its own picture"] > told["another's"] + 0.15, "hidden colours are read off the picture")
