"""ViLBERT's task heads: those of 12-in-1 (Lu et al., CVPR 2020, section 3.2), and of the first release."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.checkpoints import Rename, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.layers.dropout import Dropout
from coalign.layers.heads import ClassifierHead
from coalign.layers.two_streams import Streams
from coalign.models.vilbert.model import Vilbert
from coalign.models.vilbert.names import vilbert_rules
from coalign.models.vilbert.trunk import VilbertConfig
from coalign.objectives.matching import Matching
from coalign.objectives.soft_answers import SoftAnswers
from coalign.ops.pairing import side_by_side, take_regions, take_texts
from coalign.trunks.bert import init_bert
from coalign.types import FREE, AnswerSpec, Batch, Draws, Encoding, Head, InputSpec, Model, Regions, Targets, Text

Task = Literal["vqa", "gqa", "nlvr2", "entailment", "choice", "grounding"]

TASK_TOKENS = {
    "vqa": 1,
    "genome_qa": 2,
    "visual_dialog": 3,
    "visual7w": 4,
    "vcr_answer": 5,
    "vcr_rationale": 6,
    "retrieval_coco": 7,
    "retrieval_flickr30k": 8,
    "refcoco": 9,
    "refcoco+": 10,
    "refcocog": 11,
    "nlvr2": 12,
    "entailment": 13,
    "guesswhat": 14,
    "gqa": 15,
    "foil": 16,
    "guesswhat_pointing": 17,
    "flickr30k_grounding": 18,
}
"""The number of each data set's task token in the released multi-task model."""


@dataclass(frozen=True)
class VilbertTasksConfig:
    """`task` is what `encode` answers and `losses` trains; `token` the task token of items that bring none.

    * "vqa", "gqa": `labels.label` are scores [B, answers] in [0, 1];
    * "nlvr2": classes [B]; two images an item: regions have 2 B items, all first images, then all second ones;
    * "entailment": classes [B];
    * "choice" (retrieval, VCR): the right one [n] of B / n candidates, which lie together; where images and texts
      differ in number, the fewer ones serve several candidates in a row;
    * "grounding" (referring expressions): scores of all regions, end to end [T], the overlap with the right box.

    `heads` "single" is the first release: one weight-normalised head for answers, and no heads for pairs.
    """

    vilbert: VilbertConfig = field(default_factory=VilbertConfig)
    task: Task = "vqa"
    token: int = TASK_TOKENS["vqa"]
    answers: int = 3129
    gqa_answers: int = 1533
    heads: Literal["multi", "single"] = "multi"


class WeightNormLinear(nn.Module):
    """A linear layer whose matrix is scale · direction / |direction|, one norm for all (Salimans & Kingma 2016)."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        linear = nn.Linear(dim, out_dim)
        self.direction, self.bias = linear.weight, linear.bias
        self.scale = Parameter(linear.weight.detach().norm())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.direction * (self.scale / self.direction.norm()), self.bias)


class WeightNormHead(nn.Module):
    """Linear - ReLU - dropout - Linear, both weight-normalised."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.up, self.down = WeightNormLinear(dim, hidden_dim), WeightNormLinear(hidden_dim, out_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(self.up(x).relu()))


class VilbertTasks(Model):
    """The pre-training model with a head for every kind of task."""

    def __init__(self, config: VilbertTasksConfig) -> None:
        super().__init__()
        c, v = config, config.vilbert
        self.config = config
        self.base = Vilbert(v)
        if c.heads == "multi":
            head = partial(ClassifierHead, hidden_dim=2 * v.co_dim, eps=v.text.eps)
            self.vqa = head(v.co_dim, out_dim=c.answers)
            self.gqa = head(v.co_dim, out_dim=c.gqa_answers)
            self.pair = head(2 * v.co_dim, out_dim=2)
            self.entailment = nn.Linear(v.co_dim, 3)
            self.apply(init_bert)
        else:
            self.vqa = WeightNormHead(v.co_dim, 2 * v.co_dim, c.answers)
        self.choice = nn.Linear(v.co_dim, 1)
        self.region = nn.Linear(v.region_dim, 1)
        self.word = nn.Linear(v.text.dim, 1)
        for part in (self.choice, self.region, self.word):
            part.apply(init_bert)
        self.dropout = Dropout(v.text.dropout)
        self.soft, self.hard = SoftAnswers(), Matching()

    @property
    def input_spec(self) -> InputSpec:
        forms: dict[Task, Targets] = {"vqa": "scores", "gqa": "scores", "choice": "choice", "grounding": "overlaps"}
        return replace(self.base.input_spec, answers=AnswerSpec(forms.get(self.config.task, "class")))

    def read(self, batch: Batch, whole: Tensor | None = None) -> tuple[Streams, Tensor]:
        """States of both streams, and [B, co_dim] the pooled rows joined. `whole`: see `VilbertTrunk.embed_regions`."""
        if batch.text is None or batch.regions is None:
            raise InputError("ViLBERT answers about images: this batch lacks texts or regions")
        tasks = batch.labels.task
        if tasks is None:
            tasks = torch.full_like(batch.text.ids.offsets[1:], self.config.token)
        text, regions, tasks = pair_up(batch.text, batch.regions, tasks, self.config.task == "nlvr2")
        seen = self.base.trunk(text, regions, tasks, whole)
        return seen, self.base.trunk.pool(seen)

    def logits(self, seen: Streams, pooled: Tensor, task: Task) -> Tensor:
        """Logits of the task: [B, classes], [B, 1] of "choice", or [T] of "grounding", -10000 where hidden."""
        if task == "grounding":
            layout = seen.regions.layout
            scores = self.region(self.dropout(seen.regions.values)).squeeze(1)
            return scores if layout.hidden is None else scores - 10000.0 * layout.hidden
        if self.config.heads == "single" and task in ("gqa", "nlvr2", "entailment"):
            raise InputError(f'the first release has no head for "{task}"')
        if task == "nlvr2":
            return self.pair(side_by_side(pooled, 2))
        return self.get_submodule(task)(pooled)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """ "fused" and "fused_regions", pooled "fused" and "logits" of the task.

        The logits of "grounding" leave the whole image out: one a region, end to end.
        """
        del record
        seen, pooled = self.read(batch)
        logits = self.logits(seen, pooled, self.config.task)
        if self.config.task == "grounding":
            logits = logits[seen.regions.layout.position > 0]
        return Encoding({"fused": seen.text, "fused_regions": seen.regions}, {"fused": pooled, "logits": logits})

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The task's cross-entropy with `labels.label`."""
        del draws
        seen = self.encode(batch)
        logits, label, task = seen.pooled["logits"], batch.labels.require("label"), self.config.task
        if task == "grounding":
            size = len(seen.tokens["fused_regions"])
            return {task: region_loss(logits, label, size)}
        if task == "choice":
            return {task: self.hard(logits.view(label.shape[0], -1), label)}
        return {task: (self.soft if task in ("vqa", "gqa") else self.hard)(logits, label)}


def region_loss(logits: Tensor, scores: Tensor, items: int) -> Tensor:
    """Binary cross-entropy of each region with its score, summed over regions, mean over items (task_utils.py)."""
    return F.binary_cross_entropy_with_logits(logits, scores, reduction="sum") / max(items, 1)


def pair_up(text: Text, regions: Regions, tasks: Tensor, two_images: bool) -> tuple[Text, Regions, Tensor]:
    """As many texts as images: a text serves both images of NLVR2; otherwise the fewer ones serve several in a row."""
    texts, images, device = len(text.ids), len(regions.features), text.ids.layout.device
    if two_images:
        if images != 2 * texts:
            raise InputError(f"{texts} texts need {2 * texts} images' regions, got {images}")
        items = torch.arange(texts, device=device).repeat(2)
        return take_texts(text, items), regions, tasks[items]
    if texts == images:
        return text, regions, tasks
    fewer, more = min(texts, images), max(texts, images)
    if fewer == 0 or more % fewer:
        raise InputError(f"{texts} texts and {images} images do not pair up")
    items = torch.arange(fewer, device=device).repeat_interleave(more // fewer)
    if texts < images:
        return take_texts(text, items), regions, tasks[items]
    return text, take_regions(regions, items), tasks


# ------------------------------------------------------------------------------------------------------- checkpoints
def tasks_original(config: VilbertTasksConfig) -> StateMap:
    """The authors' multi-task file, or the fine-tuned ones of the first release."""
    rules: list[Rule] = [
        replace(rule, ours=f"base.{rule.ours}") if isinstance(rule, Rename) else rule for rule in vilbert_rules()
    ]
    names = {"vil_logit": "choice", "vision_logit": "region", "linguisic_logit": "word"}
    if config.heads == "multi":
        names["vil_tri_prediction"] = "entailment"
        heads = {"vil_prediction": "vqa", "vil_prediction_gqa": "gqa", "vil_binary_prediction": "pair"}
        for theirs, ours in heads.items():
            names |= {
                f"{theirs}.logit_fc.{place}": f"{ours}.{part}"
                for place, part in (("0", "up"), ("2", "norm"), ("3", "down"))
            }
    else:
        for place, part in (("0", "up"), ("3", "down")):
            for theirs, ours in (("weight_g", "scale"), ("weight_v", "direction"), ("bias", "bias")):
                rules.append(Rename(f"vil_prediction.main.{place}.{theirs}", f"vqa.{part}.{ours}"))
    return StateMap(rules, [Rename(f"{theirs}.{{p}}", f"{ours}.{{p}}") for theirs, ours in names.items()])


def _head(task: Task, token: str, heads: Literal["multi", "single"] = "multi", answers: int = 3129) -> Head:
    def config(vilbert: VilbertConfig) -> VilbertTasksConfig:
        return VilbertTasksConfig(vilbert, task, TASK_TOKENS[token], answers, heads=heads)

    return Head(VilbertTasks, VilbertTasksConfig, config, {"original": tasks_original})


HEADS = {
    "vqa": _head("vqa", "vqa"),
    "gqa": _head("gqa", "gqa"),
    "nlvr2": _head("nlvr2", "nlvr2"),
    "entailment": _head("entailment", "entailment"),
    "retrieval": _head("choice", "retrieval_coco"),
    "vcr": _head("choice", "vcr_answer"),
    "grounding": _head("grounding", "refcoco+"),
    "vqa_first_release": _head("vqa", "vqa", "single"),
    "choice_first_release": _head("choice", "vcr_answer", "single", 1),
    "grounding_first_release": _head("grounding", "refcoco+", "single", 1),
}
