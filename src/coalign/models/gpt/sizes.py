"""Sizes of a GPT of any published layout: from the names and shapes of its tensors, or the config.json beside them.

And the other way: the config.json with which Hugging Face's library reads what we write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.attention import Activation
from coalign.trunks.gpt import GptConfig, hugging_face

ACTIVATIONS: Mapping[str, Activation] = {"gelu": "gelu_tanh", "gelu_new": "gelu_tanh", "relu": "relu"}
"""Hugging Face's names; its GPT computes "gelu" by the tanh formula."""

_ARCHITECTURES = {
    "Gpt": "OpenAIGPTLMHeadModel",
    "GptClassifier": "OpenAIGPTForSequenceClassification",
    "GptMultipleChoice": "OpenAIGPTDoubleHeadsModel",
}
_WIDE = 64  # of a head, where a layout does not say how many there are


def transformers_prefix(shapes: Mapping[str, Tensor]) -> str | None:
    """The prefix of Hugging Face's names, None in the authors' own files."""
    prefixes = ("", "transformer.")
    return next((prefix for prefix in prefixes if f"{prefix}tokens_embed.weight" in shapes), None)


def sizes_of(
    shapes: Mapping[str, Tensor], *, heads: int | None = None, words: int | None = None, positions: int | None = None
) -> GptConfig | None:
    """The configuration of a file of any layout; None where it is none of them.

    Shapes do not tell the number of heads (64 wide ones by default), nor how many rows of the table are `words` of the
    vocabulary (all); of the authors' joint table not how many are `positions`, without which it is not read.
    """
    prefix = transformers_prefix(shapes)
    table, block, up = "model/we (token rows)", "model/h{}/", "mlp/c_fc/b"
    if prefix is not None:
        table, block, up = f"{prefix}tokens_embed.weight", f"{prefix}h.{{}}.", "mlp.c_fc.bias"
        positions = shapes[f"{prefix}positions_embed.weight"].shape[0]
    elif table in shapes and "positions" in shapes:
        positions = shapes["positions"].shape[0]
    elif "model/we" not in shapes or positions is None:
        return None
    joint = table not in shapes
    rows, dim = shapes["model/we" if joint else table].shape
    rows -= positions if joint else 0
    depth = 0
    while any(name.startswith(block.format(depth)) for name in shapes):
        depth += 1
    words = rows if words is None else words
    config = GptConfig(
        vocab_size=words,
        special=rows - words,
        positions=positions,
        dim=dim,
        depth=depth,
        heads=heads or max(1, dim // _WIDE),
        hidden_dim=shapes[block.format(0) + up].shape[0],
    )
    return config if prefix is None else hugging_face(config)


def of_config(described: Mapping[str, Any]) -> GptConfig | None:
    """The configuration that a Hugging Face config.json tells; None of another model.

    Raises:
        InputError: It is a GPT's, and computes something that ours does not.
    """
    if described.get("model_type") != "openai-gpt":
        return None
    activation = described.get("afn", "gelu")
    if activation not in ACTIVATIONS:
        raise InputError(f"no activation {activation!r}; there are: {', '.join(ACTIVATIONS)}")
    base = GptConfig()
    config = GptConfig(
        vocab_size=described.get("vocab_size", base.vocab_size),
        positions=described.get("n_positions", base.positions),
        dim=described.get("n_embd", base.dim),
        depth=described.get("n_layer", base.depth),
        heads=described.get("n_head", base.heads),
        eps=described.get("layer_norm_epsilon", base.eps),
        activation=ACTIVATIONS[activation],
        dropout=described.get("resid_pdrop", base.dropout),
    )
    return hugging_face(config)


def to_config(model: nn.Module, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """The config.json of Hugging Face's library for this model; `labels` are the names of its classes."""
    config: Any = model.config
    c: GptConfig = getattr(config, "gpt", config)
    kind = type(model).__name__
    if kind not in _ARCHITECTURES:
        raise InputError(f"Hugging Face's library has no GPT like {kind}")
    out: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[kind]],
        "model_type": "openai-gpt",
        "vocab_size": c.vocab_size + c.special,
        "n_positions": c.positions,
        "n_embd": c.dim,
        "n_layer": c.depth,
        "n_head": c.heads,
        "afn": "gelu" if c.activation == "gelu_tanh" else c.activation,
        "layer_norm_epsilon": c.eps,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), c.dropout),
    }
    if kind == "GptClassifier":
        names = list(labels or [f"LABEL_{number}" for number in range(config.classes)])
        out["id2label"] = {str(number): label for number, label in enumerate(names)}
        out["label2id"] = {label: number for number, label in enumerate(names)}
    return out


OF_WEIGHTS, OF_CONFIG, TO_CONFIG = sizes_of, of_config, to_config
