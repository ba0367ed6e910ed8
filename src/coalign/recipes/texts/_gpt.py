"""What the GPT recipes share: where a model starts from, the paper's settings, and a fine-tuning from start to end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from torch import nn
from tyro.conf import arg

from coalign.arguments import OptionalFloat, OptionalInt, OptionalPath
from coalign.data.texts.encoded_texts import EncodedTexts
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.models.gpt.heads import GptTask, GptTaskConfig
from coalign.models.gpt.model import Gpt
from coalign.registry import describe, load
from coalign.training.loop import Callback, FitResult, Loader, TrainConfig, fit
from coalign.training.run import Run
from coalign.trunks.gpt import SIZES, GptConfig

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T", bound=GptTask)

From = Annotated[Path | None, arg(name="from", metavar="PATH", help_behavior_hint="")]

_BASE_DIM = SIZES["base"].dim


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """The fields that all fine-tunings have. Rates and lengths are the paper's (section 4.1) where it gives them."""

    out: Path
    """The run's folder."""
    start: From = None
    """The pre-trained model: a run of gpt-pretrain, the folder of the authors' params_*.npy, or a Hugging Face folder.
    Without it the model starts from random weights."""
    vocab: OptionalPath = None
    """The vocabulary: a folder with encoder_bpe_40000.json and vocab_40000.bpe, or vocab.json and merges.txt, or a
    tokenizer.json. By default that of --from; without --from one is learned from the texts."""
    vocab_size: int = 8000
    """Pieces of a vocabulary that is learned."""
    size: str = "small"
    """tiny, small or base: the model without --from."""
    max_length: int = 256
    """The most pieces of a sequence, without --from."""
    epochs: float = 3
    """How often the data is seen."""
    steps: OptionalInt = None
    """Steps instead of epochs."""
    batch_size: int = 32
    lr: OptionalFloat = None
    """The peak learning rate. By default the paper's 6.25e-5 for 768 wide models, more for narrower ones in inverse
    proportion."""
    warmup: float = 0.002
    """The share of the steps in which the rate rises; the paper's, who has thousands of steps."""
    lm_weight: float = 0.5
    """The weight of the auxiliary next-word loss; 0 leaves it out."""
    dropout: float = 0.1
    """Everywhere that the paper has dropout."""
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def starting(self, texts: Iterable[str]) -> Start:
        """The trunk and the vocabulary that the fields name; a new vocabulary is learned from `texts`.

        Raises:
            InputError: `--from` is no GPT, or vocabulary and model do not go together.
        """
        if self.start is None:
            tokenizer = vocabulary(self.vocab, texts, self.vocab_size)
            config = replace(size_of(self.size), vocab_size=tokenizer.vocab_size, positions=self.max_length)
            return Start(replace(config, special=3, dropout=self.dropout), tokenizer, None)
        pretrained, tokenizer = pretrained_of(self.start, self.vocab)
        config = pretrained.config if isinstance(pretrained, Gpt) else pretrained.config.gpt
        return Start(replace(config, special=3, dropout=self.dropout), tokenizer, pretrained)

    def model(self, task: type[T], start: Start, **settings: Any) -> T:
        """A task's model on that trunk; `settings` are fields of `GptTaskConfig`."""
        config = GptTaskConfig(start.config, lm_weight=self.lm_weight, dropout=self.dropout, **settings)
        model = seeded(lambda: task(config), self.seed)
        if start.pretrained is not None:
            model.start_from(start.pretrained, torch.Generator().manual_seed(self.seed))
        return model

    def train(
        self, model: GptTask, tokenizer: Tokenizer, encoded: EncodedTexts, description: Mapping[str, Any]
    ) -> None:
        """Fine-tunes; `description` goes into the run's config.json, for the evaluation."""
        loader = encoded.batches(min(self.batch_size, len(encoded)), seed=self.seed, name="the training data")
        training = TrainConfig(
            steps=self.steps or max(1, math.ceil(self.epochs * len(loader))),
            lr=scaled_lr(self.lr, 6.25e-5, model.config.gpt.dim),
            weight_decay=0.01,
            schedule="linear",
            warmup=self.warmup,
            precision=self.precision,
            seed=self.seed,
        )
        start = {"start": None if self.start is None else str(self.start)}
        result = fit_with_vocabulary(
            model, tokenizer, loader, training, Run(self.out, describe(model) | dict(description) | start)
        )
        say_done(self.out, result)


@dataclass(frozen=True)
class Start:
    """Where a fine-tuning starts: the trunk's configuration, its vocabulary, and weights if there are some."""

    config: GptConfig
    tokenizer: Tokenizer
    pretrained: Gpt | GptTask | None


def pretrained_of(path: Path, vocab: Path | None) -> tuple[Gpt | GptTask, Tokenizer]:
    """A trained GPT with its vocabulary, which lies beside it or is named."""
    loaded = load(path, "gpt", vocab=vocab)
    model, tokenizer = loaded.model, loaded.tokenizer
    if not isinstance(model, Gpt | GptTask):
        raise InputError(f"{path}: is a {type(model).__name__}, not a GPT")
    if tokenizer is None:
        try:
            tokenizer = Tokenizer.load(path)
        except InputError as error:
            raise InputError(f"{path}: has no vocabulary ({error}); name one (--vocab)") from error
    config = model.config if isinstance(model, Gpt) else model.config.gpt
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"the vocabulary has {tokenizer.vocab_size} pieces, the model {config.vocab_size}: it is another model's"
        )
    return model, tokenizer


def vocabulary(path: Path | None, texts: Iterable[str], size: int) -> Tokenizer:
    """The vocabulary at `path`, or one of about `size` pieces learned from the texts."""
    return Tokenizer.train_byte_pairs(texts, size) if path is None else Tokenizer.load(path)


def size_of(name: str) -> GptConfig:
    """A row of GPT's table of sizes."""
    if name not in SIZES:
        raise InputError(f"--size {name}: GPT has the sizes {', '.join(SIZES)}")
    return SIZES[name]


def scaled_lr(lr: float | None, of_base: float, dim: int) -> float:
    """The rate asked for, or that of the paper's width in inverse proportion to this one's."""
    return of_base * _BASE_DIM / dim if lr is None else lr


def seeded(make: Callable[[], M], seed: int) -> M:
    """What `make` makes with torch's generator seeded, which is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def fit_with_vocabulary(
    model: nn.Module,
    tokenizer: Tokenizer,
    loader: Loader,
    training: TrainConfig,
    run: Run,
    callbacks: Sequence[Callback] = (),
) -> FitResult:
    """`fit`, on a GPU if there is one, with the vocabulary in the run from the first checkpoint on."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    def save(_: nn.Module, step: int) -> None:
        if step <= training.save_every:
            tokenizer.save(run.folder)

    return fit(model, loader, training, run, [Callback(training.save_every, save), *callbacks])


def say_done(out: Path, result: FitResult) -> None:
    """What to type next."""
    losses = ", ".join(f"{name} {value:.3f}" for name, value in result.losses.items())
    done = f"{out}: {result.steps} steps{f' ({losses})' if losses else ''}"
    print(f"{done}; next: coalign evaluate {out} --data HELD_OUT")
