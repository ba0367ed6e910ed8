"""Names of ViLT's tensors in the authors' files and in Hugging Face's."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from coalign.checkpoints import Alias, Carry, Default, Rename, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.trunks.bert import embedding_rules
from coalign.trunks.vit import VitConfig
from coalign.trunks.vit_names import timm_rules


@runtime_checkable
class Sizes(Protocol):
    """The part of the configuration that the names depend on: a `ViltConfig`."""

    @property
    def image(self) -> VitConfig: ...

    @property
    def max_text_length(self) -> int: ...

    @property
    def objectives(self) -> tuple[str, ...]: ...


def trunk_names(positions: int) -> list[Rule]:
    """The authors' names of a trunk."""
    return [
        *embedding_rules("text_embeddings.", "trunk.embedding.", positions),
        Rename("token_type_embeddings.weight", "trunk.modality.weight"),
        *timm_rules("transformer.", "trunk."),
        Rename("pooler.dense.{p}", "trunk.pooler.dense.{p}"),
    ]


def trunk_names_hf() -> list[Rule]:
    """Hugging Face's names of a trunk."""
    file, layer, ours = "vilt.embeddings.", "vilt.encoder.layer.{i}.", "trunk.encoder.blocks.{i}."
    names = {
        "attention.attention.query": "attention.query",
        "attention.attention.key": "attention.key",
        "attention.attention.value": "attention.value",
        "attention.output.dense": "attention.out",
        "intermediate.dense": "feed_forward.up",
        "output.dense": "feed_forward.down",
        "layernorm_before": "attention_norm",
        "layernorm_after": "feed_forward_norm",
    }
    return [
        *embedding_rules(f"{file}text_embeddings.", "trunk.embedding."),
        Carry(f"{file}text_embeddings.position_ids"),  # in files of older versions
        Rename(f"{file}token_type_embeddings.weight", "trunk.modality.weight"),
        Rename(f"{file}cls_token", "trunk.class_token"),
        Rename(f"{file}position_embeddings", "trunk.positions"),
        Rename(f"{file}patch_embeddings.projection.{{p}}", "trunk.patch.projection.{p}"),
        *(Rename(f"{layer}{theirs}.{{p}}", f"{ours}{mine}.{{p}}") for theirs, mine in names.items()),
        Rename("vilt.layernorm.{p}", "trunk.encoder.norm.{p}"),
        Rename("vilt.pooler.dense.{p}", "trunk.pooler.dense.{p}"),
    ]


_WORDS = [
    Rename("mlm_score.transform.dense.{p}", "words.dense.{p}"),
    Rename("mlm_score.transform.LayerNorm.{p}", "words.norm.{p}"),
    Rename("mlm_score.decoder.weight", "words.decoder.weight"),  # not tied to the word table
]


def original(config: Sizes) -> StateMap:
    """The authors' pre-training files."""
    return StateMap(
        trunk_names(config.max_text_length),
        _WORDS,
        Rename("mlm_score.bias", "words.bias"),
        Rename("itm_score.fc.{p}", "match_head.{p}"),
    )


def transformers(config: Sizes) -> StateMap:
    """Hugging Face's ViltForMaskedLM. It has no matching head: one that the configuration asks for starts at zero.

    Its configuration's norms have an eps of 1e-12; set `image.eps` to it to compute what it computes.
    """
    head = [
        Default("match_head.weight", lambda: torch.zeros(2, config.image.dim)),
        Default("match_head.bias", lambda: torch.zeros(2)),
    ]
    return StateMap(
        trunk_names_hf(),
        _WORDS,
        Alias("mlm_score.bias", "mlm_score.decoder.bias"),
        Rename("mlm_score.decoder.bias", "words.bias"),
        head if "itm" in config.objectives else [],
    )
