"""LXMERT: Learning Cross-Modality Encoder Representations from Transformers (Tan & Bansal, EMNLP 2019, arXiv
1908.07490).

Words pass through a language encoder, detected regions through an object-relationship encoder; then cross-modality
layers let each look at the other. In such a layer ONE attention module serves both directions, both reading the rows
from before the layer; self-attention and feed-forward follow, apart for each stream. Pre-training predicts hidden
words, the objects, attributes and features of regions, whether text and image belong together, and answers to
questions about the image.

Departures from the original: a region that is not there is not computed, so a batch may mix images of any number of
regions (the original always has 36 and passes no visual mask); an objective with nothing to predict in a batch costs
0 where the original divides by zero (`empty_loss`); a wrong text comes from the batch, not from the whole corpus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.attention import activation
from coalign.layers.heads import ClassifierHead, MaskedLMHead
from coalign.layers.joint import with_words
from coalign.models.lxmert.names import original, transformers
from coalign.models.lxmert.trunk import SIZES, LxmertConfig, LxmertTrunk
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.masked_region import RegionClassification, RegionRegression
from coalign.objectives.matching import Matching
from coalign.objectives.reduce import mean_or
from coalign.ops.alignment import AlignmentRecord, Attended, Rows, log_odds, two_ways
from coalign.ops.detections import detected_attributes, detected_objects, draw_answers
from coalign.ops.masking import Drawn, mask_features, mask_tokens
from coalign.ops.pairing import draw_partners, take_texts
from coalign.trunks.bert import BertConfig, init_bert
from coalign.types import FREE, Batch, Draws, Encoding, InputSpec, Model, Packed, Record, System
from coalign.types.spec import RegionSpec, TextSpec


class RegionHead(nn.Module):
    """One transform, then a decoder each for objects, attributes and features (section 3.1.2)."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        dim = config.text.dim
        self.dense, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim, config.text.eps)
        self.activation = activation(config.text.activation)
        sizes = {"objects": config.objects, "attributes": config.attributes, "features": config.region_width}
        self.decoders = nn.ModuleDict(
            {name: nn.Linear(dim, size) for name, size in sizes.items() if name in config.objectives}
        )

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        """Scores [T, size] by what they predict."""
        hidden = self.norm(self.activation(self.dense(rows)))
        return {name: decoder(hidden) for name, decoder in self.decoders.items()}


class Lxmert(Aligning, Model):
    """The pre-training model. Match logits: class 1 says that text and image belong together."""

    METHODS = ("rollout", "cross_attention", "grad_cam", "relevance")

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        c, t = config, config.text
        self.config = config
        self.trunk = LxmertTrunk(c)
        self.words = MaskedLMHead(t.dim, t.vocab_size, eps=t.eps, activation=t.activation)
        self.match_head = nn.Linear(t.dim, 2)
        self.region_head = RegionHead(c)
        answers = "answers" in c.objectives
        self.answer_head = answer_head(t, t.dim, c.answers) if answers else None
        self.mlm, self.itm, self.answer = MaskedLM("none"), Matching(), Matching("none")
        self.classify, self.regress = RegionClassification("none"), RegionRegression("smooth", "none")
        self.apply(init_bert)

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.config)

    # ------------------------------------------------------------------------------------------------------- use
    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """ "text" and "regions" as their own encoders see them; with both also "fused" (text) and "fused_regions".

        `pooled` then has "fused" and "match_logits". With `record`: "text.{i}.attention", "regions.{i}.attention",
        "cross.{i}.text_to_regions", "cross.{i}.regions_to_text" and the self-attentions after them.
        """
        kept: Record | None = {} if record else None
        tokens: dict[str, Packed] = {}
        pooled: dict[str, Tensor] = {}
        if batch.text is not None:
            tokens["text"] = self.trunk.read(batch.text, kept)
        if batch.regions is not None:
            tokens["regions"] = self.trunk.encode_regions(batch.regions, kept)
        if len(tokens) == 2:
            seen = self.trunk.fuse(tokens["text"], tokens["regions"], kept)
            tokens["fused"], tokens["fused_regions"] = seen.text, seen.regions
            pooled["fused"] = self.trunk.pooler(seen.text.first)
            pooled["match_logits"] = self.match_head(pooled["fused"])
        return Encoding(tokens, pooled, record=kept or {})

    def match(self, images: Packed, texts: Packed, pairs: Tensor) -> Tensor:
        """Log-odds [P] that the pairs [P, 2] of (image, text) numbers match, from unimodal states of `encode`.

        Each pair runs the cross-modality layers in both directions: nothing but the two encoders is shared.
        """
        read = self.trunk.fuse_at(texts.select(pairs[:, 1]), images.select(pairs[:, 0]))
        logits = self.match_head(self.trunk.pooler(read.first))
        return logits[:, 1] - logits[:, 0]

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """Words on regions, by the attention between the streams and within them."""
        if batch.text is None or batch.regions is None:
            raise InputError("LXMERT aligns the words of a text with regions: this batch lacks one of them")
        seen, c = self.encode(batch, record=True), self.config
        words, regions = batch.text.ids.host_lengths.tolist(), batch.regions.features.host_lengths.tolist()
        kept, layers = seen.record, list[list[Attended]]()
        layers += [[Attended("text", "text", kept[f"text.{i}.attention"])] for i in range(c.text.depth)]
        layers += [[Attended("regions", "regions", kept[f"regions.{i}.attention"])] for i in range(c.region_depth)]
        for i in range(c.cross_depth):
            layers += two_ways(kept[f"cross.{i}.text_to_regions"], kept[f"cross.{i}.regions_to_text"])
            layers.append([Attended(own, own, kept[f"cross.{i}.{own}.attention"]) for own in ("text", "regions")])
        places, shapes = Rows.of("regions", regions), [(count,) for count in regions]
        score = log_odds(seen.pooled["match_logits"])
        return AlignmentRecord(Rows.of("text", words), places, shapes, layers, score=score)

    # -------------------------------------------------------------------------------------------------- training
    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The objectives on pairs whose words and regions are partly hidden, and whose text is the wrong one at times.

        Region losses are means over ALL regions, weighted by confidence and by 1/0.15, as published. "answers" needs
        `labels.answer`: class numbers [B], -1 where there is none, or scores [B, answers].
        """
        c = self.config
        wanted = [name for name in c.objectives if draws.wants(name)]
        drawn = self.draw(batch, draws.on_host, draws.choices, wanted)
        assert batch.text is not None and batch.regions is not None
        d = Drawn(drawn, batch.regions.boxes.device)
        text = with_words(take_texts(batch.text, d.host["partner"]), d["mlm_input_ids"])
        features = batch.regions.features.with_values(d["region_features"])
        rows, about_regions = d.host_rows("mlm_labels"), {"objects", "attributes", "features"} & set(wanted)
        words, seen = self.trunk.read(text), self.trunk.encode_regions(replace(batch.regions, features=features))
        read = self.trunk.fuse_at(words, seen, rows, see_regions=bool(about_regions))
        pooled = self.trunk.pooler(read.first)
        scores = self.region_head(read.other) if about_regions else {}
        losses: dict[str, Tensor] = {}
        if "mlm" in wanted:
            labels = d["mlm_labels"][d.rows("mlm_labels")]
            losses["mlm"] = mean_or(self.mlm(self.predict(read.text), labels), c.empty_loss)
        if "itm" in wanted:
            losses["itm"] = self.itm(self.match_head(pooled), d["matched"].long())
        for name in ("objects", "attributes"):
            if name in wanted:
                each = self.classify(scores[name], d[name].clamp(min=0)) * (d[name] >= 0)
                losses[name] = c.region_loss_weight * mean_or(each * d[f"{name}_weight"], c.empty_loss)
        if "features" in wanted:
            each = self.regress(scores["features"], d["features"]) * d["features_weight"]
            losses["features"] = c.region_loss_weight * mean_or(each, c.empty_loss)
        if "answers" in wanted and self.answer_head is not None:
            rows = d.rows("answer")
            losses["answers"] = mean_or(self.answer(self.answer_head(pooled[rows]), d["answer"][rows]), c.empty_loss)
        return losses

    def predict(self, states: Tensor) -> Tensor:
        """Vocabulary logits [n, V] of these states [n, dim]."""
        return self.words(states, self.trunk.embedding.word.weight)

    @torch.no_grad()
    def draw(
        self, batch: Batch, generator: torch.Generator | None, choices: Mapping[str, Tensor], wanted: Sequence[str]
    ) -> dict[str, Tensor]:
        """Every random choice of a step, and the targets, by name. `choices` go first."""
        if batch.text is None or batch.regions is None:
            raise InputError("LXMERT trains on pairs: this batch lacks texts or regions")
        c, d, regions, host = self.config, dict(choices), batch.regions, batch.host
        assert host.text is not None
        size = len(host.text.ids)
        if "partner" not in d:
            chance = c.mismatch_probability if "itm" in wanted else 0.0
            d["partner"] = draw_partners(size, host.ids, probability=chance, generator=generator)
        d.setdefault("matched", d["partner"] == torch.arange(size))
        if "mlm_input_ids" not in d:
            words = host.text.ids.select(d["partner"]).values
            d["mlm_input_ids"], d["mlm_labels"] = mask_tokens(
                words,
                (words != c.cls_id) & (words != c.sep_id),
                probability=c.mask_probability if "mlm" in wanted else 0.0,
                mask_id=c.mask_id,
                vocab_size=c.text.vocab_size,
                generator=generator,
            )
        if "region_features" not in d:
            chance = c.mask_probability if {"objects", "attributes", "features"} & set(wanted) else 0.0
            d["region_features"], chosen = mask_features(
                regions.features.values, probability=chance, generator=generator
            )
            d["features"], d["features_weight"] = regions.features.values, chosen.float()
        if "objects" in wanted and "objects" not in d:
            d["objects"], d["objects_weight"] = detected_objects(regions, c.objects)
        if "attributes" in wanted and "attributes" not in d:
            d["attributes"], d["attributes_weight"] = detected_attributes(regions)
        if "answers" in wanted and "answer" not in d:
            d["answer"] = draw_answers(host.labels.answer, d["matched"], generator)
        return d


def input_spec_of(config: LxmertConfig) -> InputSpec:
    return InputSpec(
        TextSpec(config.text.vocab_size, config.max_text_length),
        regions=RegionSpec(config.region_width, config.max_regions),
    )


def answer_head(text: BertConfig, dim: int, answers: int) -> ClassifierHead:
    """Linear - GELU - LayerNorm - Linear over pooled rows, twice as wide as the model between."""
    return ClassifierHead(dim, 2 * text.dim, answers, eps=text.eps)


SYSTEM = System(
    name="lxmert",
    title="LXMERT: cross-modality encoder representations from transformers",
    paper="Tan & Bansal, EMNLP 2019, arXiv 1908.07490",
    model=Lxmert,
    config=LxmertConfig,
    sizes=SIZES,
    weights={"original": original, "transformers": transformers},
    objectives=("mlm", "itm", "objects", "attributes", "features", "answers"),
)
