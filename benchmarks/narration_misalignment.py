"""MIL-NCE against NCE with a single positive and Max+NCE, as narration strays from what is shown.

A generated world (`data.worlds_video`), written as mp4 and srt and read back by the readers of training. Of the
sentences a growing share is said one step early or late, and a fifth is beside the point. Every objective gets the
same clips, steps and seeds; what differs is the bag: 5 narrations, or the one nearest in time.

Measured on videos never seen: which clips a step's sentence finds (R@1, R@5, median rank, of 48 sentences among 192
clips), and on their narration, misaligned like that of training, which narration of a clip's bag is the one that tells
it: the share found by the model, by time alone, and by chance.

The learning rate of every objective and level is the one with the best mean reciprocal rank on development videos,
of seed 0; what is printed is of the test videos. Runs that are in --out already are not done again.

    python benchmarks/narration_misalignment.py --out misalignment.json --picture docs/images/narration_misalignment.png
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coalign.data.videos.clips import Clip, read_clip
from coalign.data.videos.narrated import bag_of, clip_start
from coalign.data.videos.subtitles import read_subtitles
from coalign.data.words.word_list import WordList
from coalign.layers.s3d import S3dConfig
from coalign.models.mil_nce.model import SIZES, MilNceModel
from coalign.retrieval.metrics import ranks, summarise
from coalign.training.schedule import lr_factor
from coalign.types import Batch, Video
from coalign.worlds.videos import CHAT, STEPS, Narrating, WorldVideo, make_videos, to_srt, write_videos

LEVELS = (0.0, 0.6, 0.9)
RATES = (1e-3, 2e-3)
METHODS = {"nce": (1, "sum"), "max-nce": (5, "max"), "mil-nce": (5, "sum")}
BAG, OFF_TOPIC, SECONDS = 5, 0.2, 3.2
Row = dict[str, Any]


def read(videos: list[WorldVideo], folder: Path, model: MilNceModel, words: WordList) -> dict[str, Any]:
    """Each narration's clip, as bytes, with the sentences of its bag, the nearest first; through mp4 and srt."""
    clips: list[Tensor] = []
    bags: list[list[list[int]]] = []
    for video in videos:
        (folder / f"{video.name}.srt").write_text(to_srt([told.narration for told in video.narrations]))
        said = read_subtitles(folder / f"{video.name}.srt")
        for number, narration in enumerate(said):
            begin = clip_start(narration, SECONDS)
            clips.append((read_clip(Clip(folder / f"{video.name}.mp4", begin), model.input_spec) * 255).byte())
            order = sorted(bag_of(said, number, BAG), key=lambda other: other != number)  # its own first
            bags.append([words.ids(said[other].text) for other in order])
    return {"clips": torch.stack(clips), "bags": bags}


def train(data: dict[str, Any], method: str, words: WordList, seed: int, steps: int, lr: float) -> MilNceModel:
    bag, form = METHODS[method]
    torch.manual_seed(seed)
    model = MilNceModel(replace(CONFIG, vocab_size=words.vocab_size, bag=form))
    optimiser = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * lr_factor("cosine", step, steps, 0.1, 0.0)
        chosen = torch.randint(len(data["clips"]), (32,), generator=generator)
        texts = [data["bags"][i][k] for i in chosen.tolist() for k in range(bag)]
        batch = Batch(text=of_ids(texts), video=Video(frames=data["clips"][chosen].float() / 255))
        loss = model.losses(batch)["mil_nce"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()


def of_ids(items: list[list[int]]) -> Any:
    from coalign.types import Layout, Packed, Text

    flat = torch.tensor([id for item in items for id in item], dtype=torch.int64)
    return Text(Packed(flat, Layout.of([len(item) for item in items])))


@torch.no_grad()
def look(model: MilNceModel, clips: Tensor) -> Tensor:
    return torch.cat([model.encode_frames(part.float() / 255)[1] for part in clips.split(64)])


@torch.no_grad()
def retrieval(model: MilNceModel, clips: Tensor, kinds: Tensor, words: WordList) -> dict[str, float]:
    """Every step's sentence as a query; the right answers are the clips of that step."""
    present = kinds.unique()
    queries = model.text(words.text([STEPS[kind].sentence for kind in present.tolist()]).ids)
    return summarise(ranks(queries @ look(model, clips).T, present, kinds), (1, 5))


@torch.no_grad()
def alignment(model: MilNceModel, videos: list[WorldVideo], clips: Tensor, words: WordList) -> dict[str, float]:
    """Of each shown step: does the narration that fits best, of the five nearest in time, tell it? Only steps of
    which the sentence is among the five. "weight" is what the right one gets of the objective's softmax over the bag.
    `clips` are the steps' middles in order."""
    shown = look(model, clips)
    right = {"model": 0.0, "weight": 0.0, "time": 0.0, "chance": 0.0}
    row = counted = 0
    for video in videos:
        for place in range(len(video.steps)):
            middle = (place + 0.5) * video.seconds
            near = sorted(video.narrations, key=lambda t: abs((t.narration.start + t.narration.end) / 2 - middle))[:BAG]
            truth = [told.step == place for told in near]
            if any(truth):
                counted += 1
                texts = model.text(words.text([told.narration.text for told in near]).ids)
                scores = texts @ shown[row]
                right["model"] += truth[int(scores.argmax())]
                right["weight"] += float(scores.softmax(0)[torch.tensor(truth)].sum())
                right["time"] += truth[0]
                right["chance"] += sum(truth) / BAG
            row += 1
    return {name: value / counted for name, value in right.items()}


SIDE = 32
CONFIG = replace(
    SIZES["tiny"],
    video=S3dConfig((16, 16, 48), SIZES["small"].video.blocks),
    dim=64,
    text_hidden_dim=128,
    train_words=True,
    image_size=SIDE,
    frames=8,
    fps=8 / SECONDS,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--videos", type=int, default=150)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sentences = [f"{step.sentence} now here you see next so and then" for step in STEPS]
    words = WordList.of_texts([*sentences, *CHAT])
    rows: list[dict[str, Any]] = json.loads(args.out.read_text()) if args.out.is_file() else []
    with tempfile.TemporaryDirectory() as name:
        reader = MilNceModel(replace(CONFIG, vocab_size=words.vocab_size))
        folder = Path(name)
        write_videos(folder, make_videos(args.videos), side=SIDE)
        seen = {split: unseen(split, folder, reader) for split in ("dev", "test")}
        for level in args.levels:
            data = read(make_videos(args.videos, narrating=Narrating(level, OFF_TOPIC)), folder, reader, words)

            def row(method: str, seed: int, lr: float, level: float = level, data: dict[str, Any] = data) -> Row:
                about = {"misaligned": level, "method": method, "seed": seed, "lr": lr}
                about |= {"steps": args.steps, "videos": args.videos}
                known = next((row for row in rows if row.items() >= about.items()), None)
                if known is None:
                    began = time.process_time()
                    model = train(data, method, words, seed, args.steps, lr)
                    known = about | {split: figures(model, split, level, seen[split], words) for split in seen}
                    rows.append(known)
                    print(f"{time.process_time() - began:.0f} s", known, flush=True)
                    args.out.write_text(json.dumps(rows, indent=1) + "\n")
                return known

            for method in args.methods:
                tried = [row(method, 0, lr) for lr in args.rates]
                best = max(tried, key=lambda row: row["dev"]["MRR"])["lr"]
                for seed in range(args.seeds):
                    row(method, seed, best)["chosen"] = True
                args.out.write_text(json.dumps(rows, indent=1) + "\n")
    chosen = [row for row in rows if row.get("chosen")]
    if args.picture:
        draw(chosen, args.picture)
    print(table(chosen))


def unseen(split: str, folder: Path, reader: MilNceModel) -> tuple[Tensor, Tensor]:
    """Videos of a split, written and read back: the clip in the middle of every step, and its kind."""
    videos = make_videos(24, split=split)
    write_videos(folder, videos, side=SIDE)
    middles = [(folder / f"{v.name}.mp4", (n + 0.5) * v.seconds - SECONDS / 2) for v in videos for n in range(8)]
    clips = torch.stack([(read_clip(Clip(*where), reader.input_spec) * 255).byte() for where in middles])
    return clips, torch.tensor([kind for video in videos for kind in video.steps])


def figures(
    model: MilNceModel, split: str, level: float, seen: tuple[Tensor, Tensor], words: WordList
) -> dict[str, Any]:
    told = make_videos(24, narrating=Narrating(level, OFF_TOPIC), split=split)
    return {**retrieval(model, *seen, words), "aligned": alignment(model, told, seen[0], words)}


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1))


def table(rows: list[Row]) -> str:
    """Mean and standard deviation over seeds of the chosen rates, on the test videos, as Markdown."""

    def cell(values: list[float], digits: int) -> str:
        mean, spread = mean_and_spread(values)
        return f"{mean:.{digits}f} ± {spread:.{digits}f}"

    lines = ["| misaligned | objective | rate | R@1 | R@5 | median rank | right narration | its weight | by time |"]
    lines.append("|---" * 9 + "|")
    for level in sorted({row["misaligned"] for row in rows}):
        for method in METHODS:
            own = [row["test"] for row in rows if row["misaligned"] == level and row["method"] == method]
            if own:
                rates = {row["lr"] for row in rows if row["misaligned"] == level and row["method"] == method}
                cells = [", ".join(f"{rate:g}" for rate in sorted(rates))]
                cells += [cell([100 * row[name] for row in own], 0) for name in ("R@1", "R@5")]
                cells += [cell([row["median_rank"] for row in own], 1)]
                cells += [cell([100 * row["aligned"][name] for row in own], 0) for name in ("model", "weight")]
                cells += [f"{100 * own[0]['aligned']['time']:.0f}"]
                lines.append(f"| {level:.0%} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
    levels = sorted({row["misaligned"] for row in rows})

    def values(row: Row) -> tuple[float, float, float]:
        return row["R@1"], row["aligned"]["model"], row["aligned"]["weight"]

    for method in (method for method in METHODS if any(row["method"] == method for row in rows)):
        own = {x: [r["test"] for r in rows if r["method"] == method and r["misaligned"] == x] for x in levels}
        for place, axis in enumerate(axes):
            points = {x: mean_and_spread([values(r)[place] for r in found]) for x, found in own.items() if found}
            means, spreads = zip(*points.values(), strict=True)
            axis.errorbar(list(points), means, spreads, label=method, marker="o", capsize=3)
    for name, style in (("time", "k--"), ("chance", "k:")):
        means = [next(r["test"]["aligned"][name] for r in rows if r["misaligned"] == x) for x in levels]
        axes[1].plot(levels, means, style, label="nearest in time" if name == "time" else name)
        if name == "chance":
            axes[2].plot(levels, means, style, label=name)
    axes[0].set(ylabel="R@1, sentence to clip", ylim=(0, 1))
    axes[1].set(ylabel="right narration of the bag found", ylim=(0, 1))
    axes[2].set(ylabel="weight of the right narration", ylim=(0, 1))
    for axis in axes:
        axis.set(xlabel="share of sentences a step early or late")
        axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
