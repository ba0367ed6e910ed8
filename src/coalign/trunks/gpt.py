"""GPT's decoder (Radford et al. 2018, section 3.1): causal post-norm blocks, and the names of its tensors.

There is no norm on the embeddings and none after the last block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from coalign.checkpoints import Carry, Rename, Split, Transpose
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.layers.attention import Activation
from coalign.layers.dropout import Dropout
from coalign.layers.initialise import zero_bias
from coalign.layers.transformer import BlockConfig, Encoder
from coalign.ops.attention import Mask
from coalign.ops.vocabulary import logits, lookup
from coalign.types import Packed, Record


@dataclass(frozen=True)
class GptConfig:
    """Sizes. `special` tokens are numbered after the vocabulary: start, delimiter, extract (none while pre-training).

    The head width is dim / heads; `hidden_dim` None is 4 dim.
    """

    vocab_size: int = 40478
    special: int = 0
    positions: int = 512
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden_dim: int | None = None
    eps: float = 1e-5
    activation: Activation = "gelu_tanh"
    dropout: float = 0.1
    joint_softmax: bool = True
    mean: Literal["sequence", "word"] = "sequence"

    @property
    def start(self) -> int:
        return self.vocab_size

    @property
    def delimiter(self) -> int:
        return self.vocab_size + 1

    @property
    def extract(self) -> int:
        return self.vocab_size + 2

    def block(self) -> BlockConfig:
        return BlockConfig(
            self.dim,
            self.heads,
            self.hidden_dim or 4 * self.dim,
            eps=self.eps,
            activation=self.activation,
            dropout=self.dropout,
            attention_dropout=self.dropout,
        )


SIZES = {
    "tiny": GptConfig(dim=128, depth=2, heads=2),
    "small": GptConfig(dim=384, depth=6, heads=6),
    "base": GptConfig(),
}


def hugging_face(config: GptConfig) -> GptConfig:
    """The same with Hugging Face's next-word loss."""
    return replace(config, joint_softmax=False, mean="word")


class GptTrunk(nn.Module):
    """Embeddings and causal blocks; weights start from a normal of 0.02."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        c = self.config = config
        self.word = nn.Embedding(c.vocab_size + c.special, c.dim)
        self.position = nn.Embedding(c.positions, c.dim)
        self.dropout = Dropout(c.dropout)
        self.encoder = Encoder(c.block(), c.depth)
        self.apply(init_gpt)

    def forward(self, ids: Packed, *, record: Record | None = None, name: str = "text.") -> Packed:
        """States [T, dim] of the packed `ids`. `record` gets `{name}embedding`, and what `Encoder` records.

        Padding comes after the words, which cannot see what follows them: kept padding needs no mask, and has none.
        """
        if ids.max_length > self.config.positions:
            raise InputError(f"a text has {ids.max_length} pieces, the model {self.config.positions} positions")
        rows = self.dropout(lookup(self.word.weight, ids.values) + self.position(ids.layout.position))
        if record is not None:
            record[f"{name}embedding"] = rows
        mask = Mask.within(replace(ids.layout, hidden=None), causal=1)
        return ids.with_values(self.encoder(rows, mask, record=record, name=name))

    def predict(self, rows: Tensor) -> Tensor:
        """Logits [n, V] of the next word after these states; V counts positions too with `joint_softmax`."""
        table = self.word.weight
        if self.config.joint_softmax:
            table = torch.cat([table, self.position.weight])
        return logits(rows, table)


def init_gpt(module: nn.Module) -> None:
    """Weights normal with deviation 0.02, biases zero (section 4.1)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    zero_bias(module)


# ------------------------------------------------------------------------------------------------------ tensor names
# The authors' and Hugging Face's. `file`, `prefix` and `ours` are prefixes.
@dataclass(frozen=True)
class Conv1d(Transpose):
    """A convolution of width 1: [1, in, out]."""

    def load(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return super().load([tensor[0] for tensor in tensors])

    def export(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [tensor[None] for tensor in super().export(tensors)]


@dataclass(frozen=True)
class Conv1dSplit(Split):
    """The same with query, key and value side by side: [1, in, 3 out]."""

    def load(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return super().load([tensor[0] for tensor in tensors])

    def export(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [tensor[None] for tensor in super().export(tensors)]


def block_rules(
    file: str, ours: str, weight: str, bias: str, gain: str, split: type[Split], matrix: type[Transpose]
) -> list[Rule]:
    """Names of the blocks; `weight`, `bias` and `gain` are the file's own names of them."""
    parts = {"weight": weight, "bias": bias}
    qkv = {mine: tuple(f"{ours}attention.{part}.{mine}" for part in ("query", "key", "value")) for mine in parts}
    rules: list[Rule] = [
        split(f"{file}attn/c_attn{weight}", qkv["weight"], dim=1, transpose=True),
        Split(f"{file}attn/c_attn{bias}", qkv["bias"]),
    ]
    layers = {"attn/c_proj": "attention.out", "mlp/c_fc": "feed_forward.up", "mlp/c_proj": "feed_forward.down"}
    for theirs, mine in layers.items():
        rules.append(matrix(f"{file}{theirs}{weight}", f"{ours}{mine}.weight"))
        rules.append(Rename(f"{file}{theirs}{bias}", f"{ours}{mine}.bias"))
    for theirs, mine in {"ln_1": "attention_norm", "ln_2": "feed_forward_norm"}.items():
        rules.append(Rename(f"{file}{theirs}{gain}", f"{ours}{mine}.weight"))
        rules.append(Rename(f"{file}{theirs}{bias}", f"{ours}{mine}.bias"))
    return rules


def authors_rules(ours: str) -> list[Rule]:
    """The blocks in the authors' graph."""
    return block_rules("model/h{i}/", f"{ours}encoder.blocks.{{i}}.", "/w", "/b", "/g", Conv1dSplit, Conv1d)


def joint_rules(config: GptConfig, ours: str) -> list[Rule]:
    """The authors' model as fine-tuned: one table of words, special tokens and positions."""
    sizes = (config.vocab_size + config.special, config.positions)
    table = Split("model/we", (f"{ours}word.weight", f"{ours}position.weight"), sizes=sizes)
    return [table, *authors_rules(ours)]


def transformers_rules(prefix: str, ours: str) -> list[Rule]:
    """Hugging Face names; some versions store the causal triangle ("attn.bias"), which is kept aside."""
    block = f"{prefix}h.{{i}}."
    named = block_rules(block, f"{ours}encoder.blocks.{{i}}.", ".weight", ".bias", ".weight", Split, Transpose)
    dotted = [
        replace(rule, file=rule.file.replace("/", "."))
        if isinstance(rule, Rename) and isinstance(rule.file, str)
        else rule
        for rule in named
    ]
    return [
        Rename(f"{prefix}tokens_embed.weight", f"{ours}word.weight"),
        Rename(f"{prefix}positions_embed.weight", f"{ours}position.weight"),
        *dotted,
        Carry(f"{block}attn.bias"),
        Carry(f"{prefix}position_ids"),
    ]
