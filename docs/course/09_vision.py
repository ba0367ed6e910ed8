# %% [markdown]
# # 9. Going beyond CNNs: vision transformers and masked auto-encoders
#
# ViT (Dosovitskiy et al., ICLR 2021) cuts a picture into patches and reads them as words. MAE (He et al., CVPR 2022) hides three
# quarters of them and has the network paint them: BERT's idea, on pixels.

# %%
import lab
import torch

import coalign
from coalign.types import Batch, Images

scenes, _ = lab.scenes_and_captions(256, things=(1, 2))
torch.manual_seed(0)
model = coalign.create("mae", size="tiny")
config = model.model.config
side = model.spec.image.size[0]
pixels = coalign.prepare(model, images=[scene.draw(side) for scene in scenes]).images.pixels
print(f"pictures of {side} pixels, {pixels.shape}")


# %%
def painted(picture):
    """Pixels as the model reads them, back in 0 to 1."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.spec.image.mean, model.spec.image.std))
    return (picture * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


lab.show(lab.pictures([[painted(pixels[i]) for i in range(4)]], ["given", "", "", ""]), "09_given")

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
