"""Names of ViLBERT's tensors in its authors' files."""

from __future__ import annotations

from coalign.checkpoints import Carry, Rename, Tie
from coalign.checkpoints.statemap import Rule
from coalign.trunks.bert import embedding_rules, layer_rules


def vilbert_rules() -> list[Rule]:
    """The authors' names of the trunk and the pre-training heads, the same in both of their repositories."""
    c, v, mine = "bert.encoder.c_layer.{i}.", "bert.encoder.v_layer.{i}.", "trunk.connections.{i}."
    rules: list[Rule] = [
        *embedding_rules("bert.embeddings.", "trunk.embedding."),
        *layer_rules("bert.encoder.layer.{i}.", "trunk.text.blocks.{i}."),
        *layer_rules(v, "trunk.regions.{i}."),
        Carry(f"{c}biOutput.q_dense1.{{p}}"),
        Carry(f"{c}biOutput.q_dense2.{{p}}"),
        Tie("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ]
    # The original's number 1 is vision and 2 is text: text asks with query2 and finds key1 and value1.
    names = {
        "bert.embeddings.task_embeddings": "trunk.tasks",
        f"{v}attention.self.dyLinear_q": "trunk.gates.{i}.query",
        f"{v}attention.self.dyLinear_k": "trunk.gates.{i}.key",
        f"{c}biattention.query1": f"{mine}region_attention.query",
        f"{c}biattention.key1": f"{mine}text_attention.key",
        f"{c}biattention.value1": f"{mine}text_attention.value",
        f"{c}biattention.query2": f"{mine}text_attention.query",
        f"{c}biattention.key2": f"{mine}region_attention.key",
        f"{c}biattention.value2": f"{mine}region_attention.value",
        f"{c}biOutput.dense1": f"{mine}region_attention.out",
        f"{c}biOutput.dense2": f"{mine}text_attention.out",
        f"{c}biOutput.LayerNorm1": f"{mine}region_norm",
        f"{c}biOutput.LayerNorm2": f"{mine}text_norm",
        f"{c}v_intermediate.dense": f"{mine}regions.feed_forward.up",
        f"{c}v_output.dense": f"{mine}regions.feed_forward.down",
        f"{c}v_output.LayerNorm": f"{mine}regions.feed_forward_norm",
        f"{c}t_intermediate.dense": f"{mine}text.feed_forward.up",
        f"{c}t_output.dense": f"{mine}text.feed_forward.down",
        f"{c}t_output.LayerNorm": f"{mine}text.feed_forward_norm",
        "bert.v_embeddings.image_embeddings": "trunk.region_embedding.feature",
        "bert.v_embeddings.image_location_embeddings": "trunk.region_embedding.location",
        "bert.v_embeddings.LayerNorm": "trunk.region_embedding.norm",
        "bert.t_pooler.dense": "trunk.text_pooler.dense",
        "bert.v_pooler.dense": "trunk.region_pooler.dense",
        "cls.predictions.transform.dense": "words.dense",
        "cls.predictions.transform.LayerNorm": "words.norm",
        "cls.predictions": "words",
        "cls.bi_seq_relationship": "match_head",
        "cls.imagePredictions.transform.dense": "region_head.up",
        "cls.imagePredictions.transform.LayerNorm": "region_head.norm",
        "cls.imagePredictions.decoder": "region_head.down",
    }
    return rules + [Rename(f"{theirs}.{{p}}", f"{ours}.{{p}}") for theirs, ours in names.items()]
