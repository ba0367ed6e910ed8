"""Names of MAE's tensors in the authors' files and in Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable

from coalign.checkpoints import Alias, Carry, Rename, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.models.vit.config import VitClassifierConfig
from coalign.models.vit.names import timm as classifier
from coalign.trunks.vit_names import timm_block_rules, timm_rules, transformers_block_rules, transformers_rules


def original(config: object) -> StateMap:
    """The authors' whole auto-encoder ("visualize" files, runs of main_pretrain.py)."""
    del config
    return StateMap(decoder_rules("", "decoder_blocks", timm_block_rules), timm_rules("", "trunk."))


def encoder(config: VitClassifierConfig) -> StateMap:
    """The authors' pre-training files into a classifier: the encoder alone, or the whole, whose decoder is carried."""
    return StateMap(Carry("decoder_{rest}"), Carry("mask_token"), classifier(config).rules)


def transformers(config: object) -> StateMap:
    """Hugging Face's ViTMAEForPreTraining."""
    del config
    return StateMap(
        Alias("decoder.decoder_encoder.layer.{rest}", "decoder.decoder_layers.{rest}"),  # saved by transformers 5
        decoder_rules("decoder.", "decoder_layers", transformers_block_rules),
        transformers_rules("vit.", "trunk."),
    )


def decoder_rules(prefix: str, blocks: str, block_rules: Callable[[str, str], list[Rule]]) -> list[Rule]:
    return [
        Rename(f"{prefix}mask_token", "mask_token"),
        Rename(f"{prefix}decoder_pos_embed", "positions"),
        Rename(f"{prefix}decoder_embed.{{p}}", "to_decoder.{p}"),
        Rename(f"{prefix}decoder_norm.{{p}}", "decoder.norm.{p}"),
        Rename(f"{prefix}decoder_pred.{{p}}", "predict.{p}"),
        *block_rules(f"{prefix}{blocks}.{{i}}.", "decoder.blocks.{i}."),
    ]
