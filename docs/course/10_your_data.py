# %% [markdown]
# # 10. Assignment 2: look at your own data
#
# Before a model: each modality by itself, then what lies between them. Set `DATA` to a table of yours with a column of image paths and one
# of texts; below, a small one is made, with three mistakes in it that the analysis is to find.
#
# This notebook needs `pip install "coalign[analysis,minilm,efficientnet]"`. `coalign analyze DATA` writes all of it, and much more, as a page.

# %%
import csv
import random
from pathlib import Path
from tempfile import mkdtemp

import lab
import numpy as np

scenes, captions = lab.scenes_and_captions(240, things=(1, 1))
folder = Path(mkdtemp())
for number, scene in enumerate(scenes):
    scene.draw(64).save(folder / f"{number}.png")
rows = [
    [f"{number}.png", caption, scene.things[0].colour, scene.things[0].shape]
    for number, (caption, scene) in enumerate(zip(captions, scenes, strict=True))
]
wrong = random.Random(0).sample(range(20, 240), 12)
for number in wrong:
    rows[number][1] = rows[(number + 17) % 240][1]  # the caption of another
scenes[10].draw(64).save(folder / "9.png", compress_level=0)  # one picture twice, in two files
rows[9][1:] = rows[10][1:]
rows[11][1] = ""  # nothing said
DATA = folder / "shapes.csv"
with DATA.open("w", newline="") as file:
    csv.writer(file).writerows([["image", "caption", "colour", "shape"], *rows])

# %% [markdown]
# ## Each modality
#
# Texts: lengths, vocabulary, repeats. Images: sizes, brightness, what is there twice.

# %%
from coalign.analysis.datasets import image_statistics, pair_columns, text_statistics
from coalign.data.pairs.sources import open_source

data = pair_columns(open_source(str(DATA)))
texts = text_statistics(data.texts)
images = image_statistics(data.images, np.unique(data.groups, return_index=True)[1])
print(f"{data.count} pairs; {texts.distinct_words} words; {len(images.duplicates)} pictures are there more than once")
print("left out:", [*data.problems])
lab.show(lab.bars(dict(texts.top_words[:12]), "the commonest words"), "10_words")
lab.show(
    lab.bars(
        {
            name: float(values.mean())
            for name, values in (
                ("brightness", images.brightness),
                ("contrast", images.contrast),
                ("colourfulness", images.colourfulness),
            )
        },
        "images, means",
    ),
    "10_images",
)
lab.check(any({9, 10} <= set(group) for group in images.duplicates), "the picture that is there twice is found")

# %% [markdown]
# ## Representations: CNN, word2vec, BERT
#
# "Study representations from CNNs, word2vec, BERT": what can be read off each by a linear map, layer by layer, beside the commonest value.

# %%
from coalign.analysis.datasets import probe_label
from coalign.analysis.datasets.cache import encode_all
from coalign.analysis.towers import default_towers

towers = default_towers(data, vit_steps=0)
vectors = {
    tower.name: encode_all(tower, data.images if tower.modality == "image" else data.texts)
    for tower in (*towers.image, *towers.text)
}
for label in ("colour", "shape"):
    main = {name: found[name] for name, found in vectors.items()}
    probes = probe_label(label, data.labels[label], main, data.units)
    accuracy = {probe.name: probe.accuracy for probe in probes.probes}
    lab.show(lab.bars(accuracy, f"{label}, read off by a linear map", probes.majority), f"10_{label}")
    print(label, {name: round(value, 2) for name, value in accuracy.items()}, "commonest:", round(probes.majority, 2))

# %% [markdown]
# ## Across modalities
#
# Two linear maps under which pictures and texts correlate most; each pair is judged by maps that have not seen it. Matched pairs should be
# more alike than mismatched ones, and the pairs that are not are worth a look.

# %%
from coalign.analysis.datasets import canonical_space, compare_pairs
from coalign.data.images.pictures import open_picture

image, text = (
    next(found[name] for name, found in vectors.items() if name == tower.name)
    for tower in (towers.image[0], towers.text[0])
)
space = canonical_space(image, text, data.units)
compared = compare_pairs(space, data.groups, data.texts)
lab.show(
    lab.two_histograms(compared.matched, compared.mismatched.ravel(), ("matched", "mismatched"), "similarity"),
    "10_pairs",
)
print(f"a pair is more alike than a mismatched one in {compared.separation:.2f} of cases")
worst = compared.suspects[:8]
lab.show(
    lab.pictures([[open_picture(data.images[n]) for n in worst]], [data.texts[n] for n in worst], inches=1.6),
    "10_suspects",
)

# %% [markdown]
# **Exercise.** Twelve captions were exchanged. How many of the pairs that are flagged are among them? What does the linear map see that
# tells a wrong caption, and what does it miss?

# %%
exchanged = {
    n
    for n, caption in enumerate(data.texts)
    if data.labels["colour"][n] not in caption or data.labels["shape"][n] not in caption
}
first = compared.suspects[: len(exchanged)]
hits = len(exchanged & set(first))
print(
    f"{hits} of the first {len(first)} suspects have a wrong caption; by chance {len(exchanged) ** 2 / data.count:.1f}"
)
lab.check(hits > 4 * len(exchanged) ** 2 / data.count, "wrong captions are found by what pairs have in common")
