"""Where weights and vocabulary of a recipe come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import nn
from tyro.conf import arg

from coalign.data.words.load import load_tokenizer
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import OptionalFloat, OptionalPath, as_flags, option_group
from coalign.layers.initialise import init_tied
from coalign.registry import create, find, load
from coalign.training.experiment import Experiment

WEIGHTS_HELP = (
    "Weights to start from: a run, the authors' file, or a Hugging Face folder. By default fresh ones of --size."
)


def weights_flag(help: str) -> Any:
    """The flag `--from`, which some recipes called --init or --start."""
    return arg(name="from", aliases=("--init", "--start"), metavar="WEIGHTS", help=help, help_behavior_hint="")


Weights = Annotated[Path | None, weights_flag(WEIGHTS_HELP)]
BERT_HELP = (
    "Whose weights to start from: minilm (all-MiniLM-L6-v2, of the extra of that name); a Hugging Face folder; "
    "Google's checkpoint, such as uncased_L-12_H-768_A-12/bert_model.ckpt; a run of bert-pretrain or of another BERT "
    "task; or scratch, for fresh weights of --size."
)
BertWeights = Annotated[str, weights_flag(BERT_HELP)]


@option_group
@dataclass(frozen=True, kw_only=True)
class Start:
    """Trained weights with their vocabulary, or fresh ones."""

    start: Weights = None
    vocab: OptionalPath = None
    """A vocab.txt or tokenizer.json. By default that of --from, or one learned from the texts."""
    size: str = "tiny"
    """Of fresh weights: a row of the system's table of sizes (`coalign systems`)."""
    words: int = 8000
    """Word pieces of a vocabulary that is learned."""
    dropout: OptionalFloat = None
    """Of fresh weights. By default the size's own; 0 learns faster in short runs."""
    initialiser: Literal["paper", "xavier"] = "paper"
    """How fresh weights start: with the paper's deviation, mostly 0.02, which suits a width of 768; or by their width
    (Xavier-uniform layers, embeddings of 1/√width), with which small sizes learn much sooner."""
    mask_probability: OptionalFloat = None
    """The share of words that fresh weights learn to predict. By default the system's own, mostly 0.15; more of them,
    0.4 say, tie words to places sooner where a training is short (Wettig et al. 2023)."""

    def model(
        self,
        experiment: Experiment,
        system: str,
        texts: Callable[[], Iterable[str]],
        configure: Callable[[Any], Any],
        *flags: str,
    ) -> tuple[Any, Tokenizer]:
        """The system's model and its vocabulary.

        Args:
            experiment: Whose seed draws fresh weights.
            system: Its name.
            texts: What a vocabulary is learned from.
            configure: Makes the configuration of fresh weights from the size's.
            flags: Further flags that were given and set fresh weights.

        Raises:
            InputError: There are no such weights or no such size, or flags of fresh weights are given beside others.
        """
        if self.start is not None:
            given = [*as_flags(replace(self, start=None, vocab=None), Start()), *flags]
            names = ", ".join(word for word in given if word.startswith("--"))
            if names:
                raise InputError(f"{names}: set fresh weights, and {self.start} brings its own; leave out either")
            return loaded(self.start, system, self.vocab)
        tokenizer = vocabulary(experiment, self.vocab, texts, self.words)
        config = with_vocabulary(self.masking(configure(sized(system, self.size)), system), tokenizer)

        def make() -> nn.Module:
            model = create(system, config).model
            return model.apply(init_tied) if self.initialiser == "xavier" else model

        return experiment.seeded(make), tokenizer

    def text_model(
        self, experiment: Experiment, system: str, texts: Callable[[], Iterable[str]], settings: Any, *flags: str
    ) -> tuple[Any, Tokenizer]:
        """The model and its vocabulary, where `dropout` is the text tower's; `settings` replace fields of the size."""

        def configure(size: Any) -> Any:
            return replace(size, text=replace(size.text, **self.dropouts()), **settings)

        return self.model(experiment, system, texts, configure, *flags)

    def masking(self, config: Any, system: str) -> Any:
        """The configuration with the share of words to hide, where one is given.

        Raises:
            InputError: it is no share, or the system hides no words.
        """
        if self.mask_probability is None:
            return config
        if not 0 < self.mask_probability < 1:
            raise InputError(f"--mask-probability {self.mask_probability}: is a share of words, between 0 and 1")
        if not hasattr(config, "mask_probability"):
            raise InputError(f"--mask-probability: {system} learns from no hidden words")
        return replace(config, mask_probability=self.mask_probability)

    def dropouts(self) -> dict[str, float]:
        """The setting of a tower, where one is given."""
        return {} if self.dropout is None else {"dropout": self.dropout}


def loaded(path: Path, system: str | None, vocab: Path | None = None) -> tuple[Any, Tokenizer]:
    """A trained model, in training mode, and its vocabulary.

    Raises:
        InputError: It brings no vocabulary, and none is given.
    """
    opened = load(path, system, vocab=vocab)
    if opened.tokenizer is None:
        raise InputError(f"{path}: brings no vocabulary; give its vocab.txt by --vocab")
    return opened.train().model, opened.tokenizer


def vocabulary(
    experiment: Experiment,
    path: Path | None,
    texts: Callable[[], Iterable[str]],
    pieces: int = 8000,
    learn: Callable[[Iterable[str], int], Tokenizer] | None = None,
) -> Tokenizer:
    """The vocabulary at `path`, or one of about so many pieces that the first process learns from the texts: BERT's
    word pieces, or what `learn` makes."""
    return (
        load_tokenizer(path)
        if path is not None
        else experiment.on_first(lambda: (learn or Tokenizer.train)(texts(), pieces))
    )


def sized(system: str, size: str) -> Any:
    """The configuration in that row of the system's table of sizes."""
    sizes = find(system).sizes
    if size not in sizes:
        raise InputError(f"{system} has no size {size!r}; it has: {', '.join(sizes)}")
    return sizes[size]


def with_vocabulary(config: Any, tokenizer: Tokenizer) -> Any:
    """The configuration with the size and the special pieces of a vocabulary, as far as it has such fields."""
    ids = {
        "mask_id": tokenizer.mask_id,
        "cls_id": tokenizer.cls_id,
        "sep_id": tokenizer.sep_id,
        "special_ids": (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id),
        "vocab_size": tokenizer.vocab_size,
        "start": tokenizer.start,
        "end": tokenizer.end,
        "padding": tokenizer.pad_id,
    }
    fields = {field.name for field in dataclasses.fields(config)}
    beyond = config.markers if "markers" in fields else 0  # rows of the word table that stand for no piece
    changed = {name: value for name, value in ids.items() if name in fields}
    if "text" in fields:
        changed["text"] = replace(config.text, vocab_size=tokenizer.vocab_size + beyond)
    return replace(config, **changed)
