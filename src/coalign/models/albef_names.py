"""Names of ALBEF's tensors in its authors' files."""

from __future__ import annotations

import torch

from coalign.checkpoints import Default, Rename, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.models.albef_trunk import AlbefConfig
from coalign.models.bert import trunk_rules, word_head_rules
from coalign.models.vit import timm_rules


def tower_rules(config: AlbefConfig, ours: str, suffix: str, bert: str, words: bool) -> list[Rule]:
    """Names of one set of towers; `suffix` is "" or "_m", `bert` what stands before BERT's own names."""
    text = f"text_encoder{suffix}."
    rules = [
        *timm_rules(f"visual_encoder{suffix}.", f"{ours}image."),
        *trunk_rules(f"{text}{bert}", f"{ours}text.", config.text, position_ids=True),
        Rename(f"vision_proj{suffix}.{{p}}", f"{ours}image_projection.{{p}}"),
        Rename(f"text_proj{suffix}.{{p}}", f"{ours}text_projection.{{p}}"),
    ]
    if words:
        rules += word_head_rules(
            f"{text}cls.predictions.", f"{ours}words.", f"{text}{bert}embeddings.word_embeddings.weight"
        )
    return rules


def original(config: AlbefConfig) -> StateMap:
    """The authors' files: pre-training (with "bert." and a word head) or retrieval (neither, and queued ids)."""
    words = "mlm" in config.objectives
    bert = "bert." if words else ""
    ids: Rule = (
        Rename("idx_queue", "queue.ids")
        if config.targets == "ids"
        else Default("queue.ids", lambda: torch.full((1, config.queue_size), -100))
    )
    return StateMap(
        tower_rules(config, "online.", "", bert, words),
        tower_rules(config, "momentum.", "_m", bert, words),
        Rename("temp", "temperature"),
        Rename("itm_head.{p}", "match_head.{p}"),
        Rename("image_queue", "queue.image"),
        Rename("text_queue", "queue.text"),
        Rename("queue_ptr", "queue.pointer"),
        ids,
        Default("step", lambda: torch.zeros((), dtype=torch.int64)),
    )
