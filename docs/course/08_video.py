# %% [markdown]
# # 8. Weak pairs from video
#
# People who show how something is done also talk, but not always of what is seen at that moment. A clip and the sentence said over it
# are a *weak* pair. Two answers: learn from bags of sentences (MIL-NCE, Miech et al., CVPR 2020), and turn clips into words of a BERT
# (VideoBERT, Sun et al., ICCV 2019).

# %%
import lab
import torch

import coalign
from coalign.data.videos.narrated import bag_of
from coalign.data.words.word_list import WordList
from coalign.types import Batch, Video
from coalign.worlds.videos import STEPS, Narrating, make_videos, picture_at

SIDE, FRAMES = 32, 8
videos = make_videos(40, narrating=Narrating(misaligned=0.5), steps=8, tasks=10, kinds=48, seed=0)
clips = [(video, place) for video in videos for place in range(len(video.steps))]


def frames_of(video, place):
    """[T, 3, H, W] of a step, in 0 to 1."""
    times = [video.seconds * (place + (n + 0.5) / FRAMES) for n in range(FRAMES)]
    return torch.stack([torch.tensor(picture_at(video, t, SIDE)).permute(2, 0, 1) / 255 for t in times])


frames = torch.stack([frames_of(*clip) for clip in clips])
kinds = torch.tensor([video.steps[place] for video, place in clips])
said = [[told.narration for told in video.narrations] for video in videos]
spoken = [said[n // 8][n % 8].text for n in range(len(clips))]
lab.show(
    lab.pictures([[f.permute(1, 2, 0).numpy() for f in frames[n, ::2]] for n in range(3)], ["a clip", "", "", ""]),
    "08_clips",
)
for n in range(3):
    print(f"said meanwhile: {spoken[n]!r}; shown: {STEPS[kinds[n]].sentence!r}")


# %% [markdown]
# ## One sentence, or a bag
#
# Half of the sentences come a step early or late. NCE takes the sentence said over the clip for right. MIL-NCE takes the bag of the three
# nearest, of which *some* are right: -log Σ_bag exp s / Σ_all exp s.

# %%
words = WordList(sorted({word for text in spoken for word in text.split()}))


def batch_of(rows, bag):
    texts = []
    for n in rows:
        own = said[n // 8]
        texts += [own[k].text for k in bag_of(own, n % 8, bag)]
    return Batch(text=words.encode(texts, 16), video=Video(frames=frames[rows]))


def recall(model, rows, among=5):
    """How often the true sentence is among the best five of all 48 there are."""
    with torch.no_grad():
        texts = model.encode(Batch(text=words.encode([step.sentence for step in STEPS], 16))).pooled["text"]
        seen = model.encode(Batch(video=Video(frames=frames[rows]))).pooled["video"]
    best = (seen @ texts.T).topk(among, 1).indices
    return float((best == kinds[rows][:, None]).any(1).float().mean())


held = list(range(256, 320))
found, history = {}, {}
for name, bag in (("NCE, one sentence", 1), ("MIL-NCE, a bag of three", 3)):
    torch.manual_seed(0)
    model = coalign.create(
        "mil_nce", vocab_size=words.vocab_size, train_words=True, frames=FRAMES, image_size=SIDE
    ).model
    order = torch.Generator().manual_seed(0)
    rows = [torch.randperm(256, generator=order)[:32].tolist() for _ in range(lab.steps(120))]
    history[name] = lab.train(model, [batch_of(row, bag) for row in rows], lr=2e-3)["mil_nce"]
    found[name] = recall(model, held)
lab.show(lab.curves(history), "08_losses")
lab.show(lab.bars(found, "true sentence among the best 5 of 48, clips of other videos", 5 / 48), "08_recall")
print({name: round(value, 2) for name, value in found.items()}, f"chance: {5 / 48:.2f}")
# %% [markdown]
# Which of the two is better depends on how far the narration strays: set `misaligned` to 0 and to 1 and run again.

# %%
lab.check(max(found.values()) > 3 * 5 / 48, "what is seen and what is said meet, though half of the pairs are wrong")

# %% [markdown]
# ## Visual words
#
# "How do we get visual words?" k-means, as a tree: the vectors of all clips are parted in four, and each part in four again. A word is
# shown by the clips nearest to its centre.

# %%
from coalign.types import Packed

with torch.no_grad():
    features = torch.cat([model.encode(Batch(video=Video(frames=part))).pooled["video"] for part in frames.split(64)])
bert = lab.fresh(
    "videobert",
    spoken,
    feature_width=features.shape[1],
    branching=4,
    levels=2,
    objectives=("mlm",),
    mask_probability=0.4,
)
bert.model.visual.grow(features[:256], generator=torch.Generator().manual_seed(0))
leaf = bert.model.visual(features)
common = torch.bincount(leaf, minlength=16).argsort(descending=True)[:4].tolist()
shown = []
for word in common:
    members = (leaf == word).nonzero()[:, 0]
    near = (features[members] - features[members].mean(0)).norm(dim=1).argsort()[:4]
    row = [frames[members[n], FRAMES // 2].permute(1, 2, 0).numpy() for n in near]
    shown.append(row + [torch.ones(SIDE, SIDE, 3).numpy()] * (4 - len(row)))
lab.show(lab.pictures(shown, ["a visual word: its clips", "", "", ""]), "08_visual_words")

# %% [markdown]
# ## VideoBERT
#
# "[CLS] words [>] visual words [SEP]", hidden words of both kinds, one vocabulary. The words of a clip are here those that tell what is
# shown, so that the question is the model's alone: does it fill in a colour by what is seen?


# %%
def sentences(rows):
    texts = [STEPS[kinds[n]].sentence for n in rows]
    text = bert.vocabulary.encode(texts, 32)
    return Batch(text=text, video=Video(features=Packed.from_items([features[n : n + 1] for n in rows])))


rows = [torch.randperm(256, generator=order)[:32].tolist() for _ in range(lab.steps(400))]
learned = lab.train(bert.model, [sentences(row) for row in rows], lr=1e-3)
lab.show(lab.curves(learned), "08_videobert")

# %% [markdown]
# **Exercise.** Hide the colour and the shape of the held-out clips' sentences; how often are they told with the clip, and how often
# with the clip of another? (`fill` gives the words at [MASK].)

# %%
from dataclasses import replace

batch = sentences(held)
places = batch.text.ids.offsets[:-1, None] + torch.tensor([2, 3])  # [CLS] the COLOUR SHAPE ...
ids = batch.text.ids.values.clone()
answers = ids[places].clone()
ids[places] = bert.vocabulary.mask_id
text = replace(batch.text, ids=batch.text.ids.with_values(ids))
other = sentences([*held[8:], *held[:8]]).video
told = {}
for name, video in (("its own clip", batch.video), ("another's", other)):
    logits, _ = bert.model.fill(Batch(text=text, video=video))
    right = logits.argmax(1).view(-1, 2) == answers
    told |= {f"colour, {name}": float(right[:, 0].float().mean()), f"shape, {name}": float(right[:, 1].float().mean())}
lab.show(lab.bars(told, "hidden words that are told"), "08_filled")
print({name: round(value, 2) for name, value in told.items()})
lab.check(told["colour, its own clip"] > told["colour, another's"], "words are filled in by what is seen")
