"""What the notebooks share: small scenes with captions, a training loop, pictures, and checks of the exercises."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

import coalign
from coalign.data.loaded import Loaded
from coalign.data.series.collate import Collate
from coalign.data.series.utterances import Utterance
from coalign.data.words.tokenizer import Tokenizer
from coalign.recipes._start import sized, with_vocabulary
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Packed, Regions
from coalign.types.model import Draws, Model
from coalign.worlds.scenes import ATTRIBUTES, Scene, make_scenes
from coalign.worlds.speakers import WorldData, open_world

if os.environ.get("COURSE_OUT"):
    matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams["figure.constrained_layout.use"] = True  # nothing is cut off
ATTRIBUTE_VALUES = [(name, value) for name in ("shape", "colour") for value in ATTRIBUTES[name]]


def steps(wanted: int) -> int:
    """The steps of a training: as many as wanted, or a few where COURSE_STEPS says so (checks are then left out)."""
    return min(wanted, int(os.environ.get("COURSE_STEPS") or wanted))


def check(holds: bool, what: str) -> None:
    """The check of an exercise or of a claim of the text."""
    if os.environ.get("COURSE_STEPS"):
        return
    assert holds, f"not yet: {what}"
    print(f"right: {what}")


def scenes_and_captions(count: int, seed: int = 0, things: tuple[int, int] = (1, 2)) -> tuple[list[Scene], list[str]]:
    """Scenes of coloured shapes, and for each the words for what it shows: "a red square and a blue ring"."""
    scenes = make_scenes(count, seed, things=things)
    return scenes, [" and ".join(f"a {thing.colour} {thing.shape}" for thing in scene.things) for scene in scenes]


def fresh(system: str, captions: Sequence[str], seed: int = 0, **settings: Any) -> Loaded:
    """A tiny model of a system with fresh weights, and a vocabulary of the captions' words."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.train(captions, 200, min_frequency=1)
    config = with_vocabulary(sized(system, "tiny"), tokenizer)
    if isinstance(trunk := getattr(config, "trunk", None), BertConfig):
        config = replace(config, trunk=replace(trunk, vocab_size=tokenizer.vocab_size, dropout=0.0))
    return Loaded(coalign.create(system, config, **settings).model, tokenizer)


def speakers(world: str) -> tuple[WorldData, list[str]]:
    """Spoken utterances of a generated world (`coalign.worlds.speakers`), and the words of those to train on."""
    data = open_world(f"world:{world}")
    return data, [" ".join(item.words) for item in data.splits["train"]]


def series_batches(model: Loaded, items: Sequence[Utterance], count: int, size: int = 32, seed: int = 0) -> list[Batch]:
    """`count` batches of utterances, drawn at random."""
    collate, generator = Collate(model.spec, model.tokenizer), torch.Generator().manual_seed(seed)
    rows = [torch.randperm(len(items), generator=generator)[:size].tolist() for _ in range(count)]
    return [collate([items[i] for i in row]) for row in rows]


def all_of(model: Loaded, items: Sequence[Utterance]) -> Batch:
    """One batch of all these utterances."""
    return Collate(model.spec, model.tokenizer)(items)


def regions_of(scenes: Sequence[Scene], width: int) -> Regions:
    """The true boxes of scenes, with features of a detector that is never wrong: which shape, which colour."""
    features = [torch.zeros(len(scene.things), width) for scene in scenes]
    for rows, scene in zip(features, scenes, strict=True):
        for row, thing in zip(rows, scene.things, strict=True):
            for name in ("shape", "colour"):
                row[ATTRIBUTE_VALUES.index((name, getattr(thing, name)))] = 2.0
    return Regions(Packed.from_items(features), torch.cat([torch.from_numpy(scene.boxes) for scene in scenes]))


def train(
    model: Model, batches: Iterable[Batch], lr: float = 1e-3, only: Sequence[str] | None = None
) -> dict[str, list[float]]:
    """Trains on the batches in turn; returns each loss by name."""
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr)
    generator, history = torch.Generator().manual_seed(0), dict[str, list[float]]()
    for batch in batches:
        with torch.no_grad():
            model.before_step()  # ALBEF's momentum copy follows
        losses: Mapping[str, Tensor] = model.losses(batch, Draws(generator, only=only))
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        with torch.no_grad():
            model.after_step()  # its queue takes in the step's vectors
        for name, loss in losses.items():
            history.setdefault(name, []).append(loss.item())
    model.eval()
    return history


def curves(history: Mapping[str, Sequence[float]], chance: Mapping[str, float] | None = None) -> Any:
    """Losses over the steps, with lines at chance."""
    figure, axes = plt.subplots(figsize=(6, 3))
    for number, (name, values) in enumerate(history.items()):
        axes.plot(values, label=name, color=f"C{number}")
        if chance and name in chance:
            axes.axhline(chance[name], color=f"C{number}", linestyle=":", label=f"{name}, chance")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    return figure


def panels(history: Mapping[str, Sequence[float]], chance: Mapping[str, float] | None = None) -> Any:
    """A panel a loss, each on its own scale, with the mean of the last ten steps over it."""
    figure, axes = plt.subplots(1, len(history), figsize=(2.6 * len(history), 2.4), squeeze=False)
    for cell, (name, values) in zip(axes[0], history.items(), strict=True):
        steady = [sum(values[max(0, n - 9) : n + 1]) / len(values[max(0, n - 9) : n + 1]) for n in range(len(values))]
        cell.plot(values, alpha=0.3)
        cell.plot(steady, color="C0")
        if chance and name in chance:
            cell.axhline(chance[name], color="black", linestyle=":")
        cell.set(title=name, xlabel="its step")
    return figure


def heat(values: Tensor, rows: Sequence[str], columns: Sequence[str], title: str = "") -> Any:
    """A matrix [rows, columns] as colours, such as attention of rows to columns."""
    figure, axes = plt.subplots(figsize=(1.5 + 0.45 * len(columns), 1.2 + 0.35 * len(rows)))
    axes.imshow(values.detach().numpy(), cmap="magma", aspect="auto")
    axes.set_xticks(*((range(len(columns)), columns) if any(columns) else ([], [])), rotation=60, ha="right")
    axes.set_yticks(*((range(len(rows)), rows) if any(rows) else ([], [])))
    axes.set_title(textwrap.fill(title, int(9 + 5 * len(columns))), fontsize=10)  # as wide as its matrix
    return figure


def scatter(groups: Mapping[str, Tensor], marked: Tensor, names: tuple[str, str]) -> Any:
    """A panel a group of vectors [N, D], on their two directions of largest variance; two colours by `marked` [N]."""
    figure, axes = plt.subplots(1, len(groups), figsize=(3.2 * len(groups), 3), squeeze=False)
    for cell, (title, vectors) in zip(axes[0], groups.items(), strict=True):
        centred = vectors.detach() - vectors.detach().mean(0)
        flat = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
        for value, name in enumerate(names):
            cell.scatter(*flat[marked == bool(value)].T.numpy(), s=9, label=name)
        cell.set_title(title)
        cell.set_xticks([]), cell.set_yticks([])
    axes[0][0].legend(fontsize=7)
    return figure


def bars(values: Mapping[str, float], title: str = "", line: float | None = None) -> Any:
    """A bar a name; a dotted line, such as at chance."""
    figure, axes = plt.subplots(figsize=(max(4.5, 1.5 + 0.5 * len(values)), 3))
    axes.bar(range(len(values)), [*values.values()])
    axes.set_xticks(range(len(values)), [*values], rotation=20 if max(map(len, values)) > 4 else 0, fontsize=8)
    if line is not None:
        axes.axhline(line, color="black", linestyle=":")
    axes.set_title(title, fontsize=9)
    return figure


def two_histograms(one: Any, other: Any, names: tuple[str, str], of: str) -> Any:
    """Two distributions [N] and [M] over each other, as shares."""
    figure, axes = plt.subplots(figsize=(5, 2.6))
    for values, name in zip((one, other), names, strict=True):
        axes.hist(values, bins=40, density=True, alpha=0.6, label=name)
    axes.set(xlabel=of, ylabel="density")
    axes.legend()
    return figure


def pictures(rows: Sequence[Sequence[Any]], titles: Sequence[str], inches: float = 2) -> Any:
    """Pictures in rows, with titles above the columns."""
    high, wide = np.asarray(rows[0][0]).shape[:2]
    size = (inches * len(titles), inches * len(rows) * high / wide + 0.2)  # as high as the pictures, and the titles
    figure, axes = plt.subplots(len(rows), len(titles), figsize=size, squeeze=False)
    for line, own in zip(axes, rows, strict=True):
        for place, (cell, picture) in enumerate(zip(line, own, strict=True)):
            cell.imshow(picture)
            cell.axis("off")
            if cell is axes[0][place]:
                cell.set_title(titles[place])
    return figure


def cut(picture: Any, boxes: Any) -> list[Any]:
    """The parts of a picture in boxes [N, 4] of fractions."""
    return [picture.crop(tuple(float(x) * picture.width for x in box)) for box in boxes]


def show(figure: Any, name: str) -> None:
    """The figure in the notebook; run as a script, a file in COURSE_OUT."""
    folder = os.environ.get("COURSE_OUT")
    if folder:
        figure.savefig(Path(folder) / f"{name}.png", dpi=80)
        plt.close(figure)
    else:
        plt.show()
