"""GPT: Improving Language Understanding by Generative Pre-Training (Radford et al., 2018).

Words and positions are summed and pass through post-norm transformer blocks in which each word sees only those before
it; the model learns to predict the next word. Fine-tuning turns every task into a sequence with start, delimiter and
extract tokens (`gpt_tasks`). There is no norm on the embeddings and none after the last block.

In the authors' code one table holds words, special tokens and positions, and the next word is predicted over all of
its rows; Hugging Face predicts over words alone: `joint_softmax`. Their loss is the mean of each sequence's own mean,
Hugging Face's the mean over all words: `mean`. Departure: dropout falls on the summed embeddings (as in Hugging
Face), not on the table, which the authors' output layer shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.checkpoints import Alias, Carry, Rename, Split, StateMap, Tie, Transpose
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.layers.attention import Activation
from coalign.layers.dropout import Dropout
from coalign.layers.initialise import zero_bias
from coalign.layers.transformer import BlockConfig, Encoder
from coalign.objectives.causal_lm import CausalLM
from coalign.ops.attention import Mask
from coalign.ops.masking import next_tokens, predicted_rows
from coalign.types import Batch, Encoding, InputSpec, Layout, Packed, Record, System, Text


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
        rows = self.dropout(self.word(ids.values) + self.position(ids.layout.position))
        if record is not None:
            record[f"{name}embedding"] = rows
        mask = Mask.within(replace(ids.layout, hidden=None), causal=1)
        return ids.with_values(self.encoder(rows, mask, record=record, name=name))

    def predict(self, rows: Tensor) -> Tensor:
        """Logits [n, V] of the next word after these states; V counts positions too with `joint_softmax`."""
        table = self.word.weight
        if self.config.joint_softmax:
            table = torch.cat([table, self.position.weight])
        return F.linear(rows, table)


def init_gpt(module: nn.Module) -> None:
    """Weights normal with deviation 0.02, biases zero (section 4.1)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    zero_bias(module)


class Gpt(nn.Module):
    """The language model, which also encodes texts."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = GptTrunk(config)
        self.lm = NextWord(config)

    @property
    def input_spec(self) -> InputSpec:
        return text_spec(self.config)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States of every piece, and the last piece's as the vector of a text, which has seen all of it.

        With `record`: "text.embedding", "text.{i}.hidden" and "text.{i}.attention" of every block i.
        """
        kept: Record | None = {} if record else None
        states = self.trunk(text_of(batch).ids, record=kept)
        last = states.values[last_rows(states.layout)]
        return Encoding({"text": states}, {"text": last}, {"text": F.normalize(last, dim=-1)}, kept or {})

    def logits(self, states: Packed) -> Packed:
        """Next-word logits [T, V] at every row."""
        return states.with_values(self.trunk.predict(states.values))

    def before_step(self) -> None:
        """Nothing to do."""

    def losses(
        self,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
        choices: Mapping[str, Tensor] | None = None,
        only: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """The loss of the next word at every place that has one; see `next_word_labels`."""
        del generator, choices, only
        return {"lm": self.lm(self.trunk, self.trunk(text_of(batch).ids), next_word_labels(batch))}

    def after_step(self) -> None:
        """Nothing to do."""


class NextWord(nn.Module):
    """The next-word loss of a trunk's states."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.per_sequence = config.mean == "sequence"
        self.objective = CausalLM()

    def forward(self, trunk: GptTrunk, states: Packed, labels: Tensor) -> Tensor:
        """`labels` [T], -100 where nothing is predicted; logits are made at the other rows only."""
        rows = predicted_rows(labels)
        items = states.layout.item[rows] if self.per_sequence else None
        return self.objective(trunk.predict(states.values[rows]), labels[rows], items, len(states))


def next_word_labels(batch: Batch) -> Tensor:
    """[T] the next word at every row. `labels["lm_labels"]` [T] may name the words that count, by -100 elsewhere."""
    ids = text_of(batch).ids
    return next_tokens(ids.with_values(batch.labels.get("lm_labels", ids.values)))


def last_rows(layout: Layout) -> Tensor:
    """[B] the row of each item's last word, kept padding aside."""
    if layout.hidden is None:
        return layout.offsets[1:] - 1
    rows = torch.arange(layout.total, device=layout.offsets.device)
    last = layout.offsets[:-1].clone()
    return last.scatter_reduce(0, layout.item, rows.masked_fill(layout.hidden, -1), "amax")


def text_spec(config: GptConfig) -> InputSpec:
    return InputSpec(vocab_size=config.vocab_size + config.special, max_text_length=config.positions, separator=False)


def text_of(batch: Batch) -> Text:
    if batch.text is None:
        raise InputError("this model reads texts, and the batch has none")
    return batch.text


# ------------------------------------------------------------------------------------------------------- checkpoints
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


def released(config: GptConfig) -> StateMap:
    """The ten published .npy pieces, as `checkpoints.gpt_pieces` names them."""
    del config  # their names do not depend on sizes
    return StateMap(
        Rename("positions", "trunk.position.weight"),
        Rename("model/we (token rows)", "trunk.word.weight"),
        authors_rules("trunk."),
    )


def original(config: GptConfig) -> StateMap:
    """The authors' graph, without a task's head."""
    return StateMap(joint_rules(config, "trunk."))


def transformers(config: GptConfig) -> StateMap:
    """Hugging Face's OpenAIGPTLMHeadModel; reads OpenAIGPTModel, which has no prefix, as well."""
    del config
    parts = ("tokens_embed", "positions_embed", "h")
    return StateMap(
        [Alias(f"{part}.{{rest}}", f"transformer.{part}.{{rest}}") for part in parts],
        transformers_rules("transformer.", "trunk."),
        Tie("lm_head.weight", "transformer.tokens_embed.weight"),
    )


SYSTEM = System(
    name="gpt",
    title="GPT: generative pre-training",
    paper="Radford et al., 2018",
    model=Gpt,
    config=GptConfig,
    sizes=SIZES,
    weights={"released": released, "original": original, "transformers": transformers},
    for_layout={"transformers": hugging_face},
    objectives=("lm",),
)
