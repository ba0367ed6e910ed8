"""VisualBERT: A Simple and Performant Baseline for Vision and Language (Li et al. 2019, arXiv 1908.03557).

Detected regions stand behind the words of a text as further tokens of one BERT. A region's row is the sum of its
projected feature, a segment row and a position row; where it is known which words a region belongs to, the mean of
their position rows is added (section 3.2). Pre-training hides words, to be told from the rest and the regions (MLM),
and swaps the text of half the images, to be told from the [CLS] state (sentence-image prediction; section 3.3).

Departures: the paper swaps one of two captions of an image; here an item has one text and that is swapped, which
needs no second caption. Words of a swapped text are not predicted: nothing in its image tells of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coalign.checkpoints import Carry, Rename, StateMap, Tie
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.embeddings import TextEmbedding
from coalign.layers.heads import MaskedLMHead, Pooler
from coalign.layers.joint import Joint, same_items, with_words
from coalign.layers.transformer import Encoder
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.matching import Matching
from coalign.ops.alignment import AlignmentRecord, log_odds
from coalign.ops.masking import IGNORED, Drawn, mask_tokens
from coalign.ops.pairing import draw_partners, take_texts
from coalign.trunks.bert import BertConfig, init_bert, trunk_rules, word_head_rules
from coalign.types import FREE, Batch, Draws, Encoding, InputSpec, Model, Record, Regions, System, Text
from coalign.types.spec import RegionSpec, TextSpec

SPECIAL_IDS = (0, 101, 102)
"""[PAD], [CLS] and [SEP] of the uncased BERT vocabulary."""


@dataclass(frozen=True)
class VisualBertConfig:
    """Sizes and settings; the defaults are the paper's for COCO and VQA (section 4; the authors' configurations)."""

    text: BertConfig = field(default_factory=BertConfig)
    region_width: int = 2048
    objectives: tuple[Literal["mlm", "itm"], ...] = ("mlm", "itm")
    mask_probability: float = 0.15
    swap_probability: float = 0.5
    max_text_length: int = 128
    max_regions: int | None = 144
    mask_id: int = 103
    special_ids: tuple[int, ...] = SPECIAL_IDS


SIZES = {
    "base": VisualBertConfig(),
    "base-nlvr2": VisualBertConfig(region_width=1024),
    "base-vcr": VisualBertConfig(region_width=512),
    "tiny": VisualBertConfig(
        BertConfig(dim=128, depth=2, heads=4, hidden_dim=512, positions=128), region_width=320, max_regions=36
    ),
}


class RegionSum(nn.Module):
    """projection(feature) + position row 0 + segment row + mean position of the aligned words, before the norm."""

    def __init__(self, config: VisualBertConfig) -> None:
        super().__init__()
        c = config.text
        self.projection = nn.Linear(config.region_width, c.dim)
        self.position = nn.Embedding(c.positions, c.dim)
        self.segment = nn.Embedding(c.types, c.dim)

    def forward(
        self,
        features: Float[Tensor, "t w"],
        types: Int[Tensor, " t"] | None,
        aligned: Int[Tensor, "t k"] | None,
        word_positions: Float[Tensor, "p d"],
    ) -> Float[Tensor, "t d"]:
        if features.shape[1] != self.projection.in_features:
            raise InputError(
                f"regions have {features.shape[1]} features, this model reads {self.projection.in_features}: "
                "give it features of the detector it was trained with, or set region_width"
            )
        rows = self.projection(features) + self.position.weight[0]
        rows = rows + (self.segment.weight[0] if types is None else self.segment(types))
        if aligned is None:
            return rows
        known = (aligned >= 0).unsqueeze(-1)
        total = (word_positions[aligned.clamp(min=0)] * known).sum(1)
        return rows + total / known.sum(1).clamp(min=1)


class VisualBertTrunk(nn.Module):
    """Both embeddings under one norm, the blocks and the pooler."""

    def __init__(self, config: VisualBertConfig) -> None:
        super().__init__()
        c = config.text
        self.embedding = TextEmbedding(
            c.vocab_size, c.dim, positions=c.positions, types=c.types, eps=c.eps, dropout=c.dropout
        )
        self.regions = RegionSum(config)
        self.encoder = Encoder([c.block(i) for i in range(c.depth)])
        self.pooler = Pooler(c.dim)
        self.apply(init_bert)
        self.start_from_text()

    @torch.no_grad()
    def start_from_text(self) -> None:
        """The regions' position and segment tables start as copies of the words' (also after loading a BERT)."""
        assert self.embedding.segment is not None
        self.regions.position.weight.copy_(self.embedding.position.weight)
        self.regions.segment.weight.copy_(self.embedding.segment.weight)

    def embed(
        self, text: Text, regions: Regions | None, types: Tensor | None = None, aligned: Tensor | None = None
    ) -> Joint:
        """Rows of words and regions after the one norm. `types` [T] are the regions' segments, `aligned` [T, k] the
        text positions of each region's words, -1 where there are fewer."""
        words = text.ids.with_values(self.embedding.sum(text.ids, text.types))
        seen = None
        if regions is not None:
            rows = self.regions(regions.features.values, types, aligned, self.embedding.position.weight)
            seen = regions.features.with_values(rows)
        joint = Joint.of(words, seen)
        rows = self.embedding.dropout(self.embedding.norm(joint.rows.values))
        return Joint(joint.rows.with_values(rows), joint.text, joint.other)

    def stream(self, batch: Batch) -> Joint:
        """The rows that the blocks read. `labels.region_types` and `region_alignment` may be given, see `embed`."""
        if batch.text is None:
            raise InputError("VisualBERT reads a text with the regions of its image: this batch has no text")
        return self.embed(batch.text, batch.regions, batch.labels.region_types, batch.labels.region_alignment)

    def forward(self, batch: Batch, *, record: Record | None = None, first: bool = False) -> Joint:
        """States of all rows, or of [CLS] alone."""
        return self.stream(batch).through(self.encoder, record, first=first)

    def pool(self, joint: Joint) -> Tensor:
        return self.pooler(joint.rows.first)


class VisualBert(Aligning, Model):
    """The pre-training model."""

    METHODS = ("rollout", "cross_attention", "grad_cam", "relevance", "similarity")

    match_class = 0
    """Which of the matching logits says that text and image belong together."""

    def __init__(self, config: VisualBertConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = VisualBertTrunk(config)
        self.words = MaskedLMHead(
            config.text.dim, config.text.vocab_size, eps=config.text.eps, activation=config.text.activation
        )
        self.match_head = nn.Linear(config.text.dim, 2)
        self.mlm, self.matching = MaskedLM(), Matching()
        for head in (self.words, self.match_head):
            head.apply(init_bert)

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.config)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States of words and regions in view of each other, the pooled [CLS], and logits (0: match, 1: swapped).

        With `record`: "joint.{i}.attention" [B, heads, L, L] over text rows, then regions, and "joint.{i}.hidden".
        """
        kept: Record | None = {} if record else None
        joint = self.trunk(batch, record=kept)
        pooled = self.trunk.pool(joint)
        return Encoding(
            joint.tokens("regions"), {"pooled": pooled, "match_logits": self.match_head(pooled)}, {}, kept or {}
        )

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """Words on regions (the paper's section 5.2 shows the last block's attention)."""
        if batch.text is None or batch.regions is None:
            raise InputError("VisualBERT aligns the words of a text with regions: this batch lacks one of them")
        kept: Record = {}
        joint = self.trunk(batch, record=kept)
        return joint.alignment(kept, score=log_odds(self.match_head(self.trunk.pool(joint)), self.match_class))

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """Masked words and sentence-image prediction, from one forward pass. `choices` may hold what `draw` draws."""
        if batch.text is None or batch.regions is None:
            raise InputError("VisualBERT trains on texts with regions: this batch lacks one of them")
        wanted = self.config.objectives if draws.only is None else draws.only
        drawn = Drawn(self.draw(batch.host, draws.on_host, draws.choices), batch.text.ids.layout.device)
        text = with_words(take_texts(batch.text, drawn.host["text_index"]), drawn["mlm_input_ids"])
        rows, losses = drawn.host_rows("mlm_labels"), dict[str, Tensor]()
        read = self.trunk.stream(replace(batch, text=text)).read(self.trunk.encoder, rows)
        if "mlm" in wanted:
            losses["mlm"] = self.mlm(self.word_logits(read.text), drawn["mlm_labels"][drawn.rows("mlm_labels")])
        if "itm" in wanted:
            losses["itm"] = self.matching(self.match_head(self.trunk.pooler(read.first)), drawn["swapped"])
        return losses

    def draw(self, batch: Batch, generator: torch.Generator | None, choices: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every random choice of a step: the text of each image [B], which are swapped [B], hidden words [T]."""
        assert batch.text is not None
        c, drawn = self.config, dict(choices)
        if "text_index" not in drawn:
            drawn["text_index"] = draw_partners(
                len(batch.text.ids), batch.ids, probability=c.swap_probability, generator=generator
            )
            drawn["swapped"] = (~same_items(drawn["text_index"], batch.ids)).long()
        if "mlm_input_ids" not in drawn:
            ids = batch.text.ids.select(drawn["text_index"])
            special = torch.isin(ids.values, torch.tensor(c.special_ids, device=ids.values.device))
            drawn["mlm_input_ids"], labels = mask_tokens(
                ids.values,
                ~special,
                probability=c.mask_probability,
                mask_id=c.mask_id,
                vocab_size=c.text.vocab_size,
                generator=generator,
            )
            # Hidden in swapped texts too, or a [MASK] would tell that a text is the image's own.
            drawn["mlm_labels"] = labels.masked_fill(drawn["swapped"][ids.layout.item] == 1, IGNORED)
        return drawn

    def word_logits(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Vocabulary logits of these rows: those to predict, or all."""
        return self.words(rows, self.trunk.embedding.word.weight)


def input_spec_of(config: VisualBertConfig) -> InputSpec:
    return InputSpec(
        TextSpec(config.text.vocab_size, config.max_text_length),
        regions=RegionSpec(config.region_width, config.max_regions),
    )


# ------------------------------------------------------------------------------------------------------- checkpoints
def trunk_names(config: VisualBertConfig) -> list[Rule]:
    """The authors' names of a trunk."""
    file = "bert.bert.embeddings."
    return [
        Rename(f"{file}projection.{{p}}", "trunk.regions.projection.{p}"),
        Rename(f"{file}position_embeddings_visual.weight", "trunk.regions.position.weight"),
        Rename(f"{file}token_type_embeddings_visual.weight", "trunk.regions.segment.weight"),
        *trunk_rules("bert.bert.", "trunk.", config.text),
        Rename("bert.bert.pooler.dense.{p}", "trunk.pooler.dense.{p}"),
        Carry("detector.{rest}"),  # of VCR files
    ]


def trunk_names_hf(config: VisualBertConfig) -> list[Rule]:
    """Hugging Face's names of a trunk."""
    file = "visual_bert.embeddings."
    return [
        Rename(f"{file}visual_projection.{{p}}", "trunk.regions.projection.{p}"),
        Rename(f"{file}visual_position_embeddings.weight", "trunk.regions.position.weight"),
        Rename(f"{file}visual_token_type_embeddings.weight", "trunk.regions.segment.weight"),
        Carry(f"{file}position_ids"),  # in files of older versions
        *trunk_rules("visual_bert.", "trunk.", config.text),
        Rename("visual_bert.pooler.dense.{p}", "trunk.pooler.dense.{p}"),
    ]


def original(config: VisualBertConfig) -> StateMap:
    """The authors' pre-training files."""
    return StateMap(
        trunk_names(config),
        word_head_rules(
            "bert.cls.predictions.", "words.", "bert.bert.embeddings.word_embeddings.weight", tied_bias=False
        ),
        Rename("bert.cls.seq_relationship.{p}", "match_head.{p}"),
    )


def transformers(config: VisualBertConfig) -> StateMap:
    """Hugging Face's VisualBertForPreTraining."""
    return StateMap(
        trunk_names_hf(config),
        word_head_rules("cls.predictions.", "words.", "visual_bert.embeddings.word_embeddings.weight", tied_bias=False),
        Tie("cls.predictions.decoder.bias", "cls.predictions.bias"),
        Rename("cls.seq_relationship.{p}", "match_head.{p}"),
    )


SYSTEM = System(
    name="visualbert",
    title="VisualBERT: A Simple and Performant Baseline for Vision and Language",
    paper="Li et al., 2019, arXiv 1908.03557",
    model=VisualBert,
    config=VisualBertConfig,
    sizes=SIZES,
    weights={"original": original, "transformers": transformers},
    objectives=("mlm", "itm"),
)
