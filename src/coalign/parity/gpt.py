"""Recorded cases of openai/finetune-transformer-lm and of Hugging Face's OpenAI GPT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from coalign.checkpoints import Default, Rename, StateMap, Tie, Transpose
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.models.gpt.heads import GptClassifier, GptMultipleChoice, GptTask, GptTaskConfig
from coalign.models.gpt.model import Gpt, next_word_labels, released
from coalign.models.gpt.sizes import sizes_of, transformers_prefix
from coalign.objectives.causal_lm import CausalLM
from coalign.ops.masking import predicted_rows
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.trunks.gpt import GptConfig, joint_rules, transformers_rules
from coalign.types import Batch, Labels, Packed, Text

T = TypeVar("T", bound=GptTask)


class Recorded(nn.Module):
    """Modules of a recorded file: the language model, and the new layers of fine-tunings of one body."""

    def __init__(self, config: GptConfig, heads: Mapping[str, tuple[int, bool]]) -> None:
        super().__init__()
        self.gpt = Gpt(config)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(config.dim, outputs, bias) for name, (outputs, bias) in heads.items()}
        )

    def task(self, kind: type[T], head: str, config: GptTaskConfig) -> T:
        """A fine-tuned model of the recorded body and head."""
        layer = self.heads[head]
        assert isinstance(layer, nn.Linear)
        task = kind(replace(config, gpt=self.gpt.config, classes=layer.out_features)).eval()
        task.trunk, task.head = self.gpt.trunk, layer
        return task


def config_of(described: Described) -> GptConfig:
    """Sizes from the weights; the number of heads, and what is vocabulary of the table's rows, from the config."""
    c = described.config
    sizes = sizes_of(described.weights, heads=c.get("n_head", 12), words=c.get("n_vocab"), positions=c.get("n_ctx"))
    if sizes is None:
        raise InputError(f"{described.path}: holds no table of words and positions")
    return sizes


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config, prefix, weights = config_of(described), transformers_prefix(described.weights), described.weights
    trunk = "gpt.trunk."
    rules: list[Rule] = []
    heads: dict[str, tuple[int, bool]] = {}
    if prefix is None:
        rules += joint_rules(config, trunk) if "model/we" in weights else _inside(released(config))
        for name, file in {"mc": "model/clf", "cl": "model/clf_classify"}.items():
            if f"{file}/w" in weights:
                heads[name] = weights[f"{file}/w"].shape[1], True
                rules.append(Transpose(f"{file}/w", f"heads.{name}.weight"))
                rules.append(Rename(f"{file}/b", f"heads.{name}.bias"))
    else:
        # written without the biases whose names end like those of the causal triangles; they were zero
        rules += _absent_biases(config, prefix, weights, trunk)
        rules += transformers_rules(prefix, trunk)
        if "lm_head.weight" in weights:
            rules.append(Tie("lm_head.weight", f"{prefix}tokens_embed.weight"))
        for name, file in {"mc": "multiple_choice_head.summary", "cl": "score"}.items():
            if f"{file}.weight" in weights:
                heads[name] = weights[f"{file}.weight"].shape[0], f"{file}.bias" in weights
                rules.append(Rename(f"{file}.{{p}}", f"heads.{name}.{{p}}"))
    return Recorded(config, heads), StateMap(rules)


def _inside(names: StateMap) -> list[Rule]:
    """The same names for a model that is our part `gpt`."""

    def moved(rule: Rename) -> Rename:
        return replace(rule, ours=tuple(f"gpt.{name}" for name in rule.targets))

    return [moved(rule) if isinstance(rule, Rename) else rule for rule in names.rules]


def _absent_biases(config: GptConfig, prefix: str, weights: Mapping[str, Tensor], trunk: str) -> list[Rule]:
    return [
        Default(f"{trunk}encoder.blocks.{i}.attention.{part}.bias", lambda: torch.zeros(config.dim))
        for i in range(config.depth)
        if f"{prefix}h.{i}.attn.c_attn.bias" not in weights
        for part in ("query", "key", "value")
    ]


# ------------------------------------------------------------------------------------------------------------- running
@torch.no_grad()
def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    assert isinstance(model, Recorded)
    out: dict[str, Tensor | Packed] = {}
    if "lm/input_ids" in case.inputs:
        out |= language_model(case, model, keep_padding)
    for name, kind in (("mc", GptMultipleChoice), ("cl", GptClassifier)):
        if f"{name}/tokens" in case.inputs:
            out |= authors_task(case, model, name, kind, keep_padding)
    if "mc/input_ids" in case.inputs:
        out |= double_heads(case, model, keep_padding)
    if "cl/input_ids" in case.inputs:
        out |= sequence_classification(case, model, keep_padding)
    return out


def authors_task(case: Case, model: Recorded, name: str, kind: type[GptTask], keep_padding: bool) -> Outputs:
    """Sequences [B, n, L, 2] of a word and the table's row of its position."""
    tokens, mask = case.inputs[f"{name}/tokens"], case.inputs[f"{name}/mask"].flatten(0, 1)
    ids = Packed.from_padded(tokens[..., 0].flatten(0, 1), mask, keep_padding)
    task = model.task(kind, name, GptTaskConfig(choices=tokens.shape[1]))
    labels = case.inputs[f"{name}/labels"]
    batch = Batch(text=Text(ids), labels=Labels(label=labels))
    seen, losses = task.encode(batch), task.losses(batch)
    states, logits = seen.tokens["text"], seen.pooled["logits"]
    following = next_word_labels(batch)
    rows = predicted_rows(following)
    words = model.gpt.trunk.predict(states.values[rows])
    each = CausalLM("none")(words, following[rows], states.layout.item[rows], len(ids))
    out: dict[str, Tensor | Packed] = {
        f"{name}/hidden": states,
        f"{name}/clf_logits": logits,
        f"{name}/clf_losses": -logits.log_softmax(-1).gather(1, labels[:, None])[:, 0],
        f"{name}/lm_losses": each,
        f"{name}/total_loss": losses["task"] + losses["lm"],
    }
    if keep_padding:
        before_last = states.to_padded()[:, :-1].flatten(0, 1)
        out[f"{name}/lm_logits_full"] = model.gpt.trunk.predict(before_last)
    return out


def words_of(case: Case, name: str, labels: str | None, keep_padding: bool) -> Batch:
    """Sequences [..., L]; what `labels` leaves out at their ends is padding."""
    ids = case.inputs[f"{name}/input_ids"]
    ids = ids.reshape(-1, ids.shape[-1])
    if labels is None:
        return Batch(text=Text(Packed.from_padded(ids, _before_padding(case, ids), keep_padding)))
    true = case.inputs[f"{name}/{labels}"].reshape(ids.shape)
    mask = (true != -100).flip(1).cummax(1).values.flip(1)
    packed = Packed.from_padded(ids, mask, keep_padding)
    return Batch(text=Text(packed), labels=Labels(lm_labels=Packed.from_padded(true, mask, keep_padding).values))


def _before_padding(case: Case, ids: Tensor) -> Tensor:
    """All words before the first padding id, or all of them where there is none."""
    pad = case.config.get("pad_token_id", 0)
    return (ids != pad).cummin(1).values


def language_model(case: Case, model: Recorded, keep_padding: bool) -> Outputs:
    batch = words_of(case, "lm", "labels", keep_padding)
    seen = model.gpt.encode(batch, record=True)
    states = seen.tokens["text"]
    hidden = ["text.embedding", *(f"text.{i}.hidden" for i in range(model.gpt.config.depth))]
    return {
        "lm/logits": model.gpt.logits(states),
        "lm/loss": model.gpt.losses(batch)["lm"],
        **{f"lm/hidden_states.{i}": states.with_values(seen.record[name]) for i, name in enumerate(hidden)},
    }


def double_heads(case: Case, model: Recorded, keep_padding: bool) -> Outputs:
    """Sequences [B, n, L]; the head reads the word that `cls_index` names."""
    batch = words_of(case, "mc", "lm_labels", keep_padding)
    task = model.task(GptMultipleChoice, "mc", GptTaskConfig(choices=case.inputs["mc/input_ids"].shape[1]))
    states = model.gpt.encode(batch).tokens["text"]
    logits = task.answer(states.values[states.layout.first + case.inputs["mc/cls_index"].flatten()])
    loss = task.classify(logits, case.inputs["mc/labels"])
    lm = model.gpt.losses(batch)["lm"]
    words = model.gpt.logits(states)
    out: dict[str, Tensor | Packed] = {
        "mc/mc_logits": logits,
        "mc/mc_loss": loss,
        "mc/lm_loss": lm,
        "mc/total_loss": loss + task.config.lm_weight * lm,
    }
    if keep_padding:  # recorded as [B, n, L, V]
        out["mc/lm_logits"] = words.to_padded().unflatten(0, case.inputs["mc/cls_index"].shape)
    return out


def sequence_classification(case: Case, model: Recorded, keep_padding: bool) -> Outputs:
    batch = words_of(case, "cl", None, keep_padding)
    task = model.task(GptClassifier, "cl", GptTaskConfig(read="last", lm_weight=0.0))
    batch = replace(batch, labels=Labels(label=case.inputs["cl/labels"]))
    return {"cl/logits": task.encode(batch).pooled["logits"], "cl/loss": task.losses(batch)["task"]}


ADAPTOR = Adaptor(lambda d: re.match(r"gpt\b(?!_)", d.system.lower()) is not None, build, run)
