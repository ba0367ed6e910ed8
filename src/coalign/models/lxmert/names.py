"""Names of LXMERT's tensors in its authors' files and in Hugging Face's."""

from __future__ import annotations

from coalign.checkpoints import Rename, StateMap, Tie
from coalign.checkpoints.statemap import Rule
from coalign.trunks.bert import embedding_rules, layer_rules


def trunk_rules(file: str, ours: str) -> list[Rule]:
    """The authors' names of the trunk; Hugging Face has the same ones after another prefix."""
    x, mine = f"{file}encoder.x_layers.{{i}}.", f"{ours}cross.{{i}}."
    rules: list[Rule] = [
        *embedding_rules(f"{file}embeddings.", f"{ours}embedding."),
        *layer_rules(f"{file}encoder.layer.{{i}}.", f"{ours}text.blocks.{{i}}."),
        *layer_rules(f"{file}encoder.r_layers.{{i}}.", f"{ours}regions.blocks.{{i}}."),
        Rename(f"{x}visual_attention.output.dense.{{p}}", f"{mine}attention.out.{{p}}"),
        Rename(f"{x}visual_attention.output.LayerNorm.{{p}}", f"{mine}attention_norm.{{p}}"),
        Rename(f"{x}visual_attention.att.{{part}}.{{p}}", f"{mine}attention.{{part}}.{{p}}"),
        Rename(f"{file}pooler.dense.{{p}}", f"{ours}pooler.dense.{{p}}"),
    ]
    names = {
        "self_att.self.query": "attention.query",
        "self_att.self.key": "attention.key",
        "self_att.self.value": "attention.value",
        "self_att.output.dense": "attention.out",
        "self_att.output.LayerNorm": "attention_norm",
        "inter.dense": "feed_forward.up",
        "output.dense": "feed_forward.down",
        "output.LayerNorm": "feed_forward_norm",
    }
    rules += [Rename(f"{x}lang_{theirs}.{{p}}", f"{mine}text.{part}.{{p}}") for theirs, part in names.items()]
    rules += [Rename(f"{x}visn_{theirs}.{{p}}", f"{mine}regions.{part}.{{p}}") for theirs, part in names.items()]
    parts = {"visn_fc": "feature", "visn_layer_norm": "feature_norm", "box_fc": "box", "box_layer_norm": "box_norm"}
    for theirs, part in parts.items():
        rules.append(Rename(f"{file}encoder.visn_fc.{theirs}.{{p}}", f"{ours}region_embedding.{part}.{{p}}"))
    return rules


def answer_head_rules(file: str, ours: str) -> list[Rule]:
    places = (("0", "up"), ("2", "norm"), ("3", "down"))
    return [Rename(f"{file}logit_fc.{place}.{{p}}", f"{ours}{part}.{{p}}") for place, part in places]


def original(config: object, trunk: str = "bert.") -> StateMap:
    """The authors' pre-training file."""
    del config
    objects = "obj_predict_head."
    return StateMap(
        trunk_rules(trunk, "trunk."),
        Rename("cls.predictions.bias", "words.bias"),
        Rename("cls.predictions.transform.dense.{p}", "words.dense.{p}"),
        Rename("cls.predictions.transform.LayerNorm.{p}", "words.norm.{p}"),
        Tie("cls.predictions.decoder.weight", f"{trunk}embeddings.word_embeddings.weight"),
        Rename("cls.seq_relationship.{p}", "match_head.{p}"),
        Rename(f"{objects}transform.dense.{{p}}", "region_head.dense.{p}"),
        Rename(f"{objects}transform.LayerNorm.{{p}}", "region_head.norm.{p}"),
        Rename(f"{objects}decoder_dict.obj.{{p}}", "region_head.decoders.objects.{p}"),
        Rename(f"{objects}decoder_dict.attr.{{p}}", "region_head.decoders.attributes.{p}"),
        Rename(f"{objects}decoder_dict.feat.{{p}}", "region_head.decoders.features.{p}"),
        answer_head_rules("answer_head.", "answer_head."),
    )


def transformers(config: object) -> StateMap:
    """Hugging Face's LxmertForPreTraining: the authors' names, the trunk's under "lxmert."."""
    return original(config, "lxmert.")
