"""Every word to a tag: names, chunks, parts of speech (CoNLL 2003; BERT, section 5.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import arg

from coalign.arguments import OptionalInt, OptionalPath, RunFolder, Switch, say
from coalign.data.texts.conll import TaggedSentence, in_scheme, is_spans, read_conll
from coalign.data.texts.encoded_texts import encode_tagged
from coalign.data.texts.text_tables import class_of
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.evaluation.texts import check_out, open_run, outputs
from coalign.files import replace_file
from coalign.metrics.texts import entity_metrics, tag_accuracy
from coalign.models.bert.heads import BertTagger
from coalign.types import needed

COLUMNS_HELP = (
    "The sentences in columns, a word a line and an empty line between sentences: CoNLL 2003 and its like (the tag in "
    "the last column), or CoNLL-U (.conllu)."
)
Columns = Annotated[Path, arg(metavar="FILE", help=COLUMNS_HELP)]


@dataclass(frozen=True)
class Evaluate:
    """Tags of words: precision, recall and F1 of whole spans where the tags mark spans; accuracy of words.

    Spans are compared whatever the scheme (IOB1, IOB2, IOBES), as conlleval.pl does.
    """

    run: RunFolder
    data: Columns
    word_column: OptionalInt = None
    """The column of the words, from 1. By default what the run was trained with."""
    tag_column: OptionalInt = None
    """The column of the tags; -1 is the last. By default what the run was trained with. 0: there are none."""
    out: OptionalPath = None
    """Write words, true and predicted tags in columns (.conll, .tsv or .txt), as conlleval.pl reads them."""
    overwrite: Switch = False
    """Replace the file if it exists."""
    batch_size: int = 32
    """Sentences at a time."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        check_out(self.out, self.overwrite, (".conll", ".tsv", ".txt"))
        model, tokenizer, config = open_run(self.run, "tagging")
        names: list[str] = config["labels"]
        tagged = self.tag_column != 0
        stored: dict[str, Any] = config["columns"]
        sentences = read_conll(
            self.data,
            word_column=self.word_column or stored["word"],
            tag_column=(self.tag_column or stored["tag"]) if tagged else None,
            need_tags=tagged,
        )
        sentences = in_scheme(sentences, config["scheme"]) if tagged else sentences
        for sentence in sentences if tagged else ():
            for tag in set(sentence.tags or ()):
                class_of(tag, names, sentence.where)
        predicted = predict_tags(model, tokenizer, sentences, names, self.batch_size, str(self.data))
        if self.out is not None:
            _write(self.out, sentences, predicted, tagged)
        if not tagged:
            return TaskResult({}, len(sentences), {"labels": "none in the data"})
        return score_tags(sentences, predicted)


def predict_tags(
    model: BertTagger,
    tokenizer: Tokenizer,
    sentences: Sequence[TaggedSentence],
    names: Sequence[str],
    batch_size: int,
    name: str,
) -> list[list[str]]:
    """The tag of every word."""
    length = needed(needed(model.input_spec.text, "texts").max_length, "a length")
    encoded = encode_tagged(tokenizer, sentences, None, length)
    report_parts(encoded.cut)
    numbers = outputs(
        model,
        encoded,
        lambda encoding, batch: encoding.tokens["tags"].values[batch.labels.require("first")].argmax(1),
        batch_size,
        name,
    )
    tags: Iterator[int] = iter(torch.cat(numbers).long().tolist())
    return [[names[number] for number in islice(tags, len(sentence.words))] for sentence in sentences]


def report_parts(cuts: int) -> None:
    """Says that sentences were longer than the model reads at once."""
    if cuts:
        say(f"{cuts} times a sentence was longer than the model reads at once, and was read in parts (--max-length)")


def score_tags(sentences: Sequence[TaggedSentence], predicted: Sequence[Sequence[str]]) -> TaskResult:
    """Metrics of predicted tags, and the share of the commonest tag."""
    truth: list[tuple[str, ...]] = [sentence.tags for sentence in sentences if sentence.tags is not None]
    if len(truth) != len(sentences):
        raise InputError("sentences without tags cannot be scored")
    words = Counter(chain.from_iterable(truth))
    metrics = {"accuracy": tag_accuracy(truth, predicted)}
    if is_spans(words):
        metrics = {**entity_metrics(truth, predicted), **metrics}
    extra = {"words": words.total(), "commonest_tag": words.most_common(1)[0][1] / words.total()}
    return TaskResult(metrics, len(sentences), extra)


def most_frequent_tags(train: Iterable[TaggedSentence], sentences: Sequence[TaggedSentence]) -> list[list[str]]:
    """The baseline: the tag that each word has most often in training, of unknown words the commonest of all."""
    counts: dict[str, Counter[str]] = {}
    for sentence in train:
        for word, tag in zip(sentence.words, sentence.tags or (), strict=True):
            counts.setdefault(word, Counter())[tag] += 1
    everything: Counter[str] = Counter()
    for counter in counts.values():
        everything.update(counter)
    overall = everything.most_common(1)[0][0]
    best = {word: counter.most_common(1)[0][0] for word, counter in counts.items()}
    return [[best.get(word, overall) for word in sentence.words] for sentence in sentences]


def _write(out: Path, sentences: Sequence[TaggedSentence], predicted: Sequence[Sequence[str]], tagged: bool) -> None:
    blocks: list[str] = []
    for sentence, guesses in zip(sentences, predicted, strict=True):
        columns = (sentence.words, sentence.tags, guesses) if tagged and sentence.tags else (sentence.words, guesses)
        blocks.append("\n".join(" ".join(fields) for fields in zip(*columns, strict=True)))
    replace_file(out, lambda part: part.write_text("\n\n".join(blocks) + "\n", encoding="utf-8"))
