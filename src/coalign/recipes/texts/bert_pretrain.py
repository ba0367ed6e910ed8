"""BERT's pre-training from plain text (Devlin et al. 2019, section 3.1 and appendix A)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from tyro.conf import arg

from coalign.arguments import OptionalName, OptionalPath, Switch
from coalign.data.texts.documents import Documents, open_documents
from coalign.data.texts.pretraining_stream import ExampleStream
from coalign.data.texts.pretraining_text import Plan
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.models.bert.model import Bert
from coalign.ops.collectives import rank, world_size
from coalign.recipes.texts._bert import check_length, fresh, say_done, starting_weights
from coalign.registry import describe
from coalign.tasks.texts.masked_lm import CORPUS_HELP
from coalign.training.loop import TrainConfig, fit
from coalign.training.run import Run

START_HELP = "Go on from these weights (a Hugging Face folder, Google's checkpoint, a run) instead of fresh ones."


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """BERT from plain text: hidden words and next sentences, with a vocabulary of its own where none is given.

    The corpus is read as a stream, again in every epoch, which hides other words and pairs other sentences.
    """

    data: Annotated[str, arg(metavar="CORPUS", help=CORPUS_HELP)]
    out: Path
    """The run's folder."""
    start: Annotated[OptionalName, arg(name="from", metavar="WEIGHTS", help=START_HELP)] = None
    size: str = "tiny"
    """tiny (4 million parameters), mini, small, medium, minilm, base or large."""
    vocab: OptionalPath = None
    """A vocab.txt, tokenizer.json or folder with one. By default one is learned from the corpus."""
    vocab_size: int = 8000
    """How many word pieces are learned where no vocabulary is given."""
    cased: Switch = False
    """Keep capitals in a vocabulary that is learned."""
    text_column: OptionalName = None
    """Of a table or data set. By default found by its name."""
    split: OptionalName = None
    """Of data with splits. By default train."""
    sentence_lines: Switch = False
    """Every line of a document is one sentence. By default lines are split into sentences."""
    max_length: int = 128
    """Word pieces of an example, special ones included."""
    whole_word: Switch = False
    """Hide all pieces of a word or none."""
    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    """The peak learning rate (the paper's is 1e-4, for its large models)."""
    warmup: float = 0.1
    """The fraction of the steps in which the rate rises."""
    window: int = 1000
    """How many documents are held at a time; second sentences are drawn from among them."""
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def run(self) -> None:
        """Trains, and says what to type next."""
        documents = open_documents(self.data, text_column=self.text_column, split=self.split)
        model, tokenizer = self._model(documents)
        hidden = max(1, round(0.15 * self.max_length))
        plan = Plan(check_length(self.max_length, model), max_predictions=hidden, whole_word=self.whole_word)
        stream = ExampleStream(
            documents,
            tokenizer,
            plan,
            self.batch_size,
            seed=self.seed,
            window=self.window,
            lines=self.sentence_lines,
            rank=rank(),
            world_size=world_size(),
            name=self.data,
        )
        config = TrainConfig(
            steps=self.steps,
            lr=self.lr,
            weight_decay=0.01,
            schedule="linear",
            warmup=self.warmup,
            precision=self.precision,
            seed=self.seed,
        )
        settings = {"recipe": "bert-pretrain", "task": "masked-lm", "whole_word": self.whole_word}
        result = fit(
            model.to("cuda" if torch.cuda.is_available() else "cpu"),
            stream,
            config,
            Run(self.out, describe(model) | settings),
        )
        say_done(self.out, result)

    def _model(self, documents: Documents) -> tuple[Bert, Tokenizer]:
        """The model and its vocabulary, which is in the run's folder from the start, so that a run can go on."""
        if self.start is not None:
            model, tokenizer = starting_weights(self.start, self.vocab)
            if not isinstance(model, Bert) or model.words is None or model.next_sentence is None:
                raise InputError(f"{self.start}: lacks the heads of pre-training; give a pre-training checkpoint")
        else:
            tokenizer = self._tokenizer(documents)
            model = fresh(self.size, tokenizer, seed=self.seed, max_text_length=self.max_length)
        tokenizer.save(self.out)
        return model, tokenizer

    def _tokenizer(self, documents: Documents) -> Tokenizer:
        stored = self.out / "tokenizer.json"
        if self.vocab is not None or stored.is_file():
            return Tokenizer.load(self.vocab or stored)
        return Tokenizer.train(documents, self.vocab_size, lowercase=not self.cased)
