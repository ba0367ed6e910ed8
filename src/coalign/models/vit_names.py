"""The names that timm and Hugging Face give a ViT's tensors: systems with a ViT inside share them.

`file` and `ours` are prefixes.
"""

from __future__ import annotations

from coalign.checkpoints import Rename, Split
from coalign.checkpoints.statemap import Rule


def timm_rules(file: str, ours: str) -> list[Rule]:
    """timm's names of a trunk, the original's too in ALBEF and MAE."""
    return [
        Rename(f"{file}cls_token", f"{ours}class_token"),
        Rename(f"{file}pos_embed", f"{ours}positions"),
        Rename(f"{file}patch_embed.proj.{{p}}", f"{ours}patch.projection.{{p}}"),
        *timm_block_rules(f"{file}blocks.{{i}}.", f"{ours}encoder.blocks.{{i}}."),
        Rename(f"{file}norm.{{p}}", f"{ours}encoder.norm.{{p}}"),
    ]


def timm_block_rules(block: str, mine: str) -> list[Rule]:
    """timm's names of one block."""
    return [
        Rename(f"{block}norm1.{{p}}", f"{mine}attention_norm.{{p}}"),
        Split(
            f"{block}attn.qkv.{{p}}",
            (f"{mine}attention.query.{{p}}", f"{mine}attention.key.{{p}}", f"{mine}attention.value.{{p}}"),
        ),
        Rename(f"{block}attn.proj.{{p}}", f"{mine}attention.out.{{p}}"),
        Rename(f"{block}norm2.{{p}}", f"{mine}feed_forward_norm.{{p}}"),
        Rename(f"{block}mlp.fc1.{{p}}", f"{mine}feed_forward.up.{{p}}"),
        Rename(f"{block}mlp.fc2.{{p}}", f"{mine}feed_forward.down.{{p}}"),
    ]


def transformers_rules(file: str, ours: str) -> list[Rule]:
    """Hugging Face's names of a trunk (ViT, ViTMAE), as hub files have them."""
    return [
        Rename(f"{file}embeddings.cls_token", f"{ours}class_token"),
        Rename(f"{file}embeddings.position_embeddings", f"{ours}positions"),
        Rename(f"{file}embeddings.patch_embeddings.projection.{{p}}", f"{ours}patch.projection.{{p}}"),
        *transformers_block_rules(f"{file}encoder.layer.{{i}}.", f"{ours}encoder.blocks.{{i}}."),
        Rename(f"{file}layernorm.{{p}}", f"{ours}encoder.norm.{{p}}"),
    ]


def transformers_block_rules(block: str, mine: str) -> list[Rule]:
    """Hugging Face's names of one block."""
    names = {
        "layernorm_before": "attention_norm",
        "attention.attention.query": "attention.query",
        "attention.attention.key": "attention.key",
        "attention.attention.value": "attention.value",
        "attention.output.dense": "attention.out",
        "layernorm_after": "feed_forward_norm",
        "intermediate.dense": "feed_forward.up",
        "output.dense": "feed_forward.down",
    }
    return [Rename(f"{block}{theirs}.{{p}}", f"{mine}{ours}.{{p}}") for theirs, ours in names.items()]
