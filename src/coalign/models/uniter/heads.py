"""UNITER's task models (Chen et al. 2020, section 4.2, appendix A.1): VQA, visual entailment, VCR, NLVR2 in its three
forms, referring expressions, and image-text retrieval."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coalign.checkpoints import Carry, Rename, Split, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.layers.attention import Attention
from coalign.layers.dropout import Dropout
from coalign.layers.heads import ClassifierHead
from coalign.layers.joint import Joint
from coalign.models.uniter.model import UniterConfig, UniterTrunk, input_spec_of
from coalign.models.uniter.names import trunk_names
from coalign.objectives.classification import Classification
from coalign.objectives.ranking import Ranking
from coalign.objectives.soft_answers import SoftAnswers
from coalign.ops.attention import Mask
from coalign.trunks.bert import init_bert
from coalign.types import FREE, AnswerSpec, Batch, Draws, Encoding, Head, InputSpec, Model, Packed, Record, needed

Task = Literal["vqa", "entailment", "vcr", "nlvr2", "nlvr2_paired", "nlvr2_triplet", "grounding", "retrieval"]


@dataclass(frozen=True)
class UniterTaskConfig:
    """`classes` are answers. `text.types` in `base` is 3 for NLVR2 (a segment an image), 4 for VCR (question, regions,
    answer, rationale), whose vocabulary is 81 words larger."""

    base: UniterConfig = field(default_factory=UniterConfig)
    task: Task = "vqa"
    classes: int = 3129
    grounding_loss: Literal["cls", "rank"] = "cls"
    grounding_layers: Literal[1, 2] = 1
    hard_ratio: float = 0.3
    """How often grounding's ranking loss takes the best wrong region; any other wrong one otherwise."""
    candidates: int = 2
    """Retrieval: items in a row that rank one pair, the true one first."""
    margin: float = 0.2


class _Task(Model, ABC):
    """The trunk and a head: `read` gives its scores."""

    def __init__(self, config: UniterTaskConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = UniterTrunk(config.base.region_width, config.base.text)

    @property
    def input_spec(self) -> InputSpec:
        spec, task = input_spec_of(self.config.base), self.config.task
        if task in ("nlvr2", "nlvr2_paired", "nlvr2_triplet"):
            regions = replace(needed(spec.regions, "regions"), segments=(1, 2))
            pairs = "joined" if task == "nlvr2_triplet" else "alternating"
            return replace(spec, regions=regions, answers=AnswerSpec(pairs=pairs))
        if task == "vcr":
            text = replace(needed(spec.text, "texts"), segments=(0, 2, 3))
            return replace(spec, text=text, answers=AnswerSpec("binary"))
        return replace(spec, answers=AnswerSpec("region" if task == "grounding" else "scores"))

    @abstractmethod
    def read(self, joint: Joint) -> Tensor: ...

    def encode(self, batch: Batch, *, record: bool = False, first: bool = False) -> Encoding:
        """States by modality, the pooled [CLS], and the head's "logits"."""
        kept: Record | None = {} if record else None
        joint = self.trunk(batch, record=kept, first=first)
        pooled = {"pooled": self.trunk.pool(joint), "logits": self.read(joint)}
        return Encoding(joint.tokens("regions"), pooled, {}, kept or {})


class UniterClassifier(_Task):
    """VQA and entailment (soft scores), VCR (is this choice right?), NLVR2 from a pair's two [CLS] or a triplet's one.

    NLVR2 paired: items 2i and 2i + 1 are the statement with either image. Triplet: one item with both images' regions.
    `labels.region_types` is then 1 or 2.
    """

    def __init__(self, config: UniterTaskConfig) -> None:
        super().__init__(config)
        text, task = config.base.text, config.task
        if task in ("nlvr2_paired", "nlvr2_triplet"):
            self.head = nn.Linear(text.dim * (2 if task == "nlvr2_paired" else 1), config.classes)
        else:
            act: Literal["relu", "gelu"] = "relu" if task == "vcr" else "gelu"
            self.head = ClassifierHead(text.dim, 2 * text.dim, config.classes, activation=act, eps=text.eps)
        self.head.apply(init_bert)
        self.answers = SoftAnswers() if task in ("vqa", "entailment") else Classification()

    def read(self, joint: Joint) -> Float[Tensor, "b c"]:
        pooled = self.trunk.pool(joint)
        if self.config.task == "nlvr2_paired":
            pooled = pooled.view(len(pooled) // 2, -1)
        return self.head(pooled)

    def encode_pooled(self, batch: Batch) -> Encoding:
        return self.encode(batch, first=True)

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """`labels.label`: soft scores [B, classes] for VQA and entailment, classes [B] for the others."""
        del draws
        return {"answers": self.answers(self.read(self.trunk(batch, first=True)), batch.labels.require("label"))}


class UniterPairedAttention(_Task):
    """NLVR2 by attention between the two images' streams, as released (appendix A.1, "Pair-biattn").

    Each stream looks at the other's; what it sees and itself pass a shared layer, and the rows are pooled by attention.
    """

    def __init__(self, config: UniterTaskConfig) -> None:
        super().__init__(config)
        text = config.base.text
        self.left_to_right = Attention(text.dim, heads=text.heads, dropout=text.dropout)
        self.right_to_left = Attention(text.dim, heads=text.heads, dropout=text.dropout)
        self.mix = nn.Linear(2 * text.dim, text.dim)
        self.dropout = Dropout(text.dropout)
        self.score = nn.Linear(text.dim, 1)
        self.head = nn.Linear(2 * text.dim, config.classes)
        for part in (self.left_to_right, self.right_to_left, self.mix, self.score, self.head):
            part.apply(init_bert)
        self.answers = Classification()

    def read(self, joint: Joint) -> Float[Tensor, "b c"]:
        if len(joint.rows) % 2:
            raise InputError(f"NLVR2 takes pairs of items, these are {len(joint.rows)}")
        items = torch.arange(len(joint.rows), device=joint.rows.values.device)
        left, right = joint.rows.select(items[::2]), joint.rows.select(items[1::2])
        seen_right = self.left_to_right(left.values, Mask.between(left, right), right.values)
        seen_left = self.right_to_left(right.values, Mask.between(right, left), left.values)
        return self.head(torch.cat([self.pool(left, seen_right), self.pool(right, seen_left)], 1))

    def pool(self, own: Packed, seen: Tensor) -> Tensor:
        rows = own.with_values(self.dropout(F.relu(self.mix(torch.cat([seen, own.values], 1)))))
        scores = own.with_values(F.relu(self.score(rows.values)).squeeze(1)).to_padded()
        weights = scores.masked_fill(~own.padding_mask(), -torch.inf).softmax(1)
        return torch.einsum("bl,bld->bd", self.dropout(weights), rows.to_padded())

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """`labels.label`: 1 where the statement is true of the pair, [B/2]."""
        del draws
        return {"answers": self.answers(self.read(self.trunk(batch)), batch.labels.require("label"))}


class UniterGrounding(_Task):
    """Referring expressions: a score for each region, trained by cross-entropy or by ranking above a wrong one."""

    def __init__(self, config: UniterTaskConfig) -> None:
        super().__init__(config)
        text = config.base.text
        two = config.grounding_layers == 2
        self.head = ClassifierHead(text.dim, text.dim, 1, eps=text.eps) if two else nn.Linear(text.dim, 1)
        self.head.apply(init_bert)
        self.classify, self.rank = Classification(), Ranking(config.margin)

    def read(self, joint: Joint) -> Float[Tensor, "b r"]:
        """Scores of regions, -10000 past the last."""
        regions = joint.split()[1]
        scores = regions.with_values(self.head(regions.values).squeeze(1)).to_padded()
        return scores.masked_fill(~regions.padding_mask(), -1e4)

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """`labels.label` [B]: the number of the right region. `choices` may hold the wrong ones, "negative" [B]."""
        joint = self.trunk(batch)
        scores, target = self.read(joint), batch.labels.require("label")
        if self.config.grounding_loss == "cls":
            return {"grounding": self.classify(scores, target)}
        assert joint.other is not None
        drawn = self.draw(scores, target, joint.other.lengths, draws.generator, draws.choices)
        right, wrong = (scores.gather(1, index[:, None]).squeeze(1) for index in (target, drawn["negative"]))
        return {"grounding": self.rank(right, wrong)}

    def draw(
        self,
        scores: Tensor,
        target: Tensor,
        counts: Tensor,
        generator: torch.Generator | None,
        choices: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """A wrong region for each item: the best one, or any. An image of one region ranks it against itself."""
        if "negative" in choices:
            return dict(choices)
        place = torch.arange(scores.shape[1], device=scores.device)
        wrong = (place < counts[:, None]) & (place != target[:, None])
        best = scores.detach().masked_fill(~wrong, -torch.inf).argmax(1)
        chance = torch.rand((2, *scores.shape), generator=generator, device=scores.device)
        other = chance[0].masked_fill(~wrong, -1.0).argmax(1)
        hard = chance[1, :, 0] < self.config.hard_ratio
        return {"negative": torch.where(counts < 2, target, torch.where(hard, best, other))}


class UniterRetrieval(_Task):
    """Image-text retrieval: a score a pair, the true pair ranked above others by a margin of probability."""

    def __init__(self, config: UniterTaskConfig) -> None:
        super().__init__(config)
        self.head = nn.Linear(config.base.text.dim, 1)
        self.head.apply(init_bert)
        self.rank = Ranking(config.margin)

    @torch.no_grad()
    def start_from(self, match_head: nn.Linear) -> None:
        """Starts the score as the pre-trained matching head's row of "match"."""
        self.head.weight.copy_(match_head.weight[1:])
        self.head.bias.copy_(match_head.bias[1:])

    def read(self, joint: Joint) -> Float[Tensor, "b 1"]:
        return self.head(self.trunk.pool(joint))

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The items are groups of `candidates` pairs in a row, the true pair first in each."""
        del draws
        scores = self.read(self.trunk(batch)).view(-1, self.config.candidates)
        return {"retrieval": self.rank(scores[:, :1].expand_as(scores[:, 1:]), scores[:, 1:])}


# ------------------------------------------------------------------------------------------------------- checkpoints
def task_original(config: UniterTaskConfig) -> StateMap:
    """The authors' files of a task."""
    return StateMap(trunk_names(config.base.text), *_head_names(config))


def _head_names(config: UniterTaskConfig) -> list[Rule]:
    def mlp(file: str) -> list[Rule]:
        parts = ((0, "up"), (2, "norm"), (3, "down"))
        return [Rename(f"{file}.{number}.{{p}}", f"head.{ours}.{{p}}") for number, ours in parts]

    task = config.task
    if task in ("vqa", "entailment", "vcr"):
        return mlp("vcr_output" if task == "vcr" else "vqa_output")
    if task == "grounding":
        return mlp("re_output") if config.grounding_layers == 2 else [Rename("re_output.{p}", "head.{p}")]
    if task == "retrieval":
        return [Rename("rank_output.{p}", "head.{p}"), Carry("itm_output.{p}")]  # the first becomes the second's row 1
    rules: list[Rule] = [Rename("nlvr2_output.{p}", "head.{p}")]
    if task == "nlvr2":
        rules += [Rename("fc.0.{p}", "mix.{p}"), Rename("attn_pool.fc.0.{p}", "score.{p}")]
        for file, ours in (("attn1", "left_to_right"), ("attn2", "right_to_left")):
            parts = [f"{ours}.{part}" for part in ("query", "key", "value")]
            rules += [
                Split(f"{file}.in_proj_{kind}", tuple(f"{part}.{kind}" for part in parts))
                for kind in ("weight", "bias")
            ]
            rules.append(Rename(f"{file}.out_proj.{{p}}", f"{ours}.out.{{p}}"))
    return rules


def task_model(config: UniterTaskConfig) -> nn.Module:
    """The model of a task."""
    models = {"nlvr2": UniterPairedAttention, "grounding": UniterGrounding, "retrieval": UniterRetrieval}
    return models.get(config.task, UniterClassifier)(config)


def _head(model: type, task: Task, classes: int = 2, types: int = 2, words: int = 0) -> Head:
    def config(base: UniterConfig) -> UniterTaskConfig:
        text = replace(base.text, types=types, vocab_size=base.text.vocab_size + words)
        return UniterTaskConfig(replace(base, text=text), task, classes)

    return Head(model, UniterTaskConfig, config, {"original": task_original})


HEADS = {
    "vqa": _head(UniterClassifier, "vqa", 3129),
    "entailment": _head(UniterClassifier, "entailment", 3),
    "vcr": _head(UniterClassifier, "vcr", 2, types=4, words=81),
    "nlvr2": _head(UniterPairedAttention, "nlvr2", types=3),
    "nlvr2_paired": _head(UniterClassifier, "nlvr2_paired", types=3),
    "nlvr2_triplet": _head(UniterClassifier, "nlvr2_triplet", types=3),
    "grounding": _head(UniterGrounding, "grounding"),
    "retrieval": _head(UniterRetrieval, "retrieval"),
}
