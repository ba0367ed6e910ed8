"""BERT's pre-training from plain text (Devlin et al. 2019, section 3.1 and appendix A)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from tyro.conf import arg

from coalign.data.texts.documents import Documents, open_documents
from coalign.data.texts.pretraining_stream import ExampleStream
from coalign.data.texts.pretraining_text import Plan
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.bert_weights import fresh, starting_weights
from coalign.flags import OptionalName, OptionalPath, Switch
from coalign.models.bert.model import Bert
from coalign.recipes._start import vocabulary, weights_flag
from coalign.recipes.texts._bert import check_length
from coalign.registry import describe
from coalign.tasks.texts.masked_lm import CORPUS_HELP
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule

START_HELP = "Go on from these weights (a Hugging Face folder, Google's checkpoint, a run) instead of fresh ones."


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """BERT from plain text: hidden words and next sentences, with a vocabulary of its own where none is given.

    The corpus is read as a stream, again in every epoch, which hides other words and pairs other sentences.
    """

    paper: ClassVar[Schedule] = Schedule(  # appendix A.2; sequences of 128 pieces for 90 % of the steps, then of 512
        steps=1_000_000, batch_size=256, lr=1e-4, warmup=10_000.0, decay="linear", weight_decay=0.01
    )
    data: Annotated[str, arg(metavar="CORPUS", help=CORPUS_HELP)]
    start: Annotated[OptionalName, weights_flag(START_HELP)] = None
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
    window: int = 1000
    """How many documents are held at a time; second sentences are drawn from among them."""
    schedule: Schedule = Schedule(steps=1000, batch_size=32, lr=1e-3, warmup=0.1, decay="linear", weight_decay=0.01)
    options: RunOptions

    def run(self) -> None:
        with Experiment("bert-pretrain", self.options) as experiment:
            documents = open_documents(self.data, text_column=self.text_column, split=self.split)
            model, tokenizer = self.model(experiment, documents)
            hidden = max(1, round(0.15 * self.max_length))
            plan = Plan(check_length(self.max_length, model), max_predictions=hidden, whole_word=self.whole_word)
            stream = ExampleStream(
                documents,
                tokenizer,
                plan,
                self.schedule.batch_size,
                seed=self.options.seed,
                window=self.window,
                lines=self.sentence_lines,
                rank=experiment.rank,
                world_size=experiment.world_size,
                name=self.data,
            )
            about = {"task": "masked-lm", "whole_word": self.whole_word}
            experiment.fit(model, stream, self.schedule.training(self.options), describe(model) | about, tokenizer)
            experiment.close(f"coalign evaluate {experiment.out} --data HELD_OUT")

    def model(self, experiment: Experiment, documents: Documents) -> tuple[Bert, Tokenizer]:
        """The model and its vocabulary."""
        if self.start is not None:
            model, tokenizer = starting_weights(self.start, self.vocab)
            if not isinstance(model, Bert) or model.words is None or model.next_sentence is None:
                raise InputError(f"{self.start}: lacks the heads of pre-training; give a pre-training checkpoint")
            return model, tokenizer
        learn = partial(Tokenizer.train, lowercase=not self.cased)
        tokenizer = vocabulary(experiment, self.vocab, lambda: documents, self.vocab_size, learn)
        return fresh(self.size, tokenizer, seed=self.options.seed, max_text_length=self.max_length), tokenizer
