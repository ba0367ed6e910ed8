"""How well a BERT predicts hidden words, and whether sentences follow one another (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tyro.conf import arg

from coalign.arguments import OptionalInt, OptionalName, RunFolder, Switch, load_run, run_config
from coalign.data.inputs import device_of
from coalign.data.texts.documents import open_documents
from coalign.data.texts.pretraining_stream import ExampleStream
from coalign.data.texts.pretraining_text import Plan
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.models.bert.model import Bert
from coalign.ops.masking import predicted_rows
from coalign.progress import with_progress
from coalign.types import needed

CORPUS_HELP = (
    "Plain text: a folder of .txt files, each a document; a .txt file with blank lines between documents; a table "
    "(.jsonl, .csv ...) with a column of texts; what datasets saved, or the name of a data set; wiki, the Wikipedia "
    "leads of the extra of that name."
)


@dataclass(frozen=True)
class Evaluate:
    """Hidden words (loss, perplexity, accuracy) and next sentences (accuracy) of held-out documents.

    Words are hidden and sentences paired as in training, by the seed. Documents of few sentences give more random pairs
    than true ones; balanced accuracy is the mean of the accuracies on both, for which guessing gives a half.
    With --unigram-of, a corpus such as the one that was trained on, the same words are also guessed by their frequency
    in it.
    """

    run: RunFolder
    data: Annotated[str, arg(metavar="CORPUS", help=CORPUS_HELP)]
    text_column: OptionalName = None
    """Of a table or data set. By default found by its name."""
    split: OptionalName = None
    """Of data with splits. By default train."""
    sentence_lines: Switch = False
    """Every line of a document is one sentence."""
    unigram_of: OptionalName = None
    """The corpus whose word frequencies are the baseline; of data with splits, their training part."""
    max_batches: OptionalInt = None
    """No more batches than this."""
    batch_size: int = 32
    seed: int = 0

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        loaded = load_run(self.run)
        model, tokenizer = loaded.model, loaded.vocabulary
        if not isinstance(model, Bert) or model.words is None:
            raise InputError(f"{self.run}: a {type(model).__name__} predicts no hidden words")
        length = needed(model.input_spec.text, "texts").max_length
        assert length is not None, "a table of positions has an end"
        whole_word = bool(run_config(self.run).get("whole_word"))
        plan = Plan(length, max_predictions=max(1, round(0.15 * length)), whole_word=whole_word)
        documents = open_documents(self.data, text_column=self.text_column, split=self.split)
        stream = ExampleStream(
            documents, tokenizer, plan, self.batch_size, seed=self.seed, lines=self.sentence_lines, name=self.data
        )
        counts = None
        if self.unigram_of is not None:
            counts = piece_counts(tokenizer, open_documents(self.unigram_of, text_column=self.text_column))
        return measure(model, stream, counts, self.max_batches)


@torch.no_grad()
def measure(model: Bert, stream: ExampleStream, counts: Tensor | None = None, most: int | None = None) -> TaskResult:
    """Loss and accuracy at hidden words, and next sentences where the model predicts them.

    `counts` [V]: how often each piece occurs in training; the baseline is these frequencies, one added to each.
    """
    device, totals = device_of(model), defaultdict[str, float](float)
    unigram = None if counts is None else ((counts + 1) / (counts + 1).sum()).log().to(device)
    for number, batch in enumerate(with_progress(stream, "reading", most, True)):
        if number == most:
            break
        moved = batch.to(device)
        assert moved.text is not None
        states = model.trunk(moved.text.ids, moved.text.types)
        rows = predicted_rows(moved.labels.require("mlm_labels"))
        truth = moved.labels.require("mlm_labels")[rows]
        logits = model.predict(states.values[rows])
        totals["words"] += len(rows)
        totals["loss"] += float(F.cross_entropy(logits, truth, reduction="sum"))
        totals["right"] += int((logits.argmax(1) == truth).sum())
        totals["pairs"] += len(batch)
        if model.next_sentence is not None:
            truly_random = moved.labels.require("next_sentence") == 1
            right = (model.follows(states.first).argmax(1) == 1) == truly_random
            totals["next_right"] += int(right.sum())
            totals["random"] += int(truly_random.sum())
            totals["random_right"] += int((right & truly_random).sum())
        if unigram is not None:
            totals["unigram_loss"] -= float(unigram[truth].sum())
            totals["unigram_right"] += int((truth == unigram.argmax()).sum())
    words, pairs = max(totals["words"], 1), max(totals["pairs"], 1)
    loss = totals["loss"] / words
    metrics = {
        "mlm_loss": loss,
        "mlm_perplexity": math.exp(loss),
        "mlm_accuracy": totals["right"] / words,
    }
    extra: dict[str, float] = {"hidden_words": totals["words"]}
    if model.next_sentence is not None:
        next_right, random = totals["next_right"] - totals["random_right"], totals["random"]
        of_both = next_right / max(pairs - random, 1), totals["random_right"] / max(random, 1)
        metrics |= {"nsp_accuracy": totals["next_right"] / pairs, "nsp_balanced_accuracy": sum(of_both) / 2}
        extra["share_of_random_pairs"] = random / pairs
    if unigram is not None:
        extra |= {"unigram_loss": totals["unigram_loss"] / words, "unigram_accuracy": totals["unigram_right"] / words}
    return TaskResult(metrics, int(totals["pairs"]), extra)


def piece_counts(tokenizer: Tokenizer, documents: Any) -> Tensor:
    """[V] how often each word piece occurs in the documents."""
    counts = torch.zeros(tokenizer.vocab_size)
    for document in documents:
        counts += torch.bincount(torch.tensor(tokenizer.ids(document), dtype=torch.int64), minlength=len(counts))
    return counts
