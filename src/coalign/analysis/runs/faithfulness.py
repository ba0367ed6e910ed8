"""Deletion and insertion curves (Petsiuk, Das and Saenko 2018, section 3.3): does the score hang on what a map shows?

Places are hidden in the order of a map, the strongest first, and the score of text and image falls: the less area under
that curve, the more faithful the map. Or they are shown in that order on an image of which all is hidden, and the more
area the better. A random order is the measure for both. Scores are probabilities where the model matches, and the
product of its vectors where it does not. What a hidden place becomes is said in `analysis.runs.occlusion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coalign.analysis.runs.alignment import phrase, read_alignment
from coalign.analysis.runs.occlusion import hide
from coalign.analysis.runs.scores import pair_scores
from coalign.errors import InputError
from coalign.types import Batch, Model

STEPS = 10


@dataclass(frozen=True, eq=False)
class Curves:
    """Scores [B, steps + 1] as places are hidden, or shown, in the order of the map and in a random one."""

    deletion: Tensor
    insertion: Tensor
    random_deletion: Tensor
    random_insertion: Tensor

    def areas(self) -> dict[str, Tensor]:
        """[B] the area under each curve, by the trapezoidal rule over the share of places."""
        return {name: torch.trapezoid(curve, dim=1) / (curve.shape[1] - 1) for name, curve in vars(self).items()}

    @staticmethod
    def joined(parts: Sequence[Curves]) -> Curves:
        return Curves(*(torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])))


def curves(
    model: Model, batch: Batch, maps: Sequence[Tensor], *, steps: int = STEPS, generator: torch.Generator | None = None
) -> Curves:
    """Curves of each pair of `batch` by its map [*places]: a map of patches [rows, columns], of regions or moments.

    Raises:
        InputError: there are not as many maps as pairs, or the model has no score.
    """
    if len(maps) != len(batch):
        raise InputError(f"{len(maps)} maps do not go with {len(batch)} pairs")
    shapes = [tuple(own.shape) for own in maps]
    ranks = [_ranks(own.flatten().float()) for own in maps]
    chance = [torch.randperm(len(own), generator=generator) for own in ranks]
    measured: list[Tensor] = []
    for order in (ranks, chance):
        for inserted in (False, True):
            scores: list[Tensor] = []
            for step in range(steps + 1):
                first = [own < round(len(own) * step / steps) for own in order]
                shown = hide(batch, shapes, [~own if inserted else own for own in first])
                scores.append(pair_scores(model, shown, probability=True).cpu())
            measured.append(torch.stack(scores, 1))
    return Curves(*measured)


def faithfulness(
    model: Model,
    batch: Batch,
    words: Sequence[Sequence[str]],
    method: str = "auto",
    *,
    layer: int | None = None,
    head: int | None = None,
    steps: int = STEPS,
    generator: torch.Generator | None = None,
) -> Curves:
    """Curves of the maps of whole texts, the mean of their words', that the model gives by `method`."""
    maps = read_alignment(model, batch, words, method, layer=layer, head=head)
    return curves(model, batch, [phrase(alignment) for alignment in maps], steps=steps, generator=generator)


def _ranks(values: Tensor) -> Tensor:
    """[P] the place of each value by size, 0 for the greatest; of equal values the first comes first."""
    ranks = torch.empty(len(values), dtype=torch.int64)
    ranks[values.argsort(descending=True, stable=True)] = torch.arange(len(values))
    return ranks
