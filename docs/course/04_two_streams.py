# %% [markdown]
# # 4. Crossmodal transformers: two streams
#
# Option 2 for words and regions. ViLBERT (Lu et al., NeurIPS 2019) and LXMERT (Tan and Bansal, EMNLP 2019) give each modality a
# transformer of its own, and join them by co-attention: in a connection the queries of one stream meet the keys and values of the other.

# %%
import lab
import torch

from coalign.types import Batch

scenes, captions = lab.scenes_and_captions(320, things=(2, 2))
model = lab.fresh("vilbert", captions, region_width=32, region_target="features", region_targets=32)
config, width = model.model.config, model.spec.regions.width
print(
    f"words: {config.text.depth} blocks of {config.text.dim}; regions: {config.region_depth} of {config.region_dim}; "
    f"{len(config.text_connections)} connections; {captions[0]!r}"
)


# %%
def batch_of(rows):
    text = model.vocabulary.encode_for([captions[i] for i in rows], model.spec)
    return Batch(text=text, regions=lab.regions_of([scenes[i] for i in rows], width))


first = scenes[0].draw(160)
lab.show(
    lab.pictures([[first, *lab.cut(first, scenes[0].boxes)]], ["the picture", "region 1", "region 2"]), "04_regions"
)

# %% [markdown]
# ## Training
#
# Hidden words, hidden regions (here: their features), and whether text and picture belong together (chance: log 2).

# %%
order = torch.Generator().manual_seed(0)
batches = [batch_of(torch.randperm(256, generator=order)[:32].tolist()) for _ in range(lab.steps(200))]
history = lab.train(model.model, batches, lr=1e-3)
lab.show(lab.curves({name: history[name] for name in ("mlm", "itm")}, {"itm": 0.693}), "04_losses")
lab.check(sum(history["mlm"][-20:]) < 0.5 * sum(history["mlm"][:20]), "hidden words are read")

# %% [markdown]
# ## Who asks whom
#
# Each connection has two maps: words that look at regions, and regions that look at words. The first region is the whole picture.

# %%
one = batch_of([0])
with torch.no_grad():
    record = model.model.eval().encode(one, record=True).record
words = [model.vocabulary.id_to_piece(int(i)) for i in one.text.ids.values]
regions = ["whole", *(f"▣ {thing.colour} {thing.shape}" for thing in scenes[0].things)]
for number in range(len(config.text_connections)):
    seen = record[f"connection.{number}.text_to_regions"][0].mean(0)
    asked = record[f"connection.{number}.regions_to_text"][0].mean(0)
    lab.show(
        lab.heat(seen, words, regions, f"connection {number + 1}: words look at regions"), f"04_words_{number + 1}"
    )
    lab.show(
        lab.heat(asked, regions, words, f"connection {number + 1}: regions look at words"), f"04_regions_{number + 1}"
    )
lab.check(seen.shape == asked.T.shape, "one map has words as rows, the other as columns")

# %% [markdown]
# **Exercise.** What does the other stream do for a hidden word? Hide the colour of the first thing of 64 pictures that were not trained on, and
# compare how often it is told with the right regions and with those of another picture. Chance is one in six.

# %%
from dataclasses import replace

held = range(256, 320)
batch, wrong = batch_of(held), batch_of([*held[1:], held[0]])
colour = batch.text.ids.offsets[:-1] + 2  # [CLS] a COLOUR ...
ids = batch.text.ids.values.clone()
answers = ids[colour].clone()
ids[colour] = model.vocabulary.mask_id
text = replace(batch.text, ids=batch.text.ids.with_values(ids))
told = {}
for name, regions in (("its own regions", batch.regions), ("another's", wrong.regions)):
    with torch.no_grad():
        fused = model.model.encode(Batch(text=text, regions=regions)).tokens["fused"]
        told[name] = float((model.model.predict(fused, colour).argmax(1) == answers).float().mean())
lab.show(lab.bars(told, "hidden colours that are told", 1 / 6), "04_colours")
print({name: round(value, 2) for name, value in told.items()})
lab.check(told["its own regions"] > told["another's"] + 0.15, "hidden words are read off the other stream")
