"""UNITER: UNiversal Image-TExt Representation Learning (Chen et al., ECCV 2020, arXiv 1909.11740).

Words and detected regions pass through one transformer. A region's row is LayerNorm(LayerNorm(W feature) +
LayerNorm(W box) + segment), its box seven numbers (x1, y1, x2, y2, width, height, area), its segment row taken from the
words' table. A step trains one objective, drawn by ratio: hidden words (MLM); hidden regions, of which the feature
(MRFR), the class (MRC) or the class distribution (MRC-kl) is predicted; or image-text matching (ITM) together with
word-region alignment by optimal transport (WRA). Only one modality is hidden at a time: conditional masking.

Departures: a wrong text comes from the batch, not from the whole corpus; a text in which no word was drawn is left
whole (the authors hide its first).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.dropout import Dropout
from coalign.layers.embeddings import TextEmbedding
from coalign.layers.heads import ClassifierHead, MaskedLMHead, Pooler
from coalign.layers.joint import Joint, same_items, with_words
from coalign.layers.transformer import Encoder
from coalign.models.uniter.names import original
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.masked_region import RegionClassification, RegionDistribution, RegionRegression
from coalign.objectives.matching import Matching
from coalign.objectives.transport_alignment import TransportAlignment
from coalign.ops.alignment import AlignmentRecord, log_odds
from coalign.ops.boxes import box_numbers
from coalign.ops.masking import Drawn, draw_regions, mask_tokens
from coalign.ops.packing import real_cells
from coalign.ops.pairing import draw_partners, take_texts
from coalign.ops.transport import Transport, transport
from coalign.trunks.bert import BertConfig, init_bert
from coalign.types import FREE, Batch, Draws, Encoding, InputSpec, Model, Record, Regions, System, Text
from coalign.types.spec import RegionSpec, TextSpec

Objective = Literal["mlm", "mrfr", "mrc", "mrckl", "itm"]


@dataclass(frozen=True)
class UniterConfig:
    """Sizes and settings; the defaults are the paper's base model and in-domain pre-training (section 4.1, A.2).

    `ratios` are the chances of the `objectives`. `classes` counts the detector's classes, the first of them background.
    """

    text: BertConfig = field(default_factory=lambda: BertConfig(vocab_size=28996))
    region_width: int = 2048
    classes: int = 1601
    objectives: tuple[Objective, ...] = ("itm", "mlm", "mrfr", "mrckl")
    ratios: tuple[float, ...] = (2.0, 2.0, 1.0, 1.0)
    alignment_weight: float = 0.1
    """Weight of the word-region alignment beside ITM; 0 leaves it out."""
    mask_probability: float = 0.15
    mismatch_probability: float = 0.5
    max_text_length: int = 60
    max_regions: int = 100
    lowercase: bool = False
    mask_id: int = 103
    special_ids: tuple[int, ...] = (0, 101, 102)


_LARGE = BertConfig(vocab_size=28996, dim=1024, depth=24, heads=16, hidden_dim=4096)
SIZES = {
    "base": UniterConfig(),
    "large": UniterConfig(_LARGE),
    "tiny": UniterConfig(
        BertConfig(dim=128, depth=2, heads=4, hidden_dim=512, positions=128),
        region_width=320,
        objectives=("itm", "mlm", "mrfr"),
        ratios=(2.0, 2.0, 1.0),
        max_regions=36,
        lowercase=True,
    ),
}


class RegionEmbedding(nn.Module):
    """LayerNorm(LayerNorm(W feature) + LayerNorm(W box) + segment), then dropout (section 3.1).

    A hidden region's feature is the learned row `hidden_feature`; of the authors' two-row table the first is unused.
    """

    def __init__(self, width: int, config: BertConfig) -> None:
        super().__init__()
        self.feature, self.feature_norm = nn.Linear(width, config.dim), nn.LayerNorm(config.dim, config.eps)
        self.box, self.box_norm = nn.Linear(7, config.dim), nn.LayerNorm(config.dim, config.eps)
        self.hidden_feature = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(config.dim, config.eps)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        features: Float[Tensor, "t w"],
        boxes: Float[Tensor, "t c"],
        segment: Float[Tensor, "*t d"],
        hidden: Bool[Tensor, " t"] | None = None,
    ) -> Float[Tensor, "t d"]:
        if features.shape[1] != self.feature.in_features:
            raise InputError(
                f"regions have {features.shape[1]} features, this model reads {self.feature.in_features}: "
                "give it features of the detector it was trained with, or set region_width"
            )
        if hidden is not None:
            features = torch.where(hidden[:, None], self.hidden_feature.weight[1], features)
        feature, place = self.feature_norm(self.feature(features)), self.box_norm(self.box(box_numbers(boxes, 7)))
        return self.dropout(self.norm(feature + place + segment))


class UniterTrunk(nn.Module):
    """Both embeddings, the blocks and the pooler."""

    def __init__(self, width: int, config: BertConfig) -> None:
        super().__init__()
        c = config
        self.embedding = TextEmbedding(
            c.vocab_size, c.dim, positions=c.positions, types=c.types, eps=c.eps, dropout=c.dropout
        )
        self.regions = RegionEmbedding(width, c)
        self.encoder = Encoder([c.block(i) for i in range(c.depth)])
        self.pooler = Pooler(c.dim)
        self.apply(init_bert)

    def embed(
        self, text: Text, regions: Regions | None, types: Int[Tensor, " t"] | None = None, hidden: Tensor | None = None
    ) -> Joint:
        """Rows of words and regions. `types` [T] are the regions' segments (default 1), `hidden` [T] those to hide."""
        words = text.ids.with_values(self.embedding(text.ids, text.types))
        if regions is None:
            return Joint.of(words, None)
        assert self.embedding.segment is not None
        segment = self.embedding.segment.weight[1] if types is None else self.embedding.segment(types)
        rows = self.regions(regions.features.values, regions.boxes, segment, hidden)
        return Joint.of(words, regions.features.with_values(rows))

    def stream(self, batch: Batch, hidden: Tensor | None = None) -> Joint:
        """The rows that the blocks read; `labels.region_types` may hold the regions' segments."""
        if batch.text is None:
            raise InputError("UNITER reads a text with the regions of its image: this batch has no text")
        return self.embed(batch.text, batch.regions, batch.labels.region_types, hidden)

    def forward(
        self, batch: Batch, *, hidden: Tensor | None = None, record: Record | None = None, first: bool = False
    ) -> Joint:
        """States of all rows, or of [CLS] alone."""
        return self.stream(batch, hidden).through(self.encoder, record, first=first)

    def pool(self, joint: Joint) -> Tensor:
        return self.pooler(joint.rows.first)


class FeatureHead(nn.Module):
    """LayerNorm(gelu(W h)) times the transposed feature projection of the embedding, plus a bias (MRFR)."""

    def __init__(self, width: int, config: BertConfig) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(config.dim, config.dim), nn.LayerNorm(config.dim, config.eps)
        self.bias = Parameter(torch.zeros(width))

    def forward(self, rows: Float[Tensor, "n d"], projection: Float[Tensor, "d w"]) -> Float[Tensor, "n w"]:
        return F.linear(self.norm(F.gelu(self.dense(rows))), projection.T, self.bias)


class Uniter(Aligning, Model):
    """The pre-training model."""

    METHODS = ("rollout", "cross_attention", "transport", "grad_cam", "relevance", "similarity")

    def __init__(self, config: UniterConfig) -> None:
        super().__init__()
        self.config = config
        text = config.text
        self.trunk = UniterTrunk(config.region_width, text)
        self.words = MaskedLMHead(text.dim, text.vocab_size, eps=text.eps, activation=text.activation)
        self.features = FeatureHead(config.region_width, text)
        self.classes = ClassifierHead(text.dim, text.dim, config.classes, eps=text.eps)
        self.match_head = nn.Linear(text.dim, 2)
        for head in (self.words, self.features, self.classes, self.match_head):
            head.apply(init_bert)
        self.mlm, self.matching, self.alignment_loss = MaskedLM(), Matching(), TransportAlignment()
        self.mrfr, self.mrc, self.mrckl = RegionRegression(), RegionClassification(), RegionDistribution()

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.config)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States of words and regions in view of each other, the pooled [CLS], and matching logits (1: match).

        With `record`: "joint.{i}.attention" [B, heads, L, L] over text rows, then regions; "joint.{i}.hidden"; and
        the word-region "transport.cost" and "transport.plan" [B, words, regions].
        """
        kept: Record | None = {} if record else None
        joint = self.trunk(batch, record=kept)
        pooled = self.trunk.pool(joint)
        if kept is not None and joint.other is not None:
            alignment = self.align(joint)
            kept |= {"transport.cost": alignment.cost, "transport.plan": alignment.plan}
        return Encoding(
            joint.tokens("regions"), {"pooled": pooled, "match_logits": self.match_head(pooled)}, {}, kept or {}
        )

    def align(self, joint: Joint) -> Transport:
        """Transport between all words, [CLS] and [SEP] included, and all regions (section 3.2, WRA)."""
        return transport(*joint.split())

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """Words on regions."""
        if batch.text is None or batch.regions is None:
            raise InputError("UNITER aligns the words of a text with regions: this batch lacks one of them")
        kept: Record = {}
        joint = self.trunk(batch, record=kept)
        plan = real_cells(self.align(joint).plan, batch.text.ids.layout, batch.regions.features.layout)
        return joint.alignment(kept, score=log_odds(self.match_head(self.trunk.pool(joint))), plan=plan)

    # -------------------------------------------------------------------------------------------------- training
    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """One objective, drawn among those of the configuration or of `only` by ratio; ITM brings "wra" along."""
        if batch.text is None or batch.regions is None:
            raise InputError("UNITER trains on texts with regions: this batch lacks one of them")
        task, chosen = self.draw(batch.host, draws.on_host, draws.choices, draws.only)
        drawn = Drawn(chosen, batch.text.ids.layout.device)
        if task == "itm":
            swapped = replace(batch, text=take_texts(batch.text, drawn.host["text_index"]))
            joint = self.trunk(swapped, first=not self.config.alignment_weight)
            matched = drawn["matched"]
            losses = {"itm": self.matching(self.match_head(self.trunk.pool(joint)), matched.long())}
            if self.config.alignment_weight:
                distance = self.align(joint).distance
                losses["wra"] = self.config.alignment_weight * self.alignment_loss(distance, matched)
            return losses
        if task == "mlm":
            stream = self.trunk.stream(replace(batch, text=with_words(batch.text, drawn["mlm_input_ids"])))
            logits = self.word_logits(stream.read(self.trunk.encoder, text=drawn.host_rows("mlm_labels")).text)
            return {"mlm": self.mlm(logits, drawn["mlm_labels"][drawn.rows("mlm_labels")])}
        rows, stream = drawn.rows("region_mask"), self.trunk.stream(batch, drawn["region_mask"])
        states = stream.read(self.trunk.encoder, other=drawn.host_rows("region_mask")).other
        if task == "mrfr":
            return {"mrfr": self.mrfr(self.region_features(states), batch.regions.features.values[rows])}
        probabilities = class_probabilities(batch.regions, self.config.classes)[rows]
        if task == "mrc":
            return {"mrc": self.mrc(self.classes(states), likeliest_class(probabilities))}
        return {"mrckl": self.mrckl(self.classes(states), probabilities) / self.config.classes}

    def draw(
        self,
        batch: Batch,
        generator: torch.Generator | None,
        choices: Mapping[str, Tensor],
        only: Sequence[str] | None = None,
    ) -> tuple[str, dict[str, Tensor]]:
        """The objective of a step and its random choices: partners [B], hidden words [T], or hidden regions [T]."""
        assert batch.text is not None and batch.regions is not None
        c, drawn = self.config, dict(choices)
        names = list[str](c.objectives) if only is None else [name for name in only if name != "wra"] or ["itm"]
        chance = dict[str, float](zip(c.objectives, c.ratios, strict=True))
        weights = torch.tensor([chance.get(name, 1.0) for name in names])
        task = names[0] if len(names) == 1 else names[int(torch.multinomial(weights, 1, generator=generator))]
        if task == "itm" and "text_index" not in drawn:
            drawn["text_index"] = draw_partners(
                len(batch), batch.ids, probability=c.mismatch_probability, generator=generator
            )
            drawn["matched"] = same_items(drawn["text_index"], batch.ids)
        if task == "mlm" and "mlm_input_ids" not in drawn:
            ids = batch.text.ids.values
            drawn["mlm_input_ids"], drawn["mlm_labels"] = mask_tokens(
                ids,
                ~torch.isin(ids, torch.tensor(c.special_ids)),
                probability=c.mask_probability,
                mask_id=c.mask_id,
                vocab_size=c.text.vocab_size,
                generator=generator,
            )
        if task.startswith("mr") and "region_mask" not in drawn:
            drawn["region_mask"] = draw_regions(batch.regions.features.layout, c.mask_probability, generator)
        return task, drawn

    def word_logits(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Vocabulary logits of these rows: those to predict, or all."""
        return self.words(rows, self.trunk.embedding.word.weight)

    def region_features(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n w"]:
        """Regressed features of these rows."""
        return self.features(rows, self.trunk.regions.feature.weight)


def input_spec_of(config: UniterConfig) -> InputSpec:
    return InputSpec(
        TextSpec(config.text.vocab_size, config.max_text_length),
        regions=RegionSpec(config.region_width, config.max_regions),
    )


def class_probabilities(regions: Regions, classes: int) -> Float[Tensor, "t c"]:
    if regions.classes is None:
        raise InputError("predicting the classes of hidden regions needs the detector's class probabilities")
    if regions.classes.shape[1] != classes:
        raise InputError(f"regions have {regions.classes.shape[1]} class probabilities, this model {classes} classes")
    return regions.classes


def likeliest_class(probabilities: Float[Tensor, "n c"]) -> Int[Tensor, " n"]:
    """The likeliest class but the first, which is background."""
    return probabilities[:, 1:].argmax(1) + 1


SYSTEM = System(
    name="uniter",
    title="UNITER: UNiversal Image-TExt Representation Learning",
    paper="Chen et al., ECCV 2020, arXiv 1909.11740",
    model=Uniter,
    config=UniterConfig,
    sizes=SIZES,
    weights={"original": original},
    objectives=("mlm", "mrfr", "mrc", "mrckl", "itm", "wra"),
)
