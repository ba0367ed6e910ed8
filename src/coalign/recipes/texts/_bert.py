"""Shared by the recipes of BERT: where the weights start from, and fine-tuning (Devlin et al. 2019, appendix A.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.bert_weights import starting_weights
from coalign.flags import OptionalName, OptionalPath, option_group
from coalign.models.bert.heads import BertTask, BertTaskConfig
from coalign.models.bert.model import Bert
from coalign.recipes._start import BertWeights
from coalign.training.experiment import Experiment
from coalign.training.options import Epochs

T = TypeVar("T", bound=BertTask)

PAPER = Epochs(epochs=3.0, batch_size=32, lr=2e-5, decay="linear", warmup=0.1, weight_decay=0.01)
"""Appendix A.3: batches of 16 or 32, rates of 5e-5, 3e-5 or 2e-5, 2 to 4 epochs."""
FINE_TUNING = Epochs(epochs=3.0, batch_size=32, lr=5e-5, decay="linear", warmup=0.1, weight_decay=0.01)


@option_group
@dataclass(frozen=True, kw_only=True)
class BertStart:
    """The BERT that a fine-tuning starts from."""

    start: BertWeights = "minilm"
    vocab: OptionalPath = None
    """A vocab.txt, tokenizer.json or folder with one. By default what lies beside the weights."""
    size: OptionalName = None
    """With --from scratch: tiny, mini, small, medium, base or large."""
    freeze: int = 0
    """Leave the embeddings and this many of the first blocks as they are: faster, and enough for small data."""

    def weights(self, experiment: Experiment) -> tuple[Bert | BertTask, Tokenizer]:
        """The weights to start from, and their vocabulary."""
        return starting_weights(self.start, self.vocab, self.size, experiment.options.seed)

    def model(self, experiment: Experiment, task: type[T], source: Bert | BertTask, **settings: Any) -> T:
        """A task model on the trunk of `source`, with fields of `BertTaskConfig`; the seed draws its new layer."""
        config = BertTaskConfig(source.config.trunk, **settings)
        model = experiment.seeded(lambda: task(config))
        model.start_from(source)
        return model

    @property
    def frozen(self) -> tuple[str, ...]:
        """The embeddings and the first blocks, as prefixes of parameter names."""
        blocks = (f"trunk.encoder.blocks.{i}" for i in range(self.freeze))
        return ("trunk.embedding", *blocks) if self.freeze else ()


def check_length(wanted: int, source: Bert | BertTask) -> int:
    """The length, if the model has so many positions."""
    if wanted > source.config.trunk.positions:
        raise InputError(f"--max-length {wanted}: the model reads {source.config.trunk.positions} pieces at most")
    return wanted
