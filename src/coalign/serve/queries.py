"""Queries and answers of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from coalign.serve.gallery import Modality
from coalign.types import Encoding


@dataclass(frozen=True)
class Term:
    """A part of a query: a text, a picture's bytes or a row of the index; `sign` -1 takes it away."""

    kind: Literal["text", "image", "row"]
    value: Any
    sign: int = 1


@dataclass(frozen=True)
class Query:
    """A search: the sum of its terms' unit vectors, each with its sign.

    `least` leaves out answers whose P(match) is smaller; `where` keeps rows with these values of these columns.
    """

    terms: tuple[Term, ...]
    answers: Modality = "image"
    offset: int = 0
    k: int = 10
    least: float = 0.0
    where: tuple[tuple[str, str], ...] = ()
    rerank: bool = False


@dataclass(frozen=True)
class Answer:
    row: int
    score: float
    p_match: float | None


@dataclass(frozen=True)
class Page:
    """Answers from `offset` on, of `total` that there are; `calibrating` says that their P(match) is still to come."""

    answers: list[Answer] = field(default_factory=list[Answer])
    total: int = 0
    calibrating: bool = False


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts that were encoded together, by their place in `whole`."""

    places: dict[str, int]
    whole: Encoding | None

    def vector(self, text: str) -> Tensor:
        """[d] on the CPU."""
        assert self.whole is not None
        return self.whole.vectors["text"][self.places[text]].float().cpu()

    def encoding(self, text: str) -> Encoding:
        """The encoding of one of them."""
        assert self.whole is not None
        one = torch.tensor([self.places[text]], device=self.whole.vectors["text"].device)
        tokens = {name: part.select(one) for name, part in self.whole.tokens.items()}
        return Encoding(tokens, vectors={"text": self.whole.vectors["text"][one]})


@dataclass(frozen=True, eq=False)
class Weighed:
    """A term with its modality and its vector [d]."""

    term: Term
    modality: Modality
    vector: Tensor


@dataclass(frozen=True, eq=False)
class Prepared:
    """A query's terms, and the vector [d] that is compared with the index."""

    terms: Sequence[Weighed]
    vector: Tensor
    texts: Texts
