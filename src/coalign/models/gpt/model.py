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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.checkpoints import Alias, Rename, StateMap, Tie
from coalign.errors import InputError
from coalign.objectives.causal_lm import CausalLM
from coalign.ops.masking import Drawn, next_tokens
from coalign.trunks.gpt import SIZES, GptConfig, GptTrunk, authors_rules, hugging_face, joint_rules, transformers_rules
from coalign.types import FREE, Batch, Draws, Encoding, InputSpec, Layout, Model, Packed, Record, System, Text
from coalign.types.spec import TextSpec


class Gpt(Model):
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

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The loss of the next word at every place that has one; see `next_word_labels`."""
        del draws
        return {"lm": self.lm(self.trunk, self.trunk(text_of(batch).ids), next_word_labels(batch.host))}


class NextWord(nn.Module):
    """The next-word loss of a trunk's states."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.per_sequence = config.mean == "sequence"
        self.objective = CausalLM()

    def forward(self, trunk: GptTrunk, states: Packed, labels: Tensor) -> Tensor:
        """`labels` [T] of the host, -100 where nothing is predicted; logits are made at the other rows only."""
        labelled = Drawn({"lm": labels}, states.layout.device)
        rows, labels = labelled.rows("lm"), labelled["lm"]
        items = states.layout.item[rows] if self.per_sequence else None
        return self.objective(trunk.predict(states.values[rows]), labels[rows], items, len(states))


def next_word_labels(batch: Batch) -> Tensor:
    """[T] the next word at every row. `labels.lm_labels` [T] may name the words that count, by -100 elsewhere."""
    ids, counted = text_of(batch).ids, batch.labels.lm_labels
    return next_tokens(ids if counted is None else ids.with_values(counted))


def last_rows(layout: Layout) -> Tensor:
    """[B] the row of each item's last word, kept padding aside."""
    if layout.hidden is None:
        return layout.offsets[1:] - 1
    rows = torch.arange(layout.total, device=layout.device)
    last = layout.offsets[:-1].clone()
    return last.scatter_reduce(0, layout.item, rows.masked_fill(layout.hidden, -1), "amax")


def text_spec(config: GptConfig) -> InputSpec:
    return InputSpec(TextSpec(config.vocab_size + config.special, config.positions, separator=False))


def text_of(batch: Batch) -> Text:
    if batch.text is None:
        raise InputError("this model reads texts, and the batch has none")
    return batch.text


# ------------------------------------------------------------------------------------------------------- checkpoints
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
