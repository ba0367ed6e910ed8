"""How well a model predicts the next word of held-out text (GPT's pre-training, equation 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tyro.conf import arg

from coalign.arguments import OptionalName, RunFolder, load_run, say
from coalign.data.core.batches import Batches
from coalign.data.inputs import device_of
from coalign.data.texts.documents import open_documents
from coalign.data.texts.token_file import TokenFile, collate_windows
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.models.gpt.model import Gpt, next_word_labels
from coalign.ops.masking import predicted_rows
from coalign.progress import with_progress

CORPUS_HELP = (
    "The documents: a folder of .txt files, one document each; a .txt file with blank lines between documents; a "
    ".jsonl, .csv, .tsv, .json or .parquet table with a column of texts; a folder that datasets saved; the name of a "
    "Hugging Face data set; or wiki (the extra of that name)."
)
Corpus = Annotated[str, arg(metavar="DOCUMENTS", help=CORPUS_HELP)]


@dataclass(frozen=True)
class Evaluate:
    """Next-word prediction: loss in nats a piece, perplexity, accuracy; beside the loss of the pieces' frequencies.

    Perplexities of different vocabularies cannot be compared; `nats_per_character` can.
    """

    run: RunFolder
    data: Corpus
    text_column: OptionalName = None
    """By default found by its name."""
    split: OptionalName = None
    """Only this split, where the data has several."""
    batch_size: int = 16
    """Windows of text at a time."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        loaded = load_run(self.run)
        model, tokenizer = loaded.model, loaded.vocabulary
        if not isinstance(model, Gpt):
            raise InputError(f"{self.run}: a {type(model).__name__} is no language model")
        documents = list(open_documents(self.data, text_column=self.text_column, split=self.split))
        corpus = corpus_folder(self.run)
        counts = TokenFile.open(corpus).counts(model.config.vocab_size) if corpus.is_dir() else None
        if counts is None:
            say(f"{corpus}: not there, so there is no loss of the pieces' frequencies to compare with")
        return measure(model, tokenizer, documents, counts, self.batch_size)


@torch.no_grad()
def measure(
    model: Gpt, tokenizer: Tokenizer, documents: Sequence[str], counts: Tensor | None = None, batch_size: int = 16
) -> TaskResult:
    """The figures on these documents. `counts` [V] of the training text give the loss of a model that knows nothing
    but how frequent each piece is (one added to each).

    Every piece but a window's first is predicted, from the pieces before it in the window.
    """
    length = model.config.positions
    pieces = [torch.tensor(tokenizer.ids(document)).numpy() for document in documents]
    windows = [piece[at : at + length] for piece in pieces for at in range(0, len(piece), length)]
    windows = [window for window in windows if len(window) >= 2]
    if not windows:
        raise InputError("the documents have no two words in a row")
    frequency = None if counts is None else ((counts + 1).double() / (counts + 1).sum()).log()
    total = {"loss": 0.0, "right": 0.0, "unigram": 0.0}
    predicted, device = 0, device_of(model)
    model.eval()
    loader: Batches[Any] = Batches(windows, collate_windows, batch_size, train=False)
    for batch in with_progress(loader, "reading", len(loader), True):
        labels = next_word_labels(batch)
        rows = predicted_rows(labels)
        true = labels[rows]
        states = model.encode(batch.to(device)).tokens["text"]
        logits = model.trunk.predict(states.values[rows.to(device)]).float().cpu()
        total["loss"] += float(F.cross_entropy(logits, true, reduction="sum"))
        total["right"] += float((logits.argmax(1) == true).sum())
        total["unigram"] += 0.0 if frequency is None else -float(frequency[true].sum())
        predicted += len(true)
    loss = total["loss"] / predicted
    characters = sum(map(len, documents))
    metrics = {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": total["right"] / predicted,
        "nats_per_character": total["loss"] / characters,
    }
    extra = {} if frequency is None else {"unigram_loss": total["unigram"] / predicted}
    return TaskResult(metrics, predicted, extra)


def corpus_folder(run: Path) -> Path:
    """Where a run keeps the ids of the text that it was trained on."""
    return run / "corpus"
