"""Recorded cases of ChenRocks/UNITER, and the manifest of its files."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.layers.joint import Joint
from coalign.models.uniter.heads import (
    Task,
    UniterClassifier,
    UniterGrounding,
    UniterPairedAttention,
    UniterRetrieval,
    UniterTaskConfig,
    task_model,
    task_original,
)
from coalign.models.uniter.model import Uniter, UniterConfig, UniterTrunk, likeliest_class
from coalign.models.uniter.names import original
from coalign.objectives.classification import Classification
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.matching import Matching
from coalign.objectives.ranking import Ranking
from coalign.parity.bert import trunk_of
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.types import Batch, Labels, Packed, Regions, Text

Produced = dict[str, Tensor | Packed]


def config_of(described: Described) -> UniterConfig:
    """Sizes that tasks change (words, segments) and those of heads come from the weights."""
    c = described.config
    classes = "region_classifier.net.3.weight"
    return UniterConfig(
        trunk_of(described, activation=c.get("hidden_act", "gelu")),
        region_width=described.shape("uniter.img_embeddings.img_linear.weight")[1],
        classes=described.shape(classes)[0] if classes in described.weights else 2,
    )


def build(described: Described) -> tuple[nn.Module, StateMap]:
    base, c, weights = config_of(described), described.config, described.weights
    if "cls.predictions.bias" in weights:
        return Uniter(base), original(base)
    task, last = task_of(described)
    config = UniterTaskConfig(
        base,
        task,
        classes=described.shape(last)[0],
        grounding_loss=c.get("re_loss", "cls"),
        grounding_layers=2 if "re_output.3.weight" in weights else 1,
        hard_ratio=1.0,  # the recorded draws: always the best wrong region
    )
    return task_model(config), task_original(config)


def task_of(described: Described) -> tuple[Task, str]:
    """The task by the head's tensors, and the name of the head's last matrix."""
    weights = described.weights
    if "nlvr2_output.weight" in weights:
        width, dim = described.shape("nlvr2_output.weight")[1], described.config["hidden_size"]
        paired: Task = "nlvr2_paired" if width == 2 * dim else "nlvr2_triplet"
        return ("nlvr2" if "attn1.in_proj_weight" in weights else paired), "nlvr2_output.weight"
    heads: dict[str, Task] = {
        "vcr_output.3.weight": "vcr",
        "vqa_output.3.weight": "entailment" if described.task == "ve" else "vqa",
        "re_output.weight": "grounding",
        "re_output.3.weight": "grounding",
        "rank_output.weight": "retrieval",
    }
    for name, task in heads.items():
        if name in weights:
            return task, name
    raise InputError(f"{described.path}: no known UNITER head among the weights")


class Recorded:
    """The inputs of one recorded pass and the model's states of them.

    UNITER's recorded order is compact: an item's words, its regions, then padding, which `gather_index` fills with
    whatever rows. With `keep` these are computed too, and `states` holds them as hidden rows; `joint` never does.
    """

    def __init__(self, case: Case, trunk: UniterTrunk, keep: bool, prefix: str = "") -> None:
        self.given = {n.removeprefix(prefix): t for n, t in case.inputs.items() if n.startswith(prefix)}
        given, self.keep = self.given, keep
        self.ids = given["input_ids"].expand(len(given["gather_index"]), -1)
        self.mask, index = given["attn_masks"].bool(), given["gather_index"]
        self.width = self.ids.shape[1]
        image = index - self.width
        self.words = torch.zeros(self.ids.shape, dtype=torch.bool)
        self.boxes = torch.zeros(given["img_feat"].shape[:2], dtype=torch.bool)
        for real, side, place in (
            (self.mask & (image < 0), self.words, index),
            (self.mask & (image >= 0), self.boxes, image),
        ):
            item, slot = real.nonzero(as_tuple=True)
            side[item, place[item, slot]] = True
        self.batch = self.as_batch(False)
        self.hidden = self.regions(given["img_masks"].bool(), False).values if "img_masks" in given else None
        embedded, packed = self.embed(trunk, keep), trunk(self.batch, hidden=self.hidden)
        if keep:
            rows = torch.cat([side.to_padded() for side in embedded.split()], 1)
            rows = rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
            joint = Joint(Packed.from_padded(rows, self.mask, True), packed.text, None).through(trunk.encoder)
            self.states = joint.rows
            real = self.states.values[self.mask.flatten()]
            self.joint = Joint(packed.rows.with_values(real), packed.text, packed.other)
        else:
            self.states, self.joint = packed.rows, packed
        self.text_embedding, self.image_embedding = embedded.split()

    def text(self, x: Tensor, keep: bool) -> Packed:
        return Packed.from_padded(x, self.words, keep)

    def regions(self, x: Tensor, keep: bool) -> Packed:
        return Packed.from_padded(x, self.boxes, keep)

    def as_batch(self, keep: bool) -> Batch:
        given = self.given
        types = self.text(given["txt_type_ids"], keep).values if "txt_type_ids" in given else None
        text = Text(self.text(self.ids, keep), types)
        regions = Regions(self.regions(given["img_feat"], keep), self.regions(given["img_pos_feat"], keep).values)
        segments = given.get("img_type_ids")
        labels = Labels(region_types=None if segments is None else self.regions(segments, keep).values)
        return Batch(text=text, regions=regions, labels=labels)

    def embed(self, trunk: UniterTrunk, keep: bool) -> Joint:
        batch = self.as_batch(keep)
        assert batch.text is not None
        hidden = self.regions(self.given["img_masks"].bool(), keep).values if "img_masks" in self.given else None
        return trunk.embed(batch.text, batch.regions, batch.labels.region_types, hidden)

    def labelled(self, name: str) -> Batch:
        """The batch with the targets of that name."""
        label = self.given[name]
        label = label.squeeze(-1) if label.dim() == 2 and label.shape[1] == 1 else label
        return replace(self.batch, labels=replace(self.batch.labels, label=label))


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    if isinstance(model, Uniter):
        out: Produced = {}
        for name in PARTS:
            if f"{name}/input_ids" in case.inputs:
                seen = Recorded(case, model.trunk, keep_padding, f"{name}/")
                made = PARTS[name](seen, model)
                out |= {f"{name}/{key}": value for key, value in made.items()}
        return out
    assert isinstance(model, UniterClassifier | UniterPairedAttention | UniterGrounding | UniterRetrieval)
    seen = Recorded(case, model.trunk, keep_padding)
    scores = model.read(seen.joint)
    out = {"sequence_output": seen.states, "pooled": model.trunk.pool(seen.joint), "scores": scores}
    target = seen.given.get("targets")
    if isinstance(model, UniterRetrieval):
        groups = scores.view(-1, int(case.inputs["sample_size"]))
        out["loss"] = Ranking(model.config.margin, "none")(groups[:, :1].expand_as(groups[:, 1:]), groups[:, 1:])
    elif isinstance(model, UniterGrounding):
        out |= grounding(seen, model, scores)
    elif target is not None and model.config.task in ("vqa", "entailment"):
        out["loss"] = F.binary_cross_entropy_with_logits(scores, target, reduction="none")
    elif model.config.task == "vcr":
        out["scores"] = scores[:, 1:]
        if target is not None:
            out["loss"] = Classification()(scores, target.squeeze(-1))
    elif target is not None:
        out["loss"] = Classification(reduction="none")(scores, target)
    return out


def grounding(seen: Recorded, model: UniterGrounding, scores: Tensor) -> Produced:
    masked = seen.given["obj_masks"].bool()
    wide = F.pad(scores, (0, masked.shape[1] - scores.shape[1]), value=-1e4).masked_fill(masked, -1e4)
    out: Produced = {"scores": wide}
    if "targets" in seen.given:
        target = seen.given["targets"].view(-1)
        if model.config.grounding_loss == "cls":
            out["loss"] = Classification(reduction="none")(wide, target)
        else:
            wrong = model.draw(wide, target, (~masked).sum(1), None, {})["negative"]
            right, other = (wide.gather(1, index[:, None]).squeeze(1) for index in (target, wrong))
            out["loss"] = Ranking(model.config.margin, "none")(right, other)
    return out


def hidden_words(seen: Recorded, model: Uniter) -> Produced:
    labels = seen.text(seen.given["txt_labels"], False).values
    rows = labels != -1
    prediction = model.word_logits(seen.joint.texts.values[rows])
    return {
        "text_embedding": seen.text_embedding,
        "image_embedding": seen.image_embedding,
        "sequence_output": seen.states,
        "prediction": prediction,
        "loss": MaskedLM("none")(prediction, labels[rows]),
    }


def hidden_states(seen: Recorded) -> Tensor:
    """The states of the hidden regions."""
    assert seen.hidden is not None
    return seen.joint.split()[1].values[seen.hidden]


def hidden_features(seen: Recorded, model: Uniter) -> Produced:
    prediction = model.region_features(hidden_states(seen))
    loss = F.mse_loss(prediction, seen.given["feat_targets"], reduction="none")
    return {"sequence_output": seen.states, "prediction": prediction, "loss": loss}


def hidden_classes(seen: Recorded, model: Uniter) -> Produced:
    prediction = model.classes(hidden_states(seen))
    loss = Classification(reduction="none")(prediction, likeliest_class(seen.given["label_targets"]))
    return {"sequence_output": seen.states, "prediction": prediction, "loss": loss}


def hidden_distributions(seen: Recorded, model: Uniter) -> Produced:
    prediction = model.classes(hidden_states(seen))
    loss = F.kl_div(prediction.log_softmax(-1), seen.given["label_targets"], reduction="none")
    return {"sequence_output": seen.states, "prediction": prediction, "loss": loss}


def matching(seen: Recorded, model: Uniter) -> Produced:
    pooled, target = model.trunk.pool(seen.joint), seen.given["targets"]
    logits = model.match_head(pooled)
    out: Produced = {
        "sequence_output": seen.states,
        "pooled": pooled,
        "logits": logits,
        "loss": Matching("none")(logits, target),
    }
    alignment = model.align(seen.joint)
    room = (0, seen.boxes.shape[1] - alignment.cost.shape[2], 0, seen.words.shape[1] - alignment.cost.shape[1])
    matched = target == 1
    return out | {
        "ot_cost": F.pad(alignment.cost, room),
        "ot_plan": F.pad(alignment.plan, room).transpose(1, 2),
        "ot_distance": alignment.distance,
        "ot_pos": alignment.distance[matched],
        "ot_neg": alignment.distance[~matched],
        "ot_loss": model.alignment_loss(alignment.distance, matched),
    }


PARTS = {
    "mlm": hidden_words,
    "mrfr": hidden_features,
    "mrc": hidden_classes,
    "mrckl": hidden_distributions,
    "itm": matching,
}
ADAPTOR = Adaptor(lambda d: d.system.lower() == "uniter", build, run)
