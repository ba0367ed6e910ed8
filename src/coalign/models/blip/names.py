"""Names of BLIP's tensors: its authors' files, and Hugging Face's for matching, captions and question answering."""

from __future__ import annotations

import torch

from coalign.checkpoints import Carry, Default, Rename, Split, StateMap, Tie
from coalign.checkpoints.statemap import Rule
from coalign.models.blip.trunk import BlipConfig
from coalign.trunks.bert import BertConfig, trunk_rules, word_head_rules
from coalign.trunks.vit_names import timm_rules

TOWERS = (("online.", ""), ("momentum.", "_m"))
"""Ours, and what the authors' names of it end in."""


# --------------------------------------------------------------------------------------------------------- pre-training
def original(config: BlipConfig) -> StateMap:
    """The authors' pre-training files, in which the decoder repeats what it shares with the encoder; those of
    retrieval have no decoder, and the ids of what is queued."""
    return StateMap(
        *(_towers(ours, suffix, config) for ours, suffix in TOWERS),
        _tied_decoder() if "lm" in config.objectives else (),
        Rename("temp", "temperature"),
        Rename("itm_head.{p}", "match_head.{p}"),
        Rename("image_queue", "queue.image"),
        Rename("text_queue", "queue.text"),
        _queue(config),
        Default("step", lambda: torch.zeros((), dtype=torch.int64)),
    )


def _queue(config: BlipConfig) -> list[Rule]:
    if config.targets == "ids":
        return [Rename("ptr_queue", "queue.pointer"), Rename("idx_queue", "queue.ids")]
    ids = Default("queue.ids", lambda: torch.full((1, config.queue_size), -100))
    return [Rename("queue_ptr", "queue.pointer"), ids]


def _towers(ours: str, suffix: str, config: BlipConfig) -> list[Rule]:
    return [
        *timm_rules(f"visual_encoder{suffix}.", f"{ours}image."),
        *trunk_rules(f"text_encoder{suffix}.", f"{ours}text.", config.text, position_ids=True),
        Rename(f"vision_proj{suffix}.{{p}}", f"{ours}image_projection.{{p}}"),
        Rename(f"text_proj{suffix}.{{p}}", f"{ours}text_projection.{{p}}"),
    ]


def _tied_decoder() -> list[Rule]:
    bert, encoder, block = "text_decoder.bert.", "text_encoder.", "encoder.layer.{i}."
    own = {
        "self.query": "attention.query",
        "self.key": "attention.key",
        "self.value": "attention.value",
        "output.dense": "attention.out",
        "output.LayerNorm": "attention_norm",
    }
    shared = ("embeddings.", f"{block}crossattention.", f"{block}intermediate.", f"{block}output.")
    return [
        *(
            Rename(f"{bert}{block}attention.{theirs}.{{p}}", f"decoder.blocks.{{i}}.{mine}.{{p}}")
            for theirs, mine in own.items()
        ),
        *(Tie(f"{bert}{part}{{rest}}", f"{encoder}{part}{{rest}}") for part in shared),
        *_word_head("text_decoder.", "decoder.words.", f"{encoder}embeddings."),
    ]


def _word_head(file: str, ours: str, embeddings: str) -> list[Rule]:
    return word_head_rules(f"{file}cls.predictions.", ours, f"{embeddings}word_embeddings.weight")


# --------------------------------------------------------------------------------------------------------- task models
def matching_original(config: BlipConfig) -> StateMap:
    """The authors' files as their class for matching reads them."""
    return StateMap(_towers("online.", "", config), Rename("itm_head.{p}", "match_head.{p}"))


def matching_transformers(config: BlipConfig) -> StateMap:
    """Hugging Face's BlipForImageTextRetrieval."""
    return StateMap(
        _vision("online.image."),
        _text("text_encoder.", "online.text.", config.text),
        Rename("vision_proj.{p}", "online.image_projection.{p}"),
        Rename("text_proj.{p}", "online.text_projection.{p}"),
        Rename("itm_head.{p}", "match_head.{p}"),
    )


def caption_original(config: BlipConfig) -> StateMap:
    """The authors' captioners."""
    return StateMap(timm_rules("visual_encoder.", "towers.image."), _decoder(config.text, True))


def caption_transformers(config: BlipConfig) -> StateMap:
    """Hugging Face's BlipForConditionalGeneration."""
    return StateMap(_vision("towers.image."), _decoder(config.text, False))


def vqa_original(config: BlipConfig) -> StateMap:
    """The authors' question answerers."""
    questions = trunk_rules("text_encoder.", "towers.text.", config.text, position_ids=True)
    return StateMap(caption_original(config).rules, questions)


def vqa_transformers(config: BlipConfig) -> StateMap:
    """Hugging Face's BlipForQuestionAnswering."""
    return StateMap(caption_transformers(config).rules, _text("text_encoder.", "towers.text.", config.text))


def _decoder(text: BertConfig, position_ids: bool) -> list[Rule]:
    bert, ours = "text_decoder.bert.", "towers.decoder."
    trunk = trunk_rules(bert, ours, text, position_ids=True) if position_ids else _text(bert, ours, text)
    return [*trunk, *_word_head("text_decoder.", "towers.words.", f"{bert}embeddings.")]


def _text(file: str, ours: str, text: BertConfig) -> list[Rule]:
    return [Carry(f"{file}embeddings.position_ids"), *trunk_rules(file, ours, text)]


def _vision(ours: str) -> list[Rule]:
    layer, block = "vision_model.encoder.layers.{i}.", f"{ours}encoder.blocks.{{i}}."
    names = {
        "self_attn.projection": "attention.out",
        "layer_norm1": "attention_norm",
        "layer_norm2": "feed_forward_norm",
        "mlp.fc1": "feed_forward.up",
        "mlp.fc2": "feed_forward.down",
    }
    qkv = tuple(f"{block}attention.{part}.{{p}}" for part in ("query", "key", "value"))
    return [
        Rename("vision_model.embeddings.class_embedding", f"{ours}class_token"),
        Rename("vision_model.embeddings.position_embedding", f"{ours}positions"),
        Rename("vision_model.embeddings.patch_embedding.{p}", f"{ours}patch.projection.{{p}}"),
        Split(f"{layer}self_attn.qkv.{{p}}", qkv),
        *(Rename(f"{layer}{theirs}.{{p}}", f"{block}{mine}.{{p}}") for theirs, mine in names.items()),
        Rename("vision_model.post_layernorm.{p}", f"{ours}encoder.norm.{{p}}"),
    ]
