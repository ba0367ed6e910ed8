"""BERT for tags of words (Devlin et al. 2019, section 5.3: CoNLL 2003)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from coalign.arguments import OptionalInt, OptionalPath
from coalign.data.texts.conll import Scheme, TaggedSentence, in_scheme, read_conll, tag_names
from coalign.data.texts.encoded_texts import encode_tagged
from coalign.data.texts.text_tables import class_of
from coalign.errors import InputError
from coalign.models.bert.heads import BertTagger
from coalign.recipes.texts._bert import FINE_TUNING, PAPER, BertStart, check_length
from coalign.recipes.texts._texts import fine_tune
from coalign.tasks.texts.tagging import Columns, predict_tags, report_parts, score_tags
from coalign.training.experiment import Experiment
from coalign.training.options import Epochs, RunOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """BERT: every word of a sentence to a tag (names, chunks, parts of speech; CoNLL columns).

    The class is predicted at a word's first piece. A sentence longer than --max-length is read in several parts, cut
    between words.
    """

    paper: ClassVar[Epochs] = PAPER
    data: Columns
    dev: OptionalPath = None
    """A file like it that is evaluated on at the end."""
    word_column: OptionalInt = None
    """The column of the words, from 1. By default the first, of a .conllu the second."""
    tag_column: OptionalInt = None
    """The column of the tags; -1 is the last. By default the last, of a .conllu the fourth."""
    scheme: Annotated[Scheme | None, arg(metavar="iob1|iob2|iobes", help_behavior_hint="")] = None
    """Rewrite tags of spans in this scheme before training. By default they stay as the file has them."""
    max_length: int = 128
    """The most word pieces that are read at once, special ones included."""
    start: BertStart = BertStart()
    schedule: Epochs = FINE_TUNING
    options: RunOptions

    def run(self) -> None:
        sentences, dev = self._read(self.data), [] if self.dev is None else self._read(self.dev)
        names = tag_names(sentences)
        if len(names) < 2:
            raise InputError(f"{self.data}: all words have the tag {', '.join(names)}; there is nothing to learn")
        for sentence in dev:
            for tag in sentence.tags or ():
                class_of(tag, names, sentence.where)  # refuses an unknown tag before any training
        with Experiment("bert-tag", self.options) as experiment:
            source, tokenizer = self.start.weights(experiment)
            length = check_length(self.max_length, source)
            model = self.start.model(experiment, BertTagger, source, classes=len(names), max_text_length=length)
            encoded = encode_tagged(tokenizer, sentences, names, length)
            report_parts(encoded.cut)
            columns = {"word": self.word_column, "tag": self.tag_column}
            kind = {"task": "tagging", "labels": names, "columns": columns, "scheme": self.scheme}
            about = kind | {"start": self.start.start}
            fine_tune(experiment, model, tokenizer, encoded, self.schedule, about, frozen=self.start.frozen)
            if dev and experiment.first:
                print(score_tags(dev, predict_tags(model, tokenizer, dev, names, 32, str(self.dev))).table())

    def _read(self, path: Path) -> list[TaggedSentence]:
        sentences = read_conll(path, word_column=self.word_column, tag_column=self.tag_column)
        return in_scheme(sentences, self.scheme)
