"""Pre-train GPT: the next word of plain text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from coalign.arguments import OptionalFloat, OptionalName, OptionalPath, run_config
from coalign.data.core.batches import Batches
from coalign.data.texts.documents import open_documents
from coalign.data.texts.token_file import TokenFile, collate_windows
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.models.gpt.model import Gpt
from coalign.recipes.texts._gpt import (
    From,
    fit_with_vocabulary,
    pretrained_of,
    say_done,
    scaled_lr,
    seeded,
    size_of,
    vocabulary,
)
from coalign.registry import describe
from coalign.tasks.texts.language_model import Corpus, corpus_folder, measure
from coalign.training.loop import Callback, TrainConfig
from coalign.training.run import Run


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Trains GPT to predict the next word of plain text, from the beginning or on from trained weights.

    The documents are read once, as a stream, and kept as a file of ids in the run; training reads windows of it without
    padding, so that the text need not fit into memory.
    """

    data: Corpus
    out: Path = Path("runs/gpt-pretrain")
    """The run's folder."""
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
    steps: int = 2000
    batch_size: int = 64
    """Windows a step."""
    lr: OptionalFloat = None
    """The peak learning rate. By default the paper's 2.5e-4 for 768 wide models, more for narrower ones in inverse
    proportion."""
    warmup: float = 0.02
    """The share of the steps in which the rate rises."""
    dropout: float = 0.1
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    save_every: int = 500
    """Steps between checkpoints."""

    def run(self) -> None:
        """Trains, and says what to type next."""
        model, tokenizer, file = self._model_and_corpus()
        loader = Batches(
            file.windows(model.config.positions), collate_windows, self.batch_size, seed=self.seed, name=self.data
        )
        training = TrainConfig(
            steps=self.steps,
            lr=scaled_lr(self.lr, 2.5e-4, model.config.dim),
            weight_decay=0.01,
            schedule="cosine",
            warmup=self.warmup,
            precision=self.precision,
            seed=self.seed,
            save_every=self.save_every,
        )
        description = {"recipe": "gpt-pretrain", "task": "language-model", "corpus": self._about()}
        result = fit_with_vocabulary(
            model,
            tokenizer,
            loader,
            training,
            Run(self.out, describe(model) | description),
            self._callbacks(tokenizer, file),
        )
        say_done(self.out, result)
        print(f"or fine-tune it: coalign train gpt-classify --from {self.out} --data TABLE --out runs/tuned")

    def _model_and_corpus(self) -> tuple[Gpt, Tokenizer, TokenFile]:
        """The model, its vocabulary, and the documents as ids: those that the run has already where it goes on."""
        folder, about = corpus_folder(self.out), self._about()
        if (self.out / "config.json").is_file() and run_config(self.out).get("corpus") != about:
            raise InputError(
                f"{self.out}: this run was started with other data or another vocabulary; give the same again to go "
                "on, or choose another folder"
            )
        pretrained, tokenizer = (None, None) if self.start is None else pretrained_of(self.start, self.vocab)
        file = TokenFile.find(folder, about)
        documents = open_documents(self.data, text_column=self.text_column, split=self.split)
        if tokenizer is None:
            learned = None if file is None else Tokenizer.load(folder)
            tokenizer = learned or vocabulary(self.vocab, documents, self.vocab_size)
        if file is None:
            tokenizer.save(folder)
            file = TokenFile.write(documents, tokenizer, folder, about)
        if isinstance(pretrained, Gpt):
            return pretrained.train(), tokenizer, file
        if pretrained is not None:
            raise InputError(f"{self.start}: is fine-tuned; pre-training goes on from a language model")
        config = replace(
            size_of(self.size),
            vocab_size=tokenizer.vocab_size,
            positions=self.max_length,
            dropout=self.dropout,
        )
        return seeded(lambda: Gpt(config), self.seed), tokenizer, file

    def _about(self) -> dict[str, object]:
        """What corpus and vocabulary are; the file of ids is used again as long as this is the same."""
        own = self.start is None and self.vocab is None
        vocab: object = self.vocab_size if own else str(self.vocab or self.start)
        return {"data": self.data, "text_column": self.text_column, "split": self.split, "vocabulary": vocab}

    def _callbacks(self, tokenizer: Tokenizer, file: TokenFile) -> list[Callback]:
        if self.held_out is None:
            return []
        documents = list(islice(open_documents(self.held_out, text_column=self.text_column), 200))

        def call(model: object, step: int) -> dict[str, float]:
            del step
            assert isinstance(model, Gpt)
            found = measure(model, tokenizer, documents, file.counts(model.config.vocab_size))
            return {f"held_out_{name}": value for name, value in {**found.metrics, **found.extra}.items()}

        return [Callback(self.save_every, call)]
