"""Names of UNITER's tensors in its authors' files."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from coalign.checkpoints import Alias, Rename, StateMap, Tie
from coalign.checkpoints.statemap import Rule
from coalign.trunks.bert import BertConfig, trunk_rules, word_head_rules


@runtime_checkable
class Sizes(Protocol):
    """The part of the configuration that the names depend on: a `UniterConfig`."""

    @property
    def text(self) -> BertConfig: ...


def trunk_names(text: BertConfig) -> list[Rule]:
    """The authors' names of a trunk; older files say gamma and beta for a norm's weight and bias."""
    file, ours = "uniter.img_embeddings.", "trunk.regions."
    return [
        Alias("{rest}.gamma", "{rest}.weight"),
        Alias("{rest}.beta", "{rest}.bias"),
        Rename(f"{file}img_linear.{{p}}", f"{ours}feature.{{p}}"),
        Rename(f"{file}img_layer_norm.{{p}}", f"{ours}feature_norm.{{p}}"),
        Rename(f"{file}pos_linear.{{p}}", f"{ours}box.{{p}}"),
        Rename(f"{file}pos_layer_norm.{{p}}", f"{ours}box_norm.{{p}}"),
        Rename(f"{file}mask_embedding.weight", f"{ours}hidden_feature.weight"),
        Rename(f"{file}LayerNorm.{{p}}", f"{ours}norm.{{p}}"),
        *trunk_rules("uniter.", "trunk.", text),
        Rename("uniter.pooler.dense.{p}", "trunk.pooler.dense.{p}"),
    ]


def original(config: Sizes) -> StateMap:
    """The authors' pre-training files."""
    return StateMap(
        trunk_names(config.text),
        word_head_rules("cls.predictions.", "words.", "uniter.embeddings.word_embeddings.weight", tied_bias=False),
        Tie("feat_regress.weight", "uniter.img_embeddings.img_linear.weight"),
        Rename("feat_regress.bias", "features.bias"),
        Rename("feat_regress.net.0.{p}", "features.dense.{p}"),
        Rename("feat_regress.net.2.{p}", "features.norm.{p}"),
        Rename("region_classifier.net.0.{p}", "classes.up.{p}"),
        Rename("region_classifier.net.2.{p}", "classes.norm.{p}"),
        Rename("region_classifier.net.3.{p}", "classes.down.{p}"),
        Rename("itm_output.{p}", "match_head.{p}"),
    )
