"""Pre-train GPT: the next word of plain text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal

from coalign.data.core.batches import Batches
from coalign.data.texts.documents import Documents, open_documents
from coalign.data.texts.token_file import TokenFile, collate_windows
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import OptionalName, OptionalPath
from coalign.layers.initialise import init_tied
from coalign.models.gpt.model import Gpt
from coalign.recipes._start import sized, vocabulary
from coalign.recipes.texts._gpt import From, pretrained_of, scaled_lr
from coalign.registry import describe
from coalign.tasks.texts.language_model import Corpus, corpus_folder, measure
from coalign.training.experiment import Experiment
from coalign.training.loop import Callback
from coalign.training.options import RunOptions, Schedule

CORPUS = "corpus.json"
"""The file of a run that has its corpus' fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Trains GPT to predict the next word of plain text, from the beginning or on from trained weights.

    The documents are read once, as a stream, and kept as a file of ids in the run; training reads windows of it without
    padding, so that the text need not fit into memory.
    """

    paper: ClassVar[Schedule] = (
        Schedule(  # section 4.1: 100 epochs of BooksCorpus (about a billion pieces), windows of 512
            steps=3_000_000, batch_size=64, lr=2.5e-4, warmup=2000.0, weight_decay=0.01
        )
    )
    data: Corpus
    text_column: OptionalName = None
    """By default found by its name."""
    split: OptionalName = None
    """Only this split, where the data has several; "train" is preferred."""
    held_out: OptionalName = None
    """Documents of which the first 200 are measured on whenever a checkpoint is written; see metrics.jsonl."""
    start: From = None
    """Go on from this model: a run, the folder of the authors' params_*.npy, or a Hugging Face folder."""
    vocab: OptionalPath = None
    """The vocabulary. By default that of --from; without --from one is learned from the documents."""
    vocab_size: int = 8000
    """Pieces of a vocabulary that is learned."""
    size: str = "small"
    """tiny, small or base: the model without --from."""
    max_length: int = 256
    """The most pieces of a window, without --from."""
    dropout: float = 0.1
    initialiser: Literal["paper", "xavier"] = "paper"
    """How weights start without --from: with the paper's deviation of 0.02, which suits a width of 768; or by their
    width (Xavier-uniform layers, embeddings of 1/√width), with which small ones learn from context much sooner."""
    schedule: Schedule = Schedule(steps=2000, batch_size=64, lr=None, warmup=0.02, weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/gpt-pretrain"))

    def run(self) -> None:
        with Experiment("gpt-pretrain", self.options) as experiment:
            documents = open_documents(self.data, text_column=self.text_column, split=self.split)
            folder, corpus = corpus_folder(experiment.out), self.corpus()
            mark = documents.fingerprint()
            contents = corpus | mark
            model, tokenizer = self.model(experiment, documents, TokenFile.find(folder, contents) is not None)
            lr = scaled_lr(self.schedule.lr, 2.5e-4, model.config.dim)  # 2.5e-4 for a width of 768
            training = self.schedule.training(self.options, lr=lr)
            about = describe(model) | {"task": "language-model", "corpus": corpus}
            experiment.keep(CORPUS, json.dumps(mark))
            experiment.begin(training, about, tokenizer)
            experiment.on_first(lambda: write_corpus(documents, tokenizer, folder, contents))
            file = TokenFile.open(folder)
            windows, size = file.windows(model.config.positions), self.schedule.batch_size
            loader = Batches(windows, collate_windows, size, name=self.data, **experiment.loading)
            experiment.fit(model, loader, training, about, tokenizer, self.callbacks(tokenizer, file))
            tune = f"coalign train gpt-classify --from {experiment.out} --data TABLE --out runs/tuned"
            experiment.close(f"coalign evaluate {experiment.out} --data HELD_OUT", tune)

    def model(self, experiment: Experiment, documents: Documents, written: bool) -> tuple[Gpt, Tokenizer]:
        """The model and its vocabulary: the run's own where it has `written` the documents with it already."""
        if self.start is not None:
            model, tokenizer = pretrained_of(self.start, self.vocab)
            if not isinstance(model, Gpt):
                raise InputError(f"{self.start}: is fine-tuned; pre-training goes on from a language model")
            return model.train(), tokenizer
        own = corpus_folder(experiment.out) if written and self.vocab is None else self.vocab
        tokenizer = vocabulary(experiment, own, lambda: documents, self.vocab_size, Tokenizer.train_byte_pairs)
        config = replace(
            sized("gpt", self.size), vocab_size=tokenizer.vocab_size, positions=self.max_length, dropout=self.dropout
        )

        def make() -> Gpt:
            model = Gpt(config)
            return model.apply(init_tied) if self.initialiser == "xavier" else model

        return experiment.seeded(make), tokenizer

    def corpus(self) -> dict[str, object]:
        """Which corpus and vocabulary; the file of ids is used again as long as this and the corpus are the same."""
        own = self.start is None and self.vocab is None
        vocab: object = self.vocab_size if own else str(self.vocab or self.start)
        return {"data": self.data, "text_column": self.text_column, "split": self.split, "vocabulary": vocab}

    def callbacks(self, tokenizer: Tokenizer, file: TokenFile) -> list[Callback]:
        """Measures on held-out documents at every checkpoint."""
        if self.held_out is None:
            return []
        documents = list(islice(open_documents(self.held_out, text_column=self.text_column), 200))

        def call(model: object, step: int) -> dict[str, float]:
            del step
            assert isinstance(model, Gpt)
            result = measure(model, tokenizer, documents, file.counts(model.config.vocab_size))
            return {f"held_out_{name}": value for name, value in {**result.metrics, **result.extra}.items()}

        return [Callback(self.options.save_every, call)]


def write_corpus(documents: Documents, tokenizer: Tokenizer, folder: Path, corpus: Mapping[str, object]) -> None:
    """Writes the documents as ids, with their vocabulary, where they are not written yet."""
    if TokenFile.find(folder, corpus) is None:
        tokenizer.save(folder)
        TokenFile.write(documents, tokenizer, folder, corpus)
