"""The names that timm, Hugging Face and Google give a ViT's tensors: systems with a ViT inside share them.

`file` and `ours` are prefixes.
"""

from __future__ import annotations

from coalign.checkpoints import Alias, Rename, StateMap, Transpose
from coalign.checkpoints.statemap import Rule
from coalign.models.vit.config import VitClassifierConfig
from coalign.trunks.vit_names import flax_block_rules, flax_dense_rules, flax_norm_rules, timm_rules, transformers_rules


def google_rules(dim: int, heads: int, numbers: tuple[int, int, int]) -> list[Rule]:
    """Names of Google's .npz files; `numbers` are those of attention, second norm and MLP within a block."""
    rules: list[Rule] = [
        Rename("cls", "trunk.class_token"),
        Rename("Transformer/posembed_input/pos_embedding", "trunk.positions"),
        Transpose("embedding/kernel", "trunk.patch.projection.weight", (3, 2, 0, 1)),
        Rename("embedding/bias", "trunk.patch.projection.bias"),
        *flax_block_rules("Transformer/encoderblock_{i}/", "trunk.encoder.blocks.{i}.", dim, heads, numbers),
        *flax_norm_rules("Transformer/encoder_norm", "trunk.encoder.norm"),
    ]
    for theirs, mine in (("pre_logits", "representation"), ("head", "head")):
        rules += flax_dense_rules(theirs, mine)
    return rules


def timm(config: VitClassifierConfig) -> StateMap:
    """timm's names, which MAE's classifiers share (`head.0`, `head.1` where a probe's BatchNorm comes first)."""
    return StateMap(
        Rename("fc_norm.{p}", "norm.{p}"),
        Rename("pre_logits.fc.{p}", "representation.{p}"),
        [Rename("head.0.{p}", "head_norm.{p}"), Rename("head.1.{p}", "head.{p}")] if config.probe else [],
        [] if config.probe else [Rename("head.{p}", "head.{p}")],
        timm_rules("", "trunk."),
    )


def transformers(config: VitClassifierConfig) -> StateMap:
    """Hugging Face's names: ViTForImageClassification, or ViTModel where there are no classes."""
    prefix = "" if config.classes is None else "vit."
    return StateMap(
        Rename(f"{prefix}pooler.dense.{{p}}", "representation.{p}"),
        Rename("classifier.{p}", "head.{p}"),
        transformers_rules(prefix, "trunk."),
    )


def original(config: VitClassifierConfig) -> StateMap:
    """Google's released .npz files; the block numbering of their present code is read too."""
    block = "Transformer/encoderblock_{i}/"
    renumbered = (
        ("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"),
        ("LayerNorm_1", "LayerNorm_2"),
        ("MlpBlock_0", "MlpBlock_3"),
    )
    aliases = [Alias(f"{block}{new}/{{rest}}", f"{block}{old}/{{rest}}") for new, old in renumbered]
    return StateMap(aliases, google_rules(config.trunk.dim, config.trunk.heads, (1, 2, 3)))


def original_linen(config: VitClassifierConfig) -> StateMap:
    """Google's .npz files with the block numbering of their present code."""
    return StateMap(google_rules(config.trunk.dim, config.trunk.heads, (0, 1, 0)))
