"""Visual words: the tree that turns features of clips into them, and which real clips each of them stands for.

A folder holds tree.safetensors ("level0", "level1" ...: [branching^level, branching, width]) and words.json, which says
of each word that occurs how many clips it has and which are nearest to its centre.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from coalign.data.videos.clip_features import ClipFeatures
from coalign.errors import InputError
from coalign.files import read_json, reader, regular, replace_file
from coalign.ops.kmeans import Fewest, descend, leaves

WORDS, TREE = "words.json", "tree.safetensors"


@dataclass(frozen=True)
class Example:
    """A clip of a video, from `start` to `end` in seconds, so far from its word's centre."""

    video: str
    start: float
    end: float
    distance: float


@dataclass(frozen=True)
class VisualWordBook:
    """`counts` and `examples`, the nearest first, of the words that occur; `about`: how the tree was grown."""

    tree: tuple[Tensor, ...]
    counts: Mapping[int, int]
    examples: Mapping[int, Sequence[Example]]
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def branching(self) -> int:
        return self.tree[0].shape[1]

    @property
    def width(self) -> int:
        return self.tree[0].shape[2]

    @property
    def total(self) -> int:
        """Words there are, those that never occur included."""
        return self.branching ** len(self.tree)

    @classmethod
    def of(
        cls, features: ClipFeatures, tree: Sequence[Tensor], keep: int = 8, about: Mapping[str, Any] | None = None
    ) -> VisualWordBook:
        """Reads all features once; memory holds `keep` clips a word."""
        nearest, counts = Fewest(keep), torch.zeros(0, dtype=torch.int64)
        first = 0
        for piece, word, distance in assigned(features, tree):
            nearest.add(torch.arange(first, first + len(piece)), distance, word)
            first += len(piece)
            new = torch.bincount(word, minlength=len(counts))
            counts = new + torch.nn.functional.pad(counts, (0, len(new) - len(counts)))
        examples: dict[int, list[Example]] = {}
        order = nearest.keys.argsort(stable=True)
        for row, word, distance in zip(
            nearest.rows[order].tolist(), nearest.groups[order].tolist(), nearest.keys[order].tolist(), strict=True
        ):
            name, number = features.owner(row)
            start, end = features.read(name)[1][number].tolist()
            examples.setdefault(word, []).append(Example(name, start, end, distance))
        occurring = {word: int(counts[word]) for word in counts.nonzero().squeeze(1).tolist()}
        return cls(tuple(tree), occurring, examples, dict(about or {}))

    def save(self, folder: str | Path) -> None:
        """Writes the folder's two files."""
        folder = Path(folder)
        tree = {f"level{level}": children.contiguous() for level, children in enumerate(self.tree)}
        said = {
            **self.about,
            "branching": self.branching,
            "levels": len(self.tree),
            "width": self.width,
            "words": {
                str(word): {"clips": count, "nearest": [asdict(example) for example in self.examples.get(word, ())]}
                for word, count in sorted(self.counts.items())
            },
        }
        replace_file(folder / TREE, lambda part: save_file(tree, part))
        replace_file(folder / WORDS, lambda part: part.write_text(json.dumps(said, indent=1) + "\n", "utf-8"))

    @classmethod
    @reader
    def load(cls, folder: str | Path) -> VisualWordBook:
        """Reads a folder. Errors: `InputError` where it holds no visual words, or damaged ones."""
        folder = Path(folder)
        if not (folder / WORDS).is_file() or not (folder / TREE).is_file():
            raise InputError(f"{folder}: no visual words here; coalign train videobert-words makes them")
        try:
            said: Any = read_json(folder / WORDS)
            levels = load_file(regular(folder / TREE))
            tree = tuple(levels[f"level{level}"] for level in range(len(levels)))
            if not tree or any(level.dim() != 3 or level.shape[1:] != tree[0].shape[1:] for level in tree):
                raise ValueError("its tree has levels of several forms")
            counts = {int(word): int(entry["clips"]) for word, entry in said.pop("words").items()}
            examples = read_examples(folder / WORDS)
        except Exception as error:  # a damaged file breaks in safetensors, in JSON or in what it lacks
            raise InputError(f"{folder}: damaged visual words ({error}); make them anew") from None
        return cls(tree, counts, examples, said)


@reader
def read_examples(file: Path) -> dict[int, list[Example]]:
    """The clips nearest to each word's centre, from a words.json (a run keeps one)."""
    try:
        said: Any = read_json(file)
        return {int(word): [Example(**one) for one in entry["nearest"]] for word, entry in said["words"].items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file}: not the description of visual words ({error})") from None


def assigned(features: ClipFeatures, tree: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pieces of features [n, D] with the word [n] of each and the distance [n] from its centre."""
    centres, branching = tree[-1].flatten(0, 1), tree[0].shape[1]
    for piece in features.pieces():
        word = leaves(descend(piece, tree), branching)
        yield piece, word, (piece - centres[word]).norm(dim=1)
