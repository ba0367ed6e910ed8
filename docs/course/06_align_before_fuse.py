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
