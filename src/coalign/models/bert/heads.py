"""BERT fine-tuned (Devlin et al. 2019, section 4, figure 4): one new layer on the pre-trained encoder.

* `BertClassifier`: one text or a pair of texts to a class or a score, from the pooled [CLS] (GLUE);
* `BertTagger`: every piece to a tag (CoNLL 2003);
* `BertSpans`: a question and a paragraph to the answer's first and last piece (SQuAD);
* `BertMultipleChoice`: a context with each of several endings, one score an ending, softmax over them (SWAG).

A pair is one text of two segments; `Text.types` says which piece is of which. The tagger and multiple choice are
not in Google's code; theirs follow Hugging Face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from coalign.checkpoints import Carry, Rename, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.layers.dropout import Dropout
from coalign.layers.heads import Pooler
from coalign.models.bert.model import Bert, BertPretrainingConfig, google, original, transformers
from coalign.objectives.classification import Classification
from coalign.objectives.span_extraction import SpanExtraction
from coalign.ops.masking import Drawn
from coalign.trunks.bert import (
    BertConfig,
    BertTrunk,
    alias_rules,
    dense_rules,
    init_bert,
    tensorflow_rules,
    text_spec,
    trunk_rules,
)
from coalign.trunks.reading import text_of
from coalign.types import FREE, Batch, Draws, Encoding, Head, InputSpec, Model, Packed, Record


@dataclass(frozen=True)
class BertTaskConfig:
    """The trunk and what the task adds. `dropout` stands before the new layer.

    `classes` of the classifier and the tagger; a classifier of one class gives a score. `choices` an item of multiple
    choice. `padding_in_softmax`: whether kept padding takes part in the softmax over positions, as in Google's code;
    without it a span does not depend on the other items of its batch.
    """

    trunk: BertConfig = field(default_factory=BertConfig)
    classes: int = 2
    choices: int = 4
    dropout: float = 0.1
    max_text_length: int = 512
    padding_in_softmax: bool = False


class BertTask(Model):
    """Shared by the four heads: the trunk, where needed its pooler, and one linear layer."""

    has_pooler = True
    outputs: int | None = None
    """The width of the new layer where it is not the number of classes."""

    def __init__(self, config: BertTaskConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = BertTrunk(config.trunk)
        self.pooler = Pooler(config.trunk.dim) if self.has_pooler else None
        self.dropout = Dropout(config.dropout)
        self.head = nn.Linear(config.trunk.dim, self.outputs or config.classes)
        for part in (self.pooler, self.head):
            if part is not None:
                part.apply(init_bert)

    @property
    def input_spec(self) -> InputSpec:
        return text_spec(self.config.trunk, self.config.max_text_length)

    @torch.no_grad()
    def start_from(self, pretrained: Bert | BertTask) -> None:
        """Copies the trunk of a trained model of the same size, and the pooler where both have one."""
        self.trunk.load_state_dict(pretrained.trunk.state_dict())
        if self.pooler is not None and pretrained.pooler is not None:
            self.pooler.load_state_dict(pretrained.pooler.state_dict())

    def read(self, batch: Batch, record: bool) -> tuple[Packed, Record]:
        """States of the batch's texts."""
        text, kept = text_of(batch), dict[str, Tensor]()
        return self.trunk(text.ids, text.types, record=kept if record else None), kept

    def on_pooled(self, states: Packed) -> Tensor:
        """The new layer on the pooled [CLS]."""
        assert self.pooler is not None
        return self.head(self.dropout(self.pooler(states.first)))

    def on_tokens(self, states: Packed) -> Packed:
        """The new layer on every state."""
        return states.with_values(self.head(self.dropout(states.values)))


class BertClassifier(BertTask):
    """A text or a pair to one of `classes`, or to a score where `classes` is 1."""

    def __init__(self, config: BertTaskConfig) -> None:
        super().__init__(config)
        self.classify, self.score = Classification(), nn.MSELoss()

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States, and "logits" [B, classes]."""
        states, kept = self.read(batch, record)
        return Encoding({"text": states}, {"logits": self.on_pooled(states)}, record=kept)

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """Cross-entropy with `labels.label` [B], or squared error with scores [B]."""
        del draws
        logits, label = self.encode(batch).pooled["logits"], batch.labels.require("label")
        if self.config.classes == 1:
            return {"regression": self.score(logits[:, 0], label.to(logits.dtype))}
        return {"classification": self.classify(logits, label)}


class BertTagger(BertTask):
    """Every piece to a tag. Labels stand at the first piece of each word, -100 at the others (section 5.3)."""

    has_pooler = False

    def __init__(self, config: BertTaskConfig) -> None:
        super().__init__(config)
        self.classify = Classification()

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States, and "tags": logits [T, classes]."""
        states, kept = self.read(batch, record)
        return Encoding({"text": states, "tags": self.on_tokens(states)}, record=kept)

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """Cross-entropy with `labels.tags` [T] where they are not -100."""
        del draws
        tags = Drawn({"tags": batch.host.labels.require("tags")}, text_of(batch).ids.layout.device)
        labels = tags["tags"]
        if labels.shape[0] != text_of(batch).ids.layout.total:
            raise InputError(f"{labels.shape[0]} tags for {text_of(batch).ids.layout.total} pieces")
        rows = tags.rows("tags")
        states, _ = self.read(batch, record=False)
        return {"tagging": self.classify(self.head(self.dropout(states.values[rows])), labels[rows])}


class BertSpans(BertTask):
    """The answer's first and last piece. An unanswerable question has both at [CLS] (position 0)."""

    has_pooler = False
    outputs = 2

    def __init__(self, config: BertTaskConfig) -> None:
        super().__init__(config)
        self.spans = SpanExtraction()

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States, and "spans": start and end logits [T, 2]. `ops.spans` makes answers of them."""
        states, kept = self.read(batch, record)
        return Encoding({"text": states, "spans": self.on_tokens(states)}, record=kept)

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """(start CE + end CE) / 2 with positions `labels.start` and `labels.end` [B] within each text."""
        del draws
        logits = self.encode(batch).tokens["spans"]
        start, end = batch.labels.require("start"), batch.labels.require("end")
        return {"spans": self.spans(self.over_positions(logits), start, end)}

    def over_positions(self, logits: Packed) -> Tensor:
        """[B, L, 2]: -inf past an item's end, and at kept padding unless `padding_in_softmax`."""
        padded = logits.to_padded(fill=-torch.inf)
        if self.config.padding_in_softmax:
            return padded
        return padded.masked_fill(~logits.padding_mask()[..., None], -torch.inf)


class BertMultipleChoice(BertTask):
    """Which of `choices` endings goes on best? The batch holds the endings of a question one after the other."""

    outputs = 1

    def __init__(self, config: BertTaskConfig) -> None:
        super().__init__(config)
        self.classify = Classification()

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States of all endings, and "logits" [questions, choices]."""
        states, kept = self.read(batch, record)
        if len(states) % self.config.choices:
            raise InputError(f"{len(states)} texts are no whole number of questions with {self.config.choices} choices")
        logits = self.on_pooled(states).view(-1, self.config.choices)
        return Encoding({"text": states}, {"logits": logits}, record=kept)

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """Cross-entropy over the endings; `labels.label` [questions]."""
        del draws
        return {"choice": self.classify(self.encode(batch).pooled["logits"], batch.labels.require("label"))}


# ------------------------------------------------------------------------------------------------------- checkpoints
def task_transformers(config: BertTaskConfig, task: type[BertTask]) -> StateMap:
    """Hugging Face's BertForSequenceClassification, ...TokenClassification, ...QuestionAnswering, ...MultipleChoice."""
    head = "qa_outputs" if task is BertSpans else "classifier"
    pooler = Rename("bert.pooler.dense.{p}", "pooler.dense.{p}") if task.has_pooler else Carry("bert.pooler.{rest}")
    rules = [
        *alias_rules("bert."),
        *trunk_rules("bert.", "trunk.", config.trunk),
        pooler,
        Rename(f"{head}.{{p}}", "head.{p}"),
    ]
    return StateMap(rules)


def task_original(config: BertTaskConfig, task: type[BertTask]) -> StateMap:
    """Google's run_classifier.py and run_squad.py; the latter keeps a pooler that it does not use."""
    del config  # their names do not depend on sizes
    head = "cls/squad/output" if task is BertSpans else "output"
    pooler: list[Rule] = (
        dense_rules("bert/pooler/dense", "pooler.dense") if task.has_pooler else [Carry("bert/pooler/dense/{p}")]
    )
    rules = [
        *tensorflow_rules("trunk."),
        *pooler,
        Rename(f"{head}_weights", "head.weight"),
        Rename(f"{head}_bias", "head.bias"),
    ]
    return StateMap(rules)


def encoder_of(config: BertPretrainingConfig) -> BertPretrainingConfig:
    """The encoder with its pooler: what sentence encoders such as MiniLM are published as."""
    return replace(config, objectives=())


def classes_of(config: BertTaskConfig, shapes: Mapping[str, Tensor]) -> BertTaskConfig:
    """The configuration with as many classes as a file's new layer has."""
    layers = ("classifier.weight", "output_weights")
    classes = next((shapes[name].shape[0] for name in layers if name in shapes), config.classes)
    return replace(config, classes=classes)


def _head(task: type[BertTask], tensorflow: bool = False, classes: int = 2) -> Head:
    def config(bert: BertPretrainingConfig) -> BertTaskConfig:
        return BertTaskConfig(bert.trunk, classes, max_text_length=bert.max_text_length)

    weights = {"transformers": partial(task_transformers, task=task)}
    if tensorflow:
        weights["original"] = partial(task_original, task=task)
    return Head(task, BertTaskConfig, config, weights, {"original": google}, classes_of)


HEADS = {
    "encoder": Head(
        Bert,
        BertPretrainingConfig,
        encoder_of,
        {"transformers": transformers, "original": original},
        {"original": google},
    ),
    "classification": _head(BertClassifier, tensorflow=True),
    "regression": _head(BertClassifier, classes=1),
    "tagging": _head(BertTagger),
    "spans": _head(BertSpans, tensorflow=True),
    "multiple_choice": _head(BertMultipleChoice),
}
