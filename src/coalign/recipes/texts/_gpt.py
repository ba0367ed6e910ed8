"""Shared by GPT's recipes: the model that a fine-tuning starts from, and the paper's rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch

from coalign.data.texts.encoded_texts import EncodedTexts
from coalign.data.words.load import load_tokenizer
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.texts import encode_items, report_problems
from coalign.flags import OptionalPath, option_group
from coalign.models.gpt.heads import GptTask, GptTaskConfig
from coalign.models.gpt.model import Gpt
from coalign.recipes._start import sized, vocabulary, weights_flag
from coalign.recipes.texts._texts import Labelled, fine_tune
from coalign.registry import load
from coalign.training.experiment import Experiment
from coalign.training.options import Epochs, RunOptions
from coalign.trunks.gpt import SIZES, GptConfig

T = TypeVar("T", bound=GptTask)

FROM_HELP = (
    "The model to start from: a run of gpt-pretrain, the folder of the authors' params_*.npy, or a Hugging Face "
    "folder. Without it the model starts from random weights."
)
From = Annotated[Path | None, weights_flag(FROM_HELP)]

PAPER = Epochs(epochs=3.0, batch_size=32, lr=6.25e-5, decay="linear", warmup=0.002, weight_decay=0.01)
"""Section 4.1, for a width of 768."""
FINE_TUNING = replace(PAPER, lr=None)
"""The paper's, whose rate grows as the width falls."""


@option_group
@dataclass(frozen=True, kw_only=True)
class GptStart:
    """The GPT that a fine-tuning starts from."""

    start: From = None
    vocab: OptionalPath = None
    """The vocabulary: a folder with encoder_bpe_40000.json and vocab_40000.bpe, or vocab.json and merges.txt, or a
    tokenizer.json. By default that of --from; without --from one is learned from the texts."""
    vocab_size: int = 8000
    """Pieces of a vocabulary that is learned."""
    size: str = "small"
    """tiny, small or base: the model without --from."""
    max_length: int = 256
    """The most pieces of a sequence, without --from."""
    lm_weight: float = 0.5
    """The weight of the auxiliary next-word loss; 0 leaves it out."""
    dropout: float = 0.1
    """Everywhere that the paper has dropout."""

    def weights(
        self, experiment: Experiment, texts: Callable[[], Iterable[str]]
    ) -> tuple[GptConfig, Tokenizer, Gpt | GptTask | None]:
        """The trunk's configuration, its vocabulary, and trained weights if there are some; a new vocabulary is learned
        from `texts`.

        Raises:
            InputError: `--from` is no GPT, or vocabulary and model do not go together.
        """
        pretrained = None
        if self.start is None:
            config = sized("gpt", self.size)
            tokenizer = vocabulary(experiment, self.vocab, texts, self.vocab_size, Tokenizer.train_byte_pairs)
            config = replace(config, vocab_size=tokenizer.vocab_size, positions=self.max_length)
        else:
            pretrained, tokenizer = pretrained_of(self.start, self.vocab)
            config = pretrained.config if isinstance(pretrained, Gpt) else pretrained.config.gpt
        return replace(config, special=3, dropout=self.dropout), tokenizer, pretrained

    def model(
        self, experiment: Experiment, task: type[T], texts: Callable[[], Iterable[str]], **settings: Any
    ) -> tuple[T, Tokenizer]:
        """A task's model on that trunk, with its vocabulary; `settings` are fields of `GptTaskConfig`."""
        trunk, tokenizer, pretrained = self.weights(experiment, texts)
        config = GptTaskConfig(trunk, lm_weight=self.lm_weight, dropout=self.dropout, **settings)
        model = experiment.seeded(lambda: task(config))
        if pretrained is not None:
            model.start_from(pretrained, torch.Generator().manual_seed(experiment.options.seed))
        return model, tokenizer

    def train(
        self,
        experiment: Experiment,
        model: GptTask,
        tokenizer: Tokenizer,
        encoded: EncodedTexts,
        schedule: Epochs,
        description: dict[str, Any],
    ) -> None:
        """Fine-tunes at the paper's rate for the model's width, where none is given."""
        about = description | {"start": None if self.start is None else str(self.start)}
        lr = scaled_lr(schedule.lr, 6.25e-5, model.config.gpt.dim)
        fine_tune(experiment, model, tokenizer, encoded, schedule, about, lr=lr)

    def train_classifier(
        self, name: str, task: type[GptTask], data: Labelled, schedule: Epochs, options: RunOptions
    ) -> None:
        """Fine-tunes a task's model to the classes or scores of texts, then measures it on the held-out ones."""
        with Experiment(name, options) as experiment:
            model, tokenizer = self.model(experiment, task, data.all_texts, classes=data.outputs)
            encoded = encode_items(model, tokenizer, data.texts, data.labels)
            report_problems(data.rows.problems, len(data.rows), encoded.cut)
            about = {"task": "classification", "texts": len(data.rows.text_columns), "labels": data.names}
            self.train(experiment, model, tokenizer, encoded, schedule, about)
            data.evaluate(experiment, model, tokenizer)


def pretrained_of(path: Path, vocab: Path | None) -> tuple[Gpt | GptTask, Tokenizer]:
    """A trained GPT with its vocabulary, which lies beside it or is named."""
    loaded = load(path, "gpt", vocab=vocab)
    model, tokenizer = loaded.model, loaded.tokenizer
    if not isinstance(model, Gpt | GptTask):
        raise InputError(f"{path}: is a {type(model).__name__}, not a GPT")
    if tokenizer is None:
        try:
            tokenizer = load_tokenizer(path)
        except InputError as error:
            raise InputError(f"{path}: has no vocabulary ({error}); name one (--vocab)") from error
    config = model.config if isinstance(model, Gpt) else model.config.gpt
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"the vocabulary has {tokenizer.vocab_size} pieces, the model {config.vocab_size}: it is another model's"
        )
    return model, tokenizer


def scaled_lr(lr: float | None, of_base: float, dim: int) -> float:
    """The rate asked for, or that of the paper's width in inverse proportion to this one's."""
    return of_base * SIZES["base"].dim / dim if lr is None else lr
