"""Recorded cases of google-research/bert and of Hugging Face's BERT, and the traces of BERT's data creation."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from coalign.checkpoints import Rename, StateMap
from coalign.data.texts.pretraining_text import Pieces, Plan, document_examples, hide_words
from coalign.errors import InputError
from coalign.layers.attention import Activation
from coalign.models.bert.heads import (
    BertClassifier,
    BertMultipleChoice,
    BertSpans,
    BertTagger,
    BertTask,
    BertTaskConfig,
)
from coalign.models.bert.model import Bert, BertPretrainingConfig, original, transformers
from coalign.models.bert.sizes import of_weights
from coalign.ops.spans import SpanSettings, Window, answer
from coalign.parity.case import Case, Described
from coalign.parity.compare import ABSOLUTE, Line
from coalign.parity.verify import Adaptor, Outputs, load
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Labels, Packed, Text

T = TypeVar("T", bound=BertTask)
HEADS = {
    "sequence": "classifier",
    "regression": "classifier",
    "token": "classifier",
    "choice": "classifier",
    "qa": "qa_outputs",
}
"""The layer of each fine-tuning, as Hugging Face names it."""


class Recorded(nn.Module):
    """Modules of a recorded file: the pre-training model, and the new layers of several fine-tunings of one body."""

    def __init__(self, config: BertPretrainingConfig, heads: Mapping[str, int]) -> None:
        super().__init__()
        self.bert = Bert(config)
        self.heads = nn.ModuleDict({name: nn.Linear(config.trunk.dim, outputs) for name, outputs in heads.items()})

    def task(self, kind: type[T], head: str, config: BertTaskConfig) -> T:
        """A fine-tuned model of the recorded body and head."""
        layer = self.heads[head]
        assert isinstance(layer, nn.Linear)
        task = kind(replace(config, classes=layer.out_features)).eval()
        task.trunk, task.head = self.bert.trunk, layer
        task.pooler = self.bert.pooler if kind.has_pooler else None
        return task


def is_tensorflow(described: Described) -> bool:
    return any(name.startswith("bert/") for name in described.weights)


def claims(described: Described) -> bool:
    return re.match(r"bert\b(?!_)", described.system.lower()) is not None


def config_of(described: Described) -> BertPretrainingConfig:
    """Sizes from the weights, the number of heads from the config."""
    eps = described.config.get("layer_norm_eps", 1e-12)
    activation: Activation = "gelu_tanh" if is_tensorflow(described) else "gelu"
    return BertPretrainingConfig(trunk_of(described, eps=eps, activation=activation))


def trunk_of(described: Described, heads: int | None = None, **settings: Any) -> BertConfig:
    """The sizes of a file's BERT from its weights; `heads` where the config does not say them, and other fields.

    Errors: `InputError` for a file without a BERT.
    """
    sizes = of_weights(described.weights)
    if sizes is None:
        raise InputError(f"{described.path}: has no weights with a BERT's names")
    return replace(sizes.trunk, heads=described.config.get("num_attention_heads") or heads, **settings)


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config, weights = config_of(described), described.weights
    if is_tensorflow(described):
        files = {"sequence": "output", "qa": "cls/squad/output"}
        files = {name: file for name, file in files.items() if f"{file}_weights" in weights}
        heads = {name: weights[f"{file}_weights"].shape[0] for name, file in files.items()}
        rules = [
            Rename(f"{file}_{theirs}", f"heads.{name}.{mine}")
            for name, file in files.items()
            for theirs, mine in (("weights", "weight"), ("bias", "bias"))
        ]
        names = original(config)
    else:
        files = {name: f"heads.{name}.{layer}" for name, layer in HEADS.items()}
        files = {name: file for name, file in files.items() if f"{file}.weight" in weights}
        heads = {name: weights[f"{file}.weight"].shape[0] for name, file in files.items()}
        rules = [Rename(f"{file}.{{p}}", f"heads.{name}.{{p}}") for name, file in files.items()]
        names = transformers(config)
    return Recorded(config, heads), StateMap(inside(names, "bert.").rules, rules)


def inside(names: StateMap, prefix: str) -> StateMap:
    """The same names for a model that is a part of ours under this prefix."""
    return StateMap(
        replace(
            rule,
            ours=f"{prefix}{rule.ours}"
            if isinstance(rule.ours, str)
            else tuple(f"{prefix}{name}" for name in rule.ours),
        )
        if isinstance(rule, Rename)
        else rule
        for rule in names.rules
    )


# ------------------------------------------------------------------------------------------------------------- running
def packed(case: Case, name: str, keep_padding: bool) -> Packed:
    return Packed.from_padded(case.inputs[name], case.inputs["attention_mask"], keep_padding)


def batch_of(case: Case, keep_padding: bool, **labels: Any) -> Batch:
    types = packed(case, "token_type_ids", keep_padding).values
    return Batch(text=Text(packed(case, "input_ids", keep_padding), types), labels=Labels(**labels))


@torch.no_grad()
def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    assert isinstance(model, Recorded)
    tensorflow = is_tensorflow(case)
    return {
        **encoder(case, model.bert, keep_padding, tensorflow),
        **(pretraining_tensorflow if tensorflow else pretraining_transformers)(case, model.bert, keep_padding),
        **classification(case, model, keep_padding, "cls" if tensorflow else "sequence"),
        **spans(case, model, keep_padding, "squad" if tensorflow else "qa"),
        **({} if tensorflow else further_heads(case, model, keep_padding)),
    }


def encoder(case: Case, bert: Bert, keep_padding: bool, tensorflow: bool) -> Outputs:
    seen = bert.encode(batch_of(case, keep_padding), record=True)
    text = seen.tokens["text"]
    states = [f"text.{i}.hidden" for i in range(bert.config.trunk.depth)]
    names = ("embedding_output", "encoder_layer_{}") if tensorflow else ("hidden_states.0", "hidden_states.{}")
    out: dict[str, Tensor | Packed] = {
        "sequence_output": text,
        "pooled_output": seen.pooled["text"],
        names[0]: text.with_values(seen.record["text.embedding"]),
    }
    for number, state in enumerate(states):
        out[names[1].format(number if tensorflow else number + 1)] = text.with_values(seen.record[state])
        if keep_padding:
            out[f"attention_probs.{number}"] = seen.record[f"text.{number}.attention"]
    return out


def pretraining_tensorflow(case: Case, bert: Bert, keep_padding: bool) -> Outputs:
    """Words are predicted at slots; an unused one has weight 0 and predicts word 0 at position 0."""
    slots, ids, weights = (case.inputs[f"masked_lm_{name}"] for name in ("positions", "ids", "weights"))
    following = case.inputs["next_sentence_labels"].flatten()
    batch = batch_of(case, keep_padding, next_sentence=following)
    text = bert.encode(batch).tokens["text"]
    rows = text.layout.first[:, None] + slots
    labels = torch.full((text.layout.total,), -100)
    used = weights > 0
    labels[rows[used]] = ids[used]
    losses = bert.losses(replace(batch, labels=replace(batch.labels, mlm_labels=labels)))
    words, follows = bert.predict(text.values[rows.flatten()]).log_softmax(-1), bert.follows(text.first).log_softmax(-1)
    return {
        "mlm_log_probs": words,
        "mlm_per_prediction_loss": -words.gather(1, ids.flatten()[:, None])[:, 0],
        "mlm_loss": losses["mlm"],
        "nsp_log_probs": follows,
        "nsp_per_example_loss": -follows.gather(1, following[:, None])[:, 0],
        "nsp_loss": losses["nsp"],
        "total_loss": losses["mlm"] + losses["nsp"],
    }


def pretraining_transformers(case: Case, bert: Bert, keep_padding: bool) -> Outputs:
    labels = packed(case, "mlm_labels_full", keep_padding).values
    following = case.inputs["next_sentence_labels"].flatten()
    batch = batch_of(case, keep_padding, mlm_labels=labels, next_sentence=following)
    text, losses = bert.encode(batch).tokens["text"], bert.losses(batch)
    return {
        "mlm_logits": bert.logits(text),
        "nsp_logits": bert.follows(text.first),
        "mlm_loss": losses["mlm"],
        "nsp_loss": losses["nsp"],
        "pretrain_loss": losses["mlm"] + losses["nsp"],
    }


def classification(case: Case, model: Recorded, keep_padding: bool, name: str) -> Outputs:
    if "sequence" not in model.heads:
        return {}
    task = model.task(BertClassifier, "sequence", BertTaskConfig(model.bert.config.trunk))
    batch = batch_of(case, keep_padding, label=case.inputs["sequence_labels"])
    logits = task.encode(batch).pooled["logits"]
    each = -logits.log_softmax(-1).gather(1, case.inputs["sequence_labels"][:, None])[:, 0]
    return {
        f"{name}_logits": logits,
        f"{name}_probabilities": logits.softmax(-1),
        f"{name}_per_example_loss": each,
        f"{name}_loss": task.losses(batch)["classification"],
    }


def spans(case: Case, model: Recorded, keep_padding: bool, name: str) -> Outputs:
    """The original's softmax over positions includes padding, so that the loss exists with kept padding alone."""
    if "qa" not in model.heads:
        return {}
    task = model.task(BertSpans, "qa", BertTaskConfig(model.bert.config.trunk, padding_in_softmax=True))
    batch = batch_of(case, keep_padding, start=case.inputs["start_positions"], end=case.inputs["end_positions"])
    logits = task.encode(batch).tokens["spans"]
    out: dict[str, Tensor | Packed] = {
        f"{name}_start_logits": logits.with_values(logits.values[:, 0]),
        f"{name}_end_logits": logits.with_values(logits.values[:, 1]),
    }
    return {**out, f"{name}_loss": task.losses(batch)["spans"]} if keep_padding else out


def further_heads(case: Case, model: Recorded, keep_padding: bool) -> Outputs:
    """Regression, tags and multiple choice, of which Google's code has none."""
    config, out = BertTaskConfig(model.bert.config.trunk, choices=2), dict[str, Tensor | Packed]()
    if "regression" in model.heads:
        task = model.task(BertClassifier, "regression", config)
        batch = batch_of(case, keep_padding, label=case.inputs["regression_labels"])
        out["regression_logits"] = task.encode(batch).pooled["logits"]
        out["regression_loss"] = task.losses(batch)["regression"]
    if "token" in model.heads:
        tagger = model.task(BertTagger, "token", config)
        batch = batch_of(case, keep_padding, tags=packed(case, "token_labels", keep_padding).values)
        out["token_logits"] = tagger.encode(batch).tokens["tags"]
        out["token_loss"] = tagger.losses(batch)["tagging"]
    if "choice" in model.heads:
        chooser = model.task(BertMultipleChoice, "choice", config)
        rows = slice(0, 2 * len(case.inputs["choice_labels"]))
        names = ("input_ids", "token_type_ids", "attention_mask")
        half = replace(case, inputs={name: case.inputs[name][rows] for name in names})
        batch = batch_of(half, keep_padding, label=case.inputs["choice_labels"])
        out["choice_logits"] = chooser.encode(batch).pooled["logits"]
        out["choice_loss"] = chooser.losses(batch)["choice"]
    return out


# --------------------------------------------------------------------------------------------- answers, data creation
def squad_results(case: Case) -> Sequence[Line]:
    """The answers, n-best lists and null odds that the file's metadata holds, for each of its settings."""
    recorded, squad = case.metadata.get("squad_results"), case.config.get("squad")
    if recorded is None or squad is None:
        return []
    model, _ = load(case, ADAPTOR)
    out = run(case, model, True)
    logits = [out[f"squad_{side}_logits"] for side in ("start", "end")]
    start, end = (side.to_padded().tolist() for side in logits if isinstance(side, Packed))
    lines: list[Line] = []
    for name, expected in recorded.items():
        setting = re.fullmatch(r"version_2=(True|False) threshold=(\S+)", name)
        if setting is None:
            lines.append(Line(f"squad_results {name}", "FAIL", note="unknown setting"))
            continue
        settings = SpanSettings(
            best=squad["n_best_size"],
            longest=squad["max_answer_length"],
            null_threshold=float(setting[2]) if setting[1] == "True" else None,
        )
        lines.append(_answers(f"squad_results {name}", squad, settings, expected, start, end))
    return lines


def _answers(
    name: str,
    squad: Mapping[str, Any],
    settings: SpanSettings,
    expected: Mapping[str, Any],
    start: Sequence[Sequence[float]],
    end: Sequence[Sequence[float]],
) -> Line:
    worst, wrong = 0.0, list[str]()
    for number, example in enumerate(squad["examples"]):
        seen = [
            Window(
                feature["tokens"],
                {int(place): word for place, word in feature["token_to_orig_map"].items()},
                {int(place): widest for place, widest in feature["token_is_max_context"].items()},
                start[feature["row"]],
                end[feature["row"]],
            )
            for feature in squad["features"]
            if feature["example_index"] == number
        ]
        question, ours = example["qas_id"], answer(seen, example["doc_tokens"], settings)
        nbest = expected["nbest"][question]
        if ours.text != expected["predictions"][question]:
            wrong.append(f"{question}: {ours.text!r}")
        if [candidate.text for candidate in ours.candidates] != [entry["text"] for entry in nbest]:
            wrong.append(f"{question}: another n-best list")
            continue
        for candidate, entry in zip(ours.candidates, nbest, strict=True):
            for value, key in (
                (candidate.start_logit, "start_logit"),
                (candidate.end_logit, "end_logit"),
                (candidate.probability, "probability"),
            ):
                worst = max(worst, abs(value - entry[key]))
        if expected["null_odds"] is not None:
            odds = ours.null_odds
            worst = max(worst, math.inf if odds is None else abs(odds - expected["null_odds"][question]))
    fail = bool(wrong) or worst > ABSOLUTE
    return Line(name, "FAIL" if fail else "ok", worst, worst, "; ".join(wrong))


def data_creation(content: Any, path: Path) -> Sequence[Line] | None:
    """Traces of create_pretraining_data.py: every example of some documents, and one masking."""
    del path
    if not isinstance(content, dict) or "masked_lm_prob" not in (content.get("case") or {}):
        return None
    case, result = content["case"], content["result"]
    vocabulary = Pieces[str](case["vocab_words"], "[CLS]", "[SEP]", "[MASK]", lambda piece: piece.startswith("##"))
    plan = Plan(
        max_length=case["max_seq_length"],
        short_probability=case["short_seq_prob"],
        mask_probability=case["masked_lm_prob"],
        max_predictions=case["max_predictions_per_seq"],
        whole_word=case["whole_word"],
    )
    rng, documents = random.Random(case["rng_seed"]), case["documents"]
    ours = [
        {
            "tokens": example.pieces,
            "segment_ids": example.types,
            "is_random_next": example.is_random_next,
            "masked_lm_positions": example.positions,
            "masked_lm_labels": example.labels,
        }
        for _ in range(case["dupe_factor"])
        for number in range(len(documents))
        for example in document_examples(documents, number, vocabulary, plan, rng)
    ]
    expected = result["instances"]
    lines = [
        Line(f"instances.{i}", "ok" if a == b else "FAIL", note="" if a == b else f"{a}, recorded {b}")
        for i, (a, b) in enumerate(zip(ours, expected, strict=False))
    ]
    if len(ours) != len(expected):
        lines.append(Line("instances", "FAIL", note=f"{len(ours)}, recorded {len(expected)}"))
    single = hide_words(case["single_tokens"], vocabulary, plan, random.Random(case["rng_seed"] + 1))
    recorded = tuple(result["single"][name] for name in ("output_tokens", "positions", "labels"))
    lines.append(Line("single", "ok" if single == recorded else "FAIL", note="" if single == recorded else f"{single}"))
    return lines


ADAPTOR = Adaptor(claims, build, run, also=squad_results, json=data_creation)
