"""BERT: Pre-training of Deep Bidirectional Transformers (Devlin et al., NAACL 2019, arXiv 1810.04805).

Words, positions and segments are summed and normalised, then pass through post-norm transformer blocks that see
both ways. Pre-training hides words and predicts them from both sides (MLM), and says from [CLS] whether the second
part of the input follows the first (NSP). The trunk also serves as the text tower of other systems.

Departures from Google's code: hidden words are drawn anew at every step unless the data brings them already hidden
(the original hides them once, when it writes its files); their loss is the plain mean, where the original adds 1e-5
to the count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.checkpoints import Carry, Rename, StateMap
from coalign.errors import InputError
from coalign.layers.heads import MaskedLMHead, Pooler
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.next_sentence import NextSentence
from coalign.ops.masking import Drawn, mask_tokens, predicted_rows
from coalign.trunks.bert import (
    SIZES,
    BertConfig,
    BertTrunk,
    alias_rules,
    dense_rules,
    init_bert,
    norm_rules,
    tensorflow_rules,
    text_spec,
    trunk_rules,
    word_head_rules,
)
from coalign.trunks.reading import text_of
from coalign.types import FREE, Batch, Draws, Encoding, InputSpec, Labels, Model, Packed, Record, System, Text


@dataclass(frozen=True)
class BertPretrainingConfig:
    """The whole system. The defaults are the paper's pre-training (section 3.1, appendix A.2).

    `objectives=()` is the encoder with its pooler alone. `vector`: what `encode` gives as the vector of a text, the
    mean of its states (MiniLM and other sentence encoders), the state of [CLS], or the pooler's output.
    """

    trunk: BertConfig = field(default_factory=BertConfig)
    objectives: tuple[Literal["mlm", "nsp"], ...] = ("mlm", "nsp")
    mask_probability: float = 0.15
    whole_word: bool = False
    """Hide all pieces of a word or none. Needs `Text.words`."""
    max_text_length: int = 512
    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103
    vector: Literal["mean", "cls", "pooler"] = "mean"


PRETRAINING_SIZES = {name: BertPretrainingConfig(trunk) for name, trunk in SIZES.items()}


class Bert(Model):
    """The pre-training model, which also encodes texts and words in context."""

    def __init__(self, config: BertPretrainingConfig) -> None:
        super().__init__()
        c, trunk = config, config.trunk
        self.config = config
        self.trunk = BertTrunk(trunk)
        self.pooler = Pooler(trunk.dim)
        self.words = (
            MaskedLMHead(trunk.dim, trunk.vocab_size, eps=trunk.eps, activation=trunk.activation)
            if "mlm" in c.objectives
            else None
        )
        self.next_sentence = nn.Linear(trunk.dim, 2) if "nsp" in c.objectives else None
        for part in (self.pooler, self.words, self.next_sentence):
            if part is not None:
                part.apply(init_bert)
        self.mlm, self.nsp = MaskedLM(), NextSentence()

    @property
    def input_spec(self) -> InputSpec:
        return text_spec(self.config.trunk, self.config.max_text_length)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States of every piece ("text"), the pooler's output ("text") and the unit vector that `config.vector` names.

        With `record`: "text.embedding", "text.{i}.hidden" and "text.{i}.attention" of every block i.
        """
        text = text_of(batch)
        kept: Record | None = {} if record else None
        states = self.trunk(text.ids, text.types, record=kept)
        pooled = self.pooler(states.first)
        chosen = {"mean": states.mean, "cls": lambda: states.first, "pooler": lambda: pooled}[self.config.vector]()
        return Encoding({"text": states}, {"text": pooled}, {"text": F.normalize(chosen, dim=-1)}, kept or {})

    def predict(self, rows: Tensor) -> Tensor:
        """Vocabulary logits [n, V] of states [n, dim]."""
        if self.words is None:
            raise ValueError("this BERT was made without the masked-word objective")
        return self.words(rows, self.trunk.embedding.word.weight)

    def logits(self, states: Packed) -> Packed:
        """Vocabulary logits [T, V] at every row."""
        return states.with_values(self.predict(states.values))

    def follows(self, first: Tensor) -> Tensor:
        """Next-sentence logits [B, 2] of [CLS]: 0 = the second part follows the first, 1 = it comes from elsewhere."""
        if self.next_sentence is None:
            raise ValueError("this BERT was made without the next-sentence objective")
        return self.next_sentence(self.pooler(first))

    # -------------------------------------------------------------------------------------------------- training
    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """MLM and NSP of a batch of texts. NSP reads `labels.next_sentence` [B], 0 = is next.

        `choices` may hold what `draw` draws. Where the data has hidden the words already, `labels.mlm_labels` [T]
        holds the true ids (-100 elsewhere), and nothing is drawn.
        """
        text = text_of(batch)
        wanted = self.config.objectives if draws.only is None else draws.only
        host = text_of(batch.host)
        chosen = self.draw(host, batch.host.labels, draws.on_host, draws.choices, wanted)
        drawn, first = Drawn(chosen, text.ids.layout.device), host.ids.layout.first
        losses: dict[str, Tensor] = {}
        rows = predicted_rows(drawn.host["mlm_labels"]) if "mlm" in wanted else first[:0]
        read = self.trunk.at(torch.cat([first, rows]), text.ids.with_values(drawn["mlm_input_ids"]), text.types)
        pooled, hidden = read[: len(first)], read[len(first) :]
        if "mlm" in wanted:
            losses["mlm"] = self.mlm(self.predict(hidden), drawn["mlm_labels"][drawn.rows("mlm_labels")])
        if "nsp" in wanted:
            losses["nsp"] = self.nsp(self.follows(pooled), batch.labels.require("next_sentence"))
        return losses

    def draw(
        self,
        text: Text,
        labels: Labels,
        generator: torch.Generator | None,
        choices: Mapping[str, Tensor],
        wanted: Sequence[str],
    ) -> dict[str, Tensor]:
        """Every random choice of a step, by name: which words are hidden, and by what. `choices` go first."""
        drawn, c, ids = dict(choices), self.config, text.ids.values
        if "mlm" in wanted and labels.mlm_labels is not None:
            drawn.setdefault("mlm_labels", labels.mlm_labels)
        elif "mlm" in wanted and "mlm_labels" not in drawn:
            if c.whole_word and text.words is None:
                raise InputError("whole-word masking needs to know which word each piece belongs to: Text.words")
            maskable = (ids != c.cls_id) & (ids != c.sep_id)
            if text.ids.layout.hidden is not None:
                maskable = maskable & ~text.ids.layout.hidden
            drawn["mlm_input_ids"], drawn["mlm_labels"] = mask_tokens(
                ids,
                maskable,
                probability=c.mask_probability,
                mask_id=c.mask_id,
                vocab_size=c.trunk.vocab_size,
                generator=generator,
                words=text.words if c.whole_word else None,
            )
        drawn.setdefault("mlm_input_ids", ids)
        return drawn


# ------------------------------------------------------------------------------------------------------- checkpoints
def transformers(config: BertPretrainingConfig | BertConfig) -> StateMap:
    """Hugging Face's BertForPreTraining; BertModel without objectives; of a `BertConfig` the trunk, whatever heads
    the file has."""
    if isinstance(config, BertConfig):
        return StateMap(alias_rules(""), trunk_rules("", "", config), Carry("pooler.{rest}"), Carry("cls.{rest}"))
    prefix = "bert." if config.objectives else ""
    rules = [
        *alias_rules(prefix),
        *trunk_rules(prefix, "trunk.", config.trunk),
        Rename(f"{prefix}pooler.dense.{{p}}", "pooler.dense.{p}"),
    ]
    if "mlm" in config.objectives:
        rules += word_head_rules("cls.predictions.", "words.", f"{prefix}embeddings.word_embeddings.weight")
    if "nsp" in config.objectives:
        rules.append(Rename("cls.seq_relationship.{p}", "next_sentence.{p}"))
    return StateMap(rules)


def google(config: Any) -> Any:
    """The same configuration, of pre-training or of a task, with the tanh GELU of Google's files."""
    return replace(config, trunk=replace(config.trunk, activation="gelu_tanh"))


def original(config: BertPretrainingConfig) -> StateMap:
    """Google's TensorFlow checkpoints; see `google` for their activation."""
    rules = tensorflow_rules("trunk.") + dense_rules("bert/pooler/dense", "pooler.dense")
    if "mlm" in config.objectives:
        rules += dense_rules("cls/predictions/transform/dense", "words.dense")
        rules += norm_rules("cls/predictions/transform", "words.norm")
        rules.append(Rename("cls/predictions/output_bias", "words.bias"))
    if "nsp" in config.objectives:
        rules.append(Rename("cls/seq_relationship/output_weights", "next_sentence.weight"))
        rules.append(Rename("cls/seq_relationship/output_bias", "next_sentence.bias"))
    return StateMap(rules)


SYSTEM = System(
    name="bert",
    title="BERT: deep bidirectional transformers",
    paper="Devlin et al., NAACL 2019, arXiv 1810.04805",
    model=Bert,
    config=BertPretrainingConfig,
    sizes=PRETRAINING_SIZES,
    weights={"transformers": transformers, "original": original},
    for_layout={"original": google},
    objectives=("mlm", "nsp"),
)
