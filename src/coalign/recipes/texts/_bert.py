"""Shared by the recipes of BERT: where the weights start from, and fine-tuning (Devlin et al. 2019, appendix A.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch

from coalign.checkpoints import read_tensors
from coalign.checkpoints.packages import minilm_folder
from coalign.data.words.load import load_tokenizer
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import OptionalName, OptionalPath, option_group
from coalign.models.bert.heads import BertTask, BertTaskConfig
from coalign.models.bert.model import PRETRAINING_SIZES, Bert, BertPretrainingConfig, transformers
from coalign.models.bert.sizes import of_config, of_weights
from coalign.recipes._start import weights_flag
from coalign.registry import load, told
from coalign.training.experiment import Experiment
from coalign.training.options import Epochs

T = TypeVar("T", bound=BertTask)

START_HELP = (
    "Whose weights to start from: minilm (all-MiniLM-L6-v2, of the extra of that name); a Hugging Face folder; "
    "Google's checkpoint, such as uncased_L-12_H-768_A-12/bert_model.ckpt; a run of bert-pretrain or of another BERT "
    "task; or scratch, for fresh weights of --size."
)
Start = Annotated[str, weights_flag(START_HELP)]


PAPER = Epochs(epochs=3.0, batch_size=32, lr=2e-5, decay="linear", warmup=0.1, weight_decay=0.01)
"""Appendix A.3: batches of 16 or 32, rates of 5e-5, 3e-5 or 2e-5, 2 to 4 epochs."""
FINE_TUNING = Epochs(epochs=3.0, batch_size=32, lr=5e-5, decay="linear", warmup=0.1, weight_decay=0.01)


@option_group
@dataclass(frozen=True, kw_only=True)
class BertStart:
    """The BERT that a fine-tuning starts from."""

    start: Start = "minilm"
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


def starting_weights(
    start: str, vocab: Path | None = None, size: str | None = None, seed: int = 0
) -> tuple[Bert | BertTask, Tokenizer]:
    """The model that `start` names, and its vocabulary.

    Raises:
        InputError: There are no such weights, they are no BERT's, or their vocabulary is not to be found.
    """
    if start == "scratch":
        if vocab is None:
            raise InputError("fresh weights need a vocabulary: --vocab vocab.txt (coalign vocab makes one)")
        tokenizer = load_tokenizer(vocab)
        return fresh(size or "tiny", tokenizer, seed=seed), tokenizer
    path = minilm_folder() if start == "minilm" else Path(start)
    found = path if path.is_dir() else path.parent
    beside = next((found for name in ("tokenizer.json", "vocab.txt") if (found / name).is_file()), None)
    if vocab is None and beside is None:
        raise InputError(f"{start}: no vocab.txt or tokenizer.json beside the weights; name one with --vocab")
    tokenizer = load_tokenizer(vocab or found)
    try:
        model = load(path, "bert").model
    except InputError:
        model = trunk_alone(path, seed)
        if model is None:
            raise
    if not isinstance(model, Bert | BertTask):
        raise InputError(f"{start}: is a {type(model).__name__}, not a BERT")
    if tokenizer.vocab_size > model.config.trunk.vocab_size:
        raise InputError(
            f"the vocabulary has {tokenizer.vocab_size} pieces, the weights of {start} {model.config.trunk.vocab_size}"
        )
    return model, tokenizer


def trunk_alone(path: Path, seed: int = 0) -> Bert | None:
    """The encoder of a Hugging Face file with heads that are none of ours, or without a pooler (masked words alone),
    whose pooler is then fresh; None where it is no BERT's."""
    tensors = read_tensors(path)  # which says so where there is no such file
    config = of_config(told(path)) or of_weights(tensors)
    if config is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Bert(replace(config, objectives=()))
    try:
        model.trunk.load_state_dict(transformers(config.trunk).load(tensors).state)
    except (InputError, RuntimeError):
        return None
    return model


def fresh(size: str, tokenizer: Tokenizer, *, seed: int = 0, **settings: Any) -> Bert:
    """A BERT of that size with fresh weights, for this vocabulary; `settings` replace fields of its configuration."""
    if size not in PRETRAINING_SIZES:
        raise InputError(f"bert has no size {size!r}; it has: {', '.join(PRETRAINING_SIZES)}")
    trunk = replace(PRETRAINING_SIZES[size].trunk, vocab_size=tokenizer.vocab_size)
    ids = {"cls_id": tokenizer.cls_id, "sep_id": tokenizer.sep_id, "mask_id": tokenizer.mask_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Bert(replace(BertPretrainingConfig(trunk), **ids, **settings))


def check_length(wanted: int, source: Bert | BertTask) -> int:
    """The length, if the model has so many positions."""
    if wanted > source.config.trunk.positions:
        raise InputError(f"--max-length {wanted}: the model reads {source.config.trunk.positions} pieces at most")
    return wanted
