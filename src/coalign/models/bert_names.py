"""The names that Hugging Face and Google give a BERT's tensors: systems with a BERT inside share them.

`file` and `ours` are prefixes.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from coalign.checkpoints import Alias, Carry, Constant, Rename, Tie, Transpose
from coalign.checkpoints.statemap import Rule


@runtime_checkable
class TrunkSizes(Protocol):
    """What the names depend on of a `BertConfig`."""

    @property
    def positions(self) -> int: ...

    @property
    def context_dim(self) -> int | None: ...


def layer_rules(file: str, ours: str, cross: bool = False, suffix: str = ".{p}") -> list[Rule]:
    """Hugging Face names of BERT layers; `file` and `ours` are the prefixes up to a layer: "encoder.layer.{i}."."""
    names = {
        "attention.self.query": "attention.query",
        "attention.self.key": "attention.key",
        "attention.self.value": "attention.value",
        "attention.output.dense": "attention.out",
        "attention.output.LayerNorm": "attention_norm",
        "intermediate.dense": "feed_forward.up",
        "output.dense": "feed_forward.down",
        "output.LayerNorm": "feed_forward_norm",
    }
    if cross:
        names |= {
            f"cross{theirs}": f"cross_{mine}" for theirs, mine in names.items() if theirs.startswith("attention.")
        }
    return [Rename(f"{file}{theirs}{suffix}", f"{ours}{mine}{suffix}") for theirs, mine in names.items()]


def embedding_rules(file: str, ours: str, positions: int | None = None) -> list[Rule]:
    """Hugging Face names of BERT embeddings; `positions` adds the stored row of position numbers."""
    rules: list[Rule] = [
        Rename(f"{file}word_embeddings.weight", f"{ours}word.weight"),
        Rename(f"{file}position_embeddings.weight", f"{ours}position.weight"),
        Rename(f"{file}token_type_embeddings.weight", f"{ours}segment.weight"),
        Rename(f"{file}LayerNorm.{{p}}", f"{ours}norm.{{p}}"),
    ]
    if positions is not None:
        rules.append(Constant(f"{file}position_ids", lambda: torch.arange(positions)[None]))
    return rules


def trunk_rules(file: str, ours: str, config: TrunkSizes, position_ids: bool = False) -> list[Rule]:
    """Hugging Face names of a whole trunk."""
    return [
        *embedding_rules(f"{file}embeddings.", f"{ours}embedding.", config.positions if position_ids else None),
        *layer_rules(
            f"{file}encoder.layer.{{i}}.", f"{ours}encoder.blocks.{{i}}.", cross=config.context_dim is not None
        ),
    ]


def word_head_rules(file: str, ours: str, table: str) -> list[Rule]:
    """Hugging Face names of a tied masked-word head; `table` is the file's name of the word table."""
    return [
        Rename(f"{file}bias", f"{ours}bias"),
        Rename(f"{file}transform.dense.{{p}}", f"{ours}dense.{{p}}"),
        Rename(f"{file}transform.LayerNorm.{{p}}", f"{ours}norm.{{p}}"),
        Tie(f"{file}decoder.weight", table),
        Tie(f"{file}decoder.bias", f"{file}bias"),
    ]


def alias_rules(prefix: str) -> list[Rule]:
    """Older Hugging Face names (gamma and beta, no prefix or one too many), and the stored position numbers."""
    parts = ("embeddings", "encoder", "pooler")
    with_prefix: list[Rule] = [Alias(f"{part}.{{rest}}", f"{prefix}{part}.{{rest}}") for part in parts if prefix]
    without_prefix: list[Rule] = [] if prefix else [Alias("bert.{rest}", "{rest}")]
    return [
        Alias("{rest}LayerNorm.gamma", "{rest}LayerNorm.weight"),
        Alias("{rest}LayerNorm.beta", "{rest}LayerNorm.bias"),
        *with_prefix,
        *without_prefix,
        Carry(f"{prefix}embeddings.position_ids"),
    ]


def dense_rules(file: str, ours: str) -> list[Rule]:
    """A TensorFlow dense layer: its kernel is [in, out]."""
    return [Transpose(f"{file}/kernel", f"{ours}.weight"), Rename(f"{file}/bias", f"{ours}.bias")]


def norm_rules(file: str, ours: str) -> list[Rule]:
    return [Rename(f"{file}/LayerNorm/gamma", f"{ours}.weight"), Rename(f"{file}/LayerNorm/beta", f"{ours}.bias")]


def tensorflow_rules(ours: str) -> list[Rule]:
    """Google's names of the trunk; what the optimiser left in the file is kept aside."""
    layer, block = "bert/encoder/layer_{i}/", f"{ours}encoder.blocks.{{i}}."
    tables = {"word": "word", "position": "position", "token_type": "segment"}
    rules: list[Rule] = [Carry(f"{{rest}}/adam_{moment}") for moment in "mv"]
    rules.append(Carry("global_step"))
    for theirs, mine in tables.items():
        rules.append(Rename(f"bert/embeddings/{theirs}_embeddings", f"{ours}embedding.{mine}.weight"))
    rules += norm_rules("bert/embeddings", f"{ours}embedding.norm")
    for part in ("query", "key", "value"):
        rules += dense_rules(f"{layer}attention/self/{part}", f"{block}attention.{part}")
    rules += dense_rules(f"{layer}attention/output/dense", f"{block}attention.out")
    rules += norm_rules(f"{layer}attention/output", f"{block}attention_norm")
    rules += dense_rules(f"{layer}intermediate/dense", f"{block}feed_forward.up")
    rules += dense_rules(f"{layer}output/dense", f"{block}feed_forward.down")
    return rules + norm_rules(f"{layer}output", f"{block}feed_forward_norm")
