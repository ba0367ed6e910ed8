"""Shared by the recipes of a BERT beside streams: which BERT, and how it is fine-tuned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from coalign.data.series.utterances import SeriesData
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.bert_weights import starting_weights
from coalign.flags import OptionalName, OptionalPath, option_group
from coalign.models.bert.model import Bert
from coalign.recipes._start import BertWeights
from coalign.recipes.series._series import Series
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule
from coalign.trunks.bert import BertConfig
from coalign.types import Model

T = TypeVar("T", bound=Model)

SCHEDULE = Schedule(steps=1000, batch_size=32, lr=5e-5, warmup=0.1, decay="linear", weight_decay=0.01, clip=1.0)
"""The rate is BERT's; that of all new parts is --new-lr."""


@option_group
@dataclass(frozen=True, kw_only=True)
class SeriesBert:
    """The BERT that reads the words. Two rates: its own, and that of all new parts."""

    start: BertWeights = "minilm"
    vocab: OptionalPath = None
    """A vocab.txt, tokenizer.json or folder with one. By default what lies beside the weights."""
    size: OptionalName = None
    """With --from scratch: tiny, mini, small, medium, base or large."""
    new_lr: float = 5e-4
    """The peak learning rate of everything beside the BERT."""
    max_length: int = 50
    """The most word pieces of an utterance, special ones included."""

    def train(
        self,
        name: str,
        series: Series,
        make: Callable[[SeriesData], Callable[[BertConfig], Model]],
        schedule: Schedule,
        options: RunOptions,
        data: SeriesData | None = None,
    ) -> None:
        """Trains the model that `make` puts on this BERT for the data, which is read here where it is not given."""
        opened = data or series.open()
        with Experiment(name, options) as experiment:
            model, tokenizer = self.model(experiment, make(opened))
            assert schedule.lr is not None, "the recipe's has one"
            rates: dict[str, Any] = {"lr": self.new_lr, "lr_multipliers": {"trunk": schedule.lr / self.new_lr}}
            series.fit(experiment, opened, model, tokenizer, schedule, **rates)

    def model(self, experiment: Experiment, make: Callable[[BertConfig], T]) -> tuple[T, Tokenizer]:
        """The model on a trunk like the one to start from, its new parts drawn by the seed, and the vocabulary."""
        source, tokenizer = starting_weights(self.start, self.vocab, self.size, experiment.options.seed)
        if not isinstance(source, Bert):
            raise InputError(f"{self.start}: is a {type(source).__name__}; give a BERT before fine-tuning")
        trunk = source.config.trunk
        if self.max_length > trunk.positions:
            raise InputError(f"--max-length {self.max_length}: the model reads {trunk.positions} pieces")
        model: Any = experiment.seeded(lambda: make(replace(trunk, context_dim=None)))
        model.start_from(source)
        return model, tokenizer
