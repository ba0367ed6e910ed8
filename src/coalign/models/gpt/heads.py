"""GPT fine-tuned (Radford et al. 2018, section 3.3, figure 1): every task is one or several sequences.

* `GptClassifier`: [start] text [extract], or for entailment [start] premise [delimiter] hypothesis [extract];
* `GptSimilarity`: both orders of two texts, their extract states summed;
* `GptMultipleChoice`: [start] context [delimiter] ending [extract] for each ending, one score each, softmax over them.

The head reads the state of the (first) extract token. The next-word loss stays on as an auxiliary objective with the
weight 0.5 (equation 5). `structured` makes the sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from coalign.checkpoints import Rename, StateMap, Tie, Transpose
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.layers.dropout import Dropout
from coalign.models.gpt.model import Gpt, NextWord, last_rows, next_word_labels, text_of, text_spec
from coalign.objectives.classification import Classification
from coalign.trunks.gpt import GptConfig, GptTrunk, init_gpt, joint_rules, transformers_rules
from coalign.types import FREE, Batch, Draws, Encoding, Head, InputSpec, Model, Packed


@dataclass(frozen=True)
class GptTaskConfig:
    """The trunk, with its three special tokens, and what the task adds.

    `classes` 1 gives a score. `read`: the first extract token (the authors), or the last word (Hugging Face).
    """

    gpt: GptConfig = field(default_factory=lambda: GptConfig(special=3))
    classes: int = 2
    choices: int = 2
    lm_weight: float = 0.5
    dropout: float = 0.1
    head_bias: bool = True
    read: Literal["extract", "last"] = "extract"


def part_room(parts: int, config: GptConfig) -> int:
    """How many words each of so many parts of a sequence keeps: positions // parts - 2, as in the authors' code."""
    room = config.positions // max(parts, 1) - 2
    if parts < 1 or room < 1:
        raise InputError(f"{parts} parts do not fit into {config.positions} positions")
    return room


def structured(parts: Sequence[Sequence[int]], config: GptConfig) -> list[int]:
    """[start] part [delimiter] part [extract] of word ids; each part keeps its first `part_room` words."""
    room, ids = part_room(len(parts), config), [config.start]
    for part in parts:
        ids += [*part[:room], config.delimiter]
    return [*ids[:-1], config.extract]


class GptTask(Model):
    """Shared by the three heads: the trunk, one linear layer, and the auxiliary objective."""

    outputs: int | None = None
    """The width of the new layer where it is not the number of classes."""

    def __init__(self, config: GptTaskConfig) -> None:
        super().__init__()
        if config.read == "extract" and config.gpt.special < 3:
            raise InputError("fine-tuning reads the extract token: the trunk needs special=3")
        self.config = config
        self.trunk = GptTrunk(config.gpt)
        self.dropout = Dropout(config.dropout)
        self.head = nn.Linear(config.gpt.dim, self.outputs or config.classes, config.head_bias)
        self.head.apply(init_gpt)
        self.classify, self.score = Classification(), nn.MSELoss()
        self.lm = NextWord(config.gpt)

    @property
    def input_spec(self) -> InputSpec:
        return text_spec(self.config.gpt)

    def sequences(self, parts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The sequences of an item from the word ids of its parts: one text, or two."""
        return [structured(parts, self.config.gpt)]

    def room(self, parts: int) -> int:
        """How many words `sequences` keeps of each of so many parts."""
        return part_room(parts, self.config.gpt)

    @torch.no_grad()
    def start_from(self, pretrained: Gpt | GptTask, generator: torch.Generator | None = None) -> None:
        """Copies a trained trunk. Special tokens that it lacks start from a normal of 0.02; of its positions as many
        are taken as this one has."""
        state = dict(pretrained.trunk.state_dict())
        words, wanted = state["word.weight"], self.trunk.word.weight
        if words.shape[0] < wanted.shape[0]:
            new = torch.empty(wanted.shape[0] - words.shape[0], words.shape[1]).normal_(0.0, 0.02, generator=generator)
            state["word.weight"] = torch.cat([words, new.to(words)])
        state["position.weight"] = state["position.weight"][: self.trunk.position.num_embeddings]
        self.trunk.load_state_dict(state)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States, and the task's "logits"."""
        ids, kept = text_of(batch).ids, dict[str, Tensor]()
        states = self.trunk(ids, record=kept if record else None)
        logits = self.answer(states.values[self.extract_rows(ids)])
        return Encoding({"text": states}, {"logits": logits}, record=kept)

    def extract_rows(self, ids: Packed) -> Tensor:
        """[B] the row that each sequence is read at; its first where it has no extract token, as in the original."""
        layout = ids.layout
        if self.config.read == "last":
            return last_rows(layout)
        place = layout.position.masked_fill(ids.values != self.config.gpt.extract, layout.max_length)
        first = layout.offsets.new_full((len(layout),), layout.max_length)
        first = first.scatter_reduce(0, layout.item, place, "amin")
        return layout.first + first.masked_fill(first == layout.max_length, 0)

    def answer(self, rows: Tensor) -> Tensor:
        """The task's logits from the states read out [B, dim]."""
        return self.head(self.dropout(rows))

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The loss of the "task" with `labels.label`, a class or a score each, and `lm_weight` times the next-word
        loss as "lm"."""
        label, seen = batch.labels.require("label"), self.encode(batch)
        logits, losses = seen.pooled["logits"], dict[str, Tensor]()
        if draws.wants("task"):
            is_score = logits.shape[1] == 1
            losses["task"] = self.score(logits[:, 0], label.to(logits)) if is_score else self.classify(logits, label)
        if self.config.lm_weight and draws.wants("lm"):
            lm = self.lm(self.trunk, seen.tokens["text"], next_word_labels(batch.host))
            losses["lm"] = self.config.lm_weight * lm
        return losses


class GptClassifier(GptTask):
    """One sequence an item to one of `classes`: classification and entailment."""


class GptSimilarity(GptTask):
    """Two texts to one of `classes`, or to a score. The batch holds both orders of a pair one after the other."""

    def sequences(self, parts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Both orders of two texts."""
        if len(parts) != 2:
            raise InputError(f"similarity compares two texts, an item has {len(parts)}")
        return [structured(order, self.config.gpt) for order in (parts, parts[::-1])]

    def answer(self, rows: Tensor) -> Tensor:
        return super().answer(in_groups(rows, 2, "pairs, each in both orders").sum(1))


class GptMultipleChoice(GptTask):
    """Which of `choices` endings goes on best? The batch holds the endings of a question one after the other."""

    outputs = 1

    def sequences(self, parts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The context, which comes first, with each of the endings."""
        context, *endings = parts
        if len(endings) != self.config.choices:
            raise InputError(f"this model chooses among {self.config.choices} endings, an item has {len(endings)}")
        return [structured((context, ending), self.config.gpt) for ending in endings]

    def room(self, parts: int) -> int:
        del parts
        return super().room(2)

    def answer(self, rows: Tensor) -> Tensor:
        groups = in_groups(rows, self.config.choices, f"questions with {self.config.choices} endings each")
        return super().answer(groups).squeeze(-1)


def in_groups(rows: Tensor, size: int, what: str) -> Tensor:
    """[B, dim] as [B / size, size, dim]."""
    if rows.shape[0] % size:
        raise InputError(f"{rows.shape[0]} sequences are no whole number of {what}")
    return rows.unflatten(0, (-1, size))


# ------------------------------------------------------------------------------------------------------- checkpoints
def task_original(config: GptTaskConfig) -> StateMap:
    """The authors' graph as fine-tuned."""
    return StateMap(
        joint_rules(config.gpt, "trunk."),
        Transpose("model/clf/w", "head.weight"),
        Rename("model/clf/b", "head.bias"),
    )


def task_transformers(config: GptTaskConfig, head: str) -> StateMap:
    """Hugging Face's OpenAIGPTForSequenceClassification ("score", no bias) or DoubleHeadsModel."""
    del config
    names: list[Rule] = [*transformers_rules("transformer.", "trunk."), Rename(f"{head}.{{p}}", "head.{p}")]
    if head != "score":
        names.append(Tie("lm_head.weight", "transformer.tokens_embed.weight"))
    return StateMap(names)


def _config(gpt: GptConfig, classes: int = 2) -> GptTaskConfig:
    return GptTaskConfig(replace(gpt, special=3), classes)


def _score_config(gpt: GptConfig) -> GptTaskConfig:
    return _config(gpt, classes=1)


_SCORE = {"original": task_original, "transformers": partial(task_transformers, head="score")}
_SUMMARY = {"original": task_original, "transformers": partial(task_transformers, head="multiple_choice_head.summary")}
HEADS = {
    "classification": Head(GptClassifier, GptTaskConfig, _config, _SCORE),
    "similarity": Head(GptSimilarity, GptTaskConfig, _score_config, {"original": task_original}),
    "multiple_choice": Head(GptMultipleChoice, GptTaskConfig, _config, _SUMMARY),
}
