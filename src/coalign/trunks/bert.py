"""BERT's encoder (Devlin et al. 2019, section 3), which many systems stand on, and the names of its tensors.

Words, positions and segments are summed and normalised, then pass through post-norm transformer blocks that see both
ways. Some of the blocks may look across at another modality (`cross_from`), and they may be run in parts (`last`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coalign.checkpoints import Alias, Carry, Constant, Rename, Tie, Transpose
from coalign.checkpoints.statemap import Rule
from coalign.layers.attention import Activation
from coalign.layers.embeddings import TextEmbedding
from coalign.layers.initialise import zero_bias
from coalign.layers.transformer import BlockConfig, Context, Encoder
from coalign.ops.attention import Mask
from coalign.types import InputSpec, Packed, Record, TextSpec


@dataclass(frozen=True)
class BertConfig:
    """Sizes of the trunk. `activation`: "gelu_tanh" for Google's TensorFlow files, "gelu" (erf) for Hugging Face's.

    `cross_from` and `context_dim`: blocks from there on have a cross-attention to rows of that width, which with
    `optional_context` they leave out where there are none.
    """

    vocab_size: int = 30522
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden_dim: int = 3072
    positions: int = 512
    types: int = 2
    eps: float = 1e-12
    activation: Activation = "gelu"
    dropout: float = 0.1
    context_dim: int | None = None
    cross_from: int = 0
    optional_context: bool = False

    def block(self, number: int) -> BlockConfig:
        return BlockConfig(
            self.dim,
            self.heads,
            self.hidden_dim,
            eps=self.eps,
            activation=self.activation,
            context_dim=self.context_dim if number >= self.cross_from else None,
            dropout=self.dropout,
            attention_dropout=self.dropout,
            optional_context=self.optional_context,
        )


SIZES = {
    "tiny": BertConfig(dim=128, depth=2, heads=2, hidden_dim=512),
    "mini": BertConfig(dim=256, depth=4, heads=4, hidden_dim=1024),
    "small": BertConfig(dim=512, depth=4, heads=8, hidden_dim=2048),
    "medium": BertConfig(dim=512, depth=8, heads=8, hidden_dim=2048),
    "minilm": BertConfig(dim=384, depth=6, heads=12, hidden_dim=1536),
    "base": BertConfig(),
    "large": BertConfig(dim=1024, depth=24, heads=16, hidden_dim=4096),
    "base-cased": BertConfig(vocab_size=28996),
    "large-cased": BertConfig(vocab_size=28996, dim=1024, depth=24, heads=16, hidden_dim=4096),
}


class BertTrunk(nn.Module):
    """Embeddings and blocks. Dropout is off in eval mode; weights start from a normal of 0.02 (section A.2)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        c = self.config = config
        self.embedding = TextEmbedding(
            c.vocab_size, c.dim, positions=c.positions, types=c.types, eps=c.eps, dropout=c.dropout
        )
        self.encoder = Encoder([c.block(i) for i in range(c.depth)])
        self.apply(init_bert)

    def forward(
        self,
        ids: Packed,
        types: Tensor | None = None,
        *,
        mask: Mask | None = None,
        context: Context | Sequence[Context | None] | None = None,
        last: int | None = None,
        record: Record | None = None,
        name: str = "text.",
    ) -> Packed:
        """States [T, dim] of the packed `ids` after the blocks up to `last`.

        `record` gets `{name}embedding`, and what `Encoder` records.
        """
        embedded = self.embedding(ids, types)
        if record is not None:
            record[f"{name}embedding"] = embedded
        rows = self.encoder(
            embedded,
            mask or Mask.within(ids),
            context,
            last=last,
            record=record,
            name=name,
        )
        return ids.with_values(rows)

    def at(self, rows: Tensor, ids: Packed, types: Tensor | None = None) -> Tensor:
        """The states of these rows alone, numbers [n] in any order or [B, n] of each item, in their order."""
        return self.encoder(self.embedding(ids, types), Mask.within(ids), rows=rows)


def init_bert(module: nn.Module) -> None:
    """Weights normal with deviation 0.02, biases zero (the original's initialiser)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    zero_bias(module)


def text_spec(trunk: BertConfig, max_text_length: int) -> InputSpec:
    """The text input of a BERT; never longer than its position table."""
    return InputSpec(TextSpec(trunk.vocab_size, min(max_text_length, trunk.positions)))


# ------------------------------------------------------------------------------------------------------ tensor names
# Hugging Face's and Google's; systems with a BERT inside share them. `file` and `ours` are prefixes.
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


def trunk_rules(file: str, ours: str, config: BertConfig, position_ids: bool = False) -> list[Rule]:
    """Hugging Face names of a whole trunk."""
    return [
        *embedding_rules(f"{file}embeddings.", f"{ours}embedding.", config.positions if position_ids else None),
        *layer_rules(
            f"{file}encoder.layer.{{i}}.", f"{ours}encoder.blocks.{{i}}.", cross=config.context_dim is not None
        ),
    ]


def word_head_rules(file: str, ours: str, table: str, *, tied_bias: bool = True) -> list[Rule]:
    """Hugging Face names of a tied masked-word head; `table` is the file's name of the word table. Older files have the
    bias once (`tied_bias` off)."""
    return [
        Rename(f"{file}bias", f"{ours}bias"),
        Rename(f"{file}transform.dense.{{p}}", f"{ours}dense.{{p}}"),
        Rename(f"{file}transform.LayerNorm.{{p}}", f"{ours}norm.{{p}}"),
        Tie(f"{file}decoder.weight", table),
        *([Tie(f"{file}decoder.bias", f"{file}bias")] if tied_bias else []),
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
