"""Sizes of a BERT of any published layout: from the names and shapes of its tensors, or the config.json beside them.

And the other way: the config.json with which Hugging Face's library reads what we write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.attention import Activation
from coalign.models.bert.model import Bert, BertPretrainingConfig
from coalign.trunks.bert import BertConfig
from coalign.trunks.vit_sizes import count

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_ARCHITECTURES = {
    "BertClassifier": "BertForSequenceClassification",
    "BertTagger": "BertForTokenClassification",
    "BertSpans": "BertForQuestionAnswering",
    "BertMultipleChoice": "BertForMultipleChoice",
}
_WIDE = 64  # of a head, where a layout does not say how many there are; MiniLM and its like have 12 of 32


def of_weights(shapes: Mapping[str, Tensor]) -> BertPretrainingConfig | None:
    """The configuration of a file of Google's or Hugging Face's names; None where it is neither.

    Shapes do not tell the number of heads: 64 wide ones, but 12 of a width of 384.
    """
    google = next((name for name in shapes if name == "bert/embeddings/word_embeddings"), None)
    table = google or next((n for n in shapes if n.endswith("embeddings.word_embeddings.weight")), None)
    if table is None:
        return None
    rest = table.removesuffix("word_embeddings.weight").removesuffix("word_embeddings")
    ending = "" if google else ".weight"
    layer = "bert/encoder/layer_{}/" if google else f"{rest.removesuffix('embeddings.')}encoder.layer.{{}}."
    up = f"{layer.format(0)}intermediate{'/dense/bias' if google else '.dense.bias'}"
    parts = (f"{rest}position_embeddings{ending}", f"{rest}token_type_embeddings{ending}", up)
    if any(part not in shapes for part in parts):
        return None
    vocab_size, dim = shapes[table].shape
    return BertPretrainingConfig(
        BertConfig(
            vocab_size=vocab_size,
            dim=dim,
            depth=count(shapes, layer),
            heads=12 if dim == 384 else max(1, dim // _WIDE),
            hidden_dim=shapes[up].shape[0],
            positions=shapes[parts[0]].shape[0],
            types=shapes[parts[1]].shape[0],
        )
    )


def of_config(described: Mapping[str, Any]) -> BertPretrainingConfig | None:
    """The configuration that a Hugging Face config.json or Google's bert_config.json tells; None of another model.

    Raises:
        InputError: It is a BERT's, and computes something that ours does not.
    """
    if "hidden_size" not in described or described.get("model_type", "bert") != "bert":
        return None
    if described.get("position_embedding_type", "absolute") != "absolute":
        raise InputError(f"positions of the kind {described['position_embedding_type']!r} are not those of the paper")
    activation = described.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise InputError(f"no activation {activation!r}; there are: {', '.join(ACTIVATIONS)}")
    trunk = BertConfig(
        vocab_size=described["vocab_size"],
        dim=described["hidden_size"],
        depth=described["num_hidden_layers"],
        heads=described["num_attention_heads"],
        hidden_dim=described["intermediate_size"],
        positions=described["max_position_embeddings"],
        types=described.get("type_vocab_size", 2),
        eps=described.get("layer_norm_eps", 1e-12),
        activation=ACTIVATIONS[activation],
        dropout=described.get("hidden_dropout_prob", 0.1),
    )
    return BertPretrainingConfig(trunk)


def to_config(model: nn.Module, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """The config.json of Hugging Face's library for this model; `labels` are the names of its classes."""
    config: Any = model.config
    c: BertConfig = config.trunk
    if isinstance(model, Bert):
        name = {(): "BertModel", ("mlm",): "BertForMaskedLM"}.get(config.objectives, "BertForPreTraining")
    else:
        name = _ARCHITECTURES[type(model).__name__]
    out: dict[str, Any] = {
        "architectures": [name],
        "model_type": "bert",
        "vocab_size": c.vocab_size,
        "hidden_size": c.dim,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": c.hidden_dim,
        "max_position_embeddings": c.positions,
        "type_vocab_size": c.types,
        "layer_norm_eps": c.eps,
        "hidden_act": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == c.activation),
        "hidden_dropout_prob": c.dropout,
        "attention_probs_dropout_prob": c.dropout,
        "pad_token_id": 0,
    }
    if name in ("BertForSequenceClassification", "BertForTokenClassification"):
        names = list(labels or [f"LABEL_{number}" for number in range(config.classes)])
        out["id2label"] = {str(number): label for number, label in enumerate(names)}
        out["label2id"] = {label: number for number, label in enumerate(names)}
    return out


OF_WEIGHTS, OF_CONFIG, TO_CONFIG = of_weights, of_config, to_config
