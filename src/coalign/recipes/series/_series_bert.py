"""What the recipes of a BERT beside streams share: which BERT, and how it is fine-tuned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from coalign.arguments import OptionalName, OptionalPath
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.models.bert.model import Bert
from coalign.recipes.series._series import SeriesRecipe
from coalign.recipes.texts._bert import Start, starting_weights
from coalign.training.loop import TrainConfig
from coalign.trunks.bert import BertConfig

T = TypeVar("T", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class SeriesBertRecipe(SeriesRecipe):
    """Fields of the recipes that read words with a BERT. Two rates: BERT's own, and that of all new parts."""

    start: Start = "minilm"
    vocab: OptionalPath = None
    """A vocab.txt, tokenizer.json or folder with one. By default what lies beside the weights."""
    size: OptionalName = None
    """With --from scratch: tiny, mini, small, medium, base or large."""
    lr: float = 5e-5
    """The peak learning rate of the BERT."""
    new_lr: float = 5e-4
    """The peak learning rate of everything beside it."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """The largest norm of the gradient."""
    max_length: int = 50
    """The most word pieces of an utterance, special ones included."""

    def start_model(self, make: Callable[[BertConfig], T]) -> tuple[T, Tokenizer]:
        """The model on a trunk like the one to start from, its new parts drawn by the seed, and the vocabulary."""
        source, tokenizer = starting_weights(self.start, self.vocab, self.size, self.seed)
        if not isinstance(source, Bert):
            raise InputError(f"{self.start}: is a {type(source).__name__}; give a BERT before fine-tuning")
        if self.max_length > source.config.trunk.positions:
            raise InputError(f"--max-length {self.max_length}: the model reads {source.config.trunk.positions} pieces")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model: Any = make(replace(source.config.trunk, context_dim=None))
        model.start_from(source)
        return model, tokenizer

    def schedule(self) -> TrainConfig:
        """The rates of the paper's fine-tuning: warmed up over a tenth, then down in a line."""
        scale = self.lr / self.new_lr
        return replace(
            super().schedule(), lr=self.new_lr, schedule="linear", warmup=0.1, lr_multipliers={"trunk": scale}
        )
