"""Samples of a retrieval evaluation for a report: sampled queries with their answers, and recall by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from coalign.analysis.runs.report import Answer, Group, Retrieval
from coalign.data.images.pictures import Picture

CUTS = (1, 5, 10)


def group_recalls(ranks: Mapping[str, Tensor], groups: Sequence[str], split: str) -> list[Group]:
    """Recall of every group of items within the whole gallery; `ranks` [N] by direction, `groups` [N]."""
    recalls: list[Group] = []
    for name in sorted(set(groups)):
        rows = torch.tensor([row for row, group in enumerate(groups) if group == name])
        recall = {d: {f"R@{k}": float((r[rows] <= k).float().mean()) for k in CUTS} for d, r in ranks.items()}
        recalls.append(Group(split, name, len(rows), recall))
    return recalls


def sampled_retrievals(
    lists: Mapping[str, tuple[Tensor, Tensor]],
    ranks: Mapping[str, Tensor],
    pictures: Sequence[Picture],
    texts: list[str],
    split: str,
    generator: torch.Generator,
    queries: int = 4,
    answers: int = 6,
) -> list[Retrieval]:
    """Some queries of each direction, drawn at random, with their best answers.

    `lists` holds (scores, items) [N, k] by direction, best first; item i's picture and text belong together.
    """

    def answer(direction: str, item: int, query: int, score: float | None) -> Answer:
        if direction == "text_to_image":
            return Answer(item == query, picture=pictures[item], score=score)
        return Answer(item == query, text=texts[item], score=score)

    samples: list[Retrieval] = []
    for direction, (scores, items) in lists.items():
        by_text = direction == "text_to_image"
        for query in torch.randperm(len(texts), generator=generator)[:queries].tolist():
            best = zip(items[query, :answers].tolist(), scores[query, :answers].tolist(), strict=True)
            samples.append(
                Retrieval(
                    [answer(direction, item, query, score) for item, score in best],
                    text=texts[query] if by_text else "",
                    picture=None if by_text else pictures[query],
                    rank=int(ranks[direction][query]),
                    expected=answer(direction, query, query, None),
                    split=split,
                )
            )
    return samples
