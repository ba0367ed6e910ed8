"""Names of ALBEF's tensors in its authors' files."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch

from coalign.checkpoints import Carry, Default, Rename, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.models.albef.trunk import AlbefConfig
from coalign.trunks.bert import BertConfig, trunk_rules, word_head_rules
from coalign.trunks.vit_names import timm_rules

TOWERS = (("online.", ""), ("momentum.", "_m"))
"""Ours, and what the authors' names of it end in."""


@runtime_checkable
class TaskSizes(Protocol):
    """The part of a task model's configuration that the names depend on."""

    @property
    def albef(self) -> AlbefConfig: ...


def encoder_rules(text: BertConfig, ours: str, suffix: str, bert: str = "") -> list[Rule]:
    """The image encoder and the text encoder with its fusion blocks; `bert` stands before BERT's own names."""
    return [
        *timm_rules(f"visual_encoder{suffix}.", f"{ours}image."),
        *trunk_rules(f"text_encoder{suffix}.{bert}", f"{ours}text.", text, position_ids=True),
    ]


def word_rules(file: str, ours: str) -> list[Rule]:
    """The word head of a text encoder or decoder."""
    return word_head_rules(f"{file}cls.predictions.", f"{ours}words.", f"{file}bert.embeddings.word_embeddings.weight")


def original(config: AlbefConfig) -> StateMap:
    """The authors' files: pre-training (with "bert." and a word head) or retrieval (neither, and queued ids)."""
    words = "mlm" in config.objectives
    rules: list[Rule] = []
    for ours, suffix in TOWERS:
        rules += [
            *encoder_rules(config.text, ours, suffix, "bert." if words else ""),
            Rename(f"vision_proj{suffix}.{{p}}", f"{ours}image_projection.{{p}}"),
            Rename(f"text_proj{suffix}.{{p}}", f"{ours}text_projection.{{p}}"),
            *(word_rules(f"text_encoder{suffix}.", ours) if words else ()),
        ]
    ids: Rule = (
        Rename("idx_queue", "queue.ids")
        if config.targets == "ids"
        else Default("queue.ids", lambda: torch.full((1, config.queue_size), -100))
    )
    return StateMap(
        rules,
        Rename("temp", "temperature"),
        Rename("itm_head.{p}", "match_head.{p}"),
        Rename("image_queue", "queue.image"),
        Rename("text_queue", "queue.text"),
        Rename("queue_ptr", "queue.pointer"),
        ids,
        Default("step", lambda: torch.zeros((), dtype=torch.int64)),
    )


def classifier_original(config: TaskSizes) -> StateMap:
    """The authors' entailment and NLVR2 files."""
    rules: list[Rule] = []
    for ours, suffix in TOWERS:
        rules += [
            *encoder_rules(config.albef.text, ours, suffix),
            Rename(f"cls_head{suffix}.0.{{p}}", f"{ours}head.up.{{p}}"),
            Rename(f"cls_head{suffix}.2.{{p}}", f"{ours}head.down.{{p}}"),
        ]
    return StateMap(rules)


def assignment_original(config: TaskSizes) -> StateMap:
    """The authors' text-assignment file; its text projection and temperature are never used."""
    return StateMap(
        encoder_rules(config.albef.text, "online.", ""),
        Rename("ta_head.{p}", "online.head.{p}"),
        Rename("vision_proj.{p}", "image_projection.{p}"),
        Carry("text_proj.{p}"),
        Carry("temp"),
    )


def vqa_original(config: TaskSizes) -> StateMap:
    """The authors' VQA file."""
    text = config.albef.text
    decoder = replace(text, cross_from=0, context_dim=text.dim)
    rules: list[Rule] = []
    for ours, suffix in TOWERS:
        file = f"text_decoder{suffix}."
        rules += [
            *encoder_rules(text, ours, suffix),
            *trunk_rules(f"{file}bert.", f"{ours}decoder.", decoder, position_ids=True),
            *word_rules(file, ours),
        ]
    return StateMap(rules)
