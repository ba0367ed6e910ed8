"""ViLBERT: Pretraining Task-Agnostic Visiolinguistic Representations (Lu et al., NeurIPS 2019, arXiv 1908.02265), and
its multi-task successor, 12-in-1 (Lu et al., CVPR 2020, arXiv 1912.02315).

Two streams of transformer blocks of different widths, one for words and one for regions, joined by co-attentional
layers in which each stream asks the other. A first region stands for the whole image: the mean feature with the box
of everything. Pre-training predicts hidden words, what hidden regions show, and whether text and image belong
together (class 0: they do).

Departures from the original: a batch mixes texts and images of any length without padding; an objective with nothing
to predict costs 0 where the original may divide by zero (`empty_loss`); the whole image's feature is the mean of the
regions that are not hidden; regions that overlap a hidden one are hidden too, as 12-in-1 says (section 3) and the
released code does not (`mask_overlap`); a wrong text comes from the batch, not from the whole corpus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.heads import ClassifierHead, MaskedLMHead
from coalign.models.vilbert.names import vilbert_rules
from coalign.models.vilbert.trunk import VilbertConfig, VilbertTrunk
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.masked_region import RegionContrast, RegionDistribution, RegionRegression
from coalign.objectives.matching import Matching
from coalign.objectives.reduce import mean_or
from coalign.ops.alignment import AlignmentRecord, Attended, Rows, log_odds, two_ways
from coalign.ops.boxes import overlaps_chosen
from coalign.ops.masking import IGNORED, Drawn, mask_features, mask_tokens, predicted_rows
from coalign.ops.packing import moved_rows
from coalign.ops.pairing import draw_partners, draw_rows, take_texts
from coalign.trunks.bert import BertConfig, init_bert
from coalign.types import FREE, Batch, Draws, Encoding, InputSpec, Model, Packed, Record, Regions, System
from coalign.types.packed import to_device
from coalign.types.spec import RegionSpec, TextSpec


def _layers(count: int) -> VilbertConfig:
    """The released models by their number of connections (the paper's table 2)."""
    text = tuple(range(12 - count, 12))
    return VilbertConfig(region_depth=count, text_connections=text, region_connections=tuple(range(count)))


SIZES = {
    "base": VilbertConfig(),
    "multi-task": VilbertConfig(task_tokens=20),
    **{f"{count}-layer": _layers(count) for count in (2, 4, 8)},
    "tiny": VilbertConfig(
        text=BertConfig(dim=128, depth=4, heads=4, hidden_dim=512),
        region_dim=128,
        region_depth=2,
        region_heads=4,
        region_hidden_dim=256,
        co_dim=128,
        co_heads=4,
        text_connections=(2, 3),
        region_connections=(0, 1),
    ),
}


class Vilbert(Aligning, Model):
    """The pre-training model. Match logits: class 0 says that text and image belong together."""

    match_class = 0
    METHODS = ("rollout", "cross_attention", "grad_cam", "relevance")

    def __init__(self, config: VilbertConfig) -> None:
        super().__init__()
        c, t = config, config.text
        self.config = config
        self.trunk = VilbertTrunk(c)
        self.words = MaskedLMHead(t.dim, t.vocab_size, eps=t.eps, activation=t.activation)
        self.region_head = ClassifierHead(
            c.region_dim, c.region_dim, c.region_targets, activation=t.activation, eps=t.eps
        )
        self.match_head = nn.Linear(c.co_dim, 2)
        self.mlm, self.itm = MaskedLM("none"), Matching()
        self.distribution, self.regression = RegionDistribution("none"), RegionRegression(reduction="none")
        self.contrast = RegionContrast("none")
        self.apply(init_bert)

    @property
    def input_spec(self) -> InputSpec:
        c = self.config
        return InputSpec(
            TextSpec(c.text.vocab_size, c.max_text_length), regions=RegionSpec(c.region_width, c.max_regions)
        )

    # ------------------------------------------------------------------------------------------------------- use
    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """ "text" and "regions" before the first connection; with both also "fused" (text) and "fused_regions".

        Region states begin with the whole image's. `pooled` then has "fused" and "match_logits". With `record`:
        "text.{i}.attention", "regions.{i}.attention", "connection.{i}.text_to_regions" and "...regions_to_text".
        """
        kept: Record | None = {} if record else None
        tokens: dict[str, Packed] = {}
        pooled: dict[str, Tensor] = {}
        if batch.text is not None:
            tokens["text"] = self.trunk.read(batch.text, batch.labels.task, kept)
        if batch.regions is not None:
            tokens["regions"] = self.trunk.encode_regions(batch.regions, record=kept)
        if len(tokens) == 2:
            seen = self.trunk.fuse(tokens["text"], tokens["regions"], kept)
            tokens["fused"], tokens["fused_regions"] = seen.text, seen.regions
            pooled["fused"] = self.trunk.pool(seen)
            pooled["match_logits"] = self.match_head(pooled["fused"])
        return Encoding(tokens, pooled, record=kept or {})

    def match(self, images: Packed, texts: Packed, pairs: Tensor) -> Tensor:
        """Log-odds [P] that the pairs [P, 2] of (image, text) numbers match, from "regions" and "text" of `encode`.

        Each pair runs everything from the first connection on, in both streams.
        """
        seen = self.trunk.fuse(texts.select(pairs[:, 1]), images.select(pairs[:, 0]))
        logits = self.match_head(self.trunk.pool(seen))
        return logits[:, 0] - logits[:, 1]

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """Words on regions, by the connections and the blocks of both streams.

        The task token's row and the whole image's column are left out.
        """
        if batch.text is None or batch.regions is None:
            raise InputError("ViLBERT aligns the words of a text with regions: this batch lacks one of them")
        seen, c = self.encode(batch, record=True), self.config
        kept, layers, begun = seen.record, list[list[Attended]](), {"text": 0, "regions": 0}

        def blocks(stream: str, end: int) -> None:
            layers.extend(
                [Attended(stream, stream, kept[f"{stream}.{i}.attention"])] for i in range(begun[stream], end)
            )
            begun[stream] = end

        for i, ends in enumerate(zip(c.text_connections, c.region_connections, strict=True)):
            blocks("text", ends[0])
            blocks("regions", ends[1])
            layers += two_ways(kept[f"connection.{i}.text_to_regions"], kept[f"connection.{i}.regions_to_text"])
        blocks("regions", c.region_depth)
        blocks("text", c.text.depth)
        words, regions = batch.text.ids.host_lengths.tolist(), batch.regions.features.host_lengths.tolist()
        pieces = Rows.of("text", words)
        if self.trunk.tasks is not None:
            pieces = Rows("text", [rows + (rows > 0).long() for rows in pieces.index])
        return AlignmentRecord(
            pieces,
            Rows.of("regions", regions, 1),
            [(count,) for count in regions],
            layers,
            score=log_odds(seen.pooled["match_logits"], self.match_class),
        )

    # -------------------------------------------------------------------------------------------------- training
    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The objectives on pairs whose words and regions are partly hidden, and whose text is the wrong one at times.

        The target "classes" needs the detector's probabilities of each region (`Regions.classes`).
        """
        c = self.config
        wanted = [name for name in c.objectives if draws.wants(name)]
        drawn = self.draw(batch, draws.on_host, draws.choices, wanted)
        assert batch.text is not None and batch.regions is not None
        d = Drawn(drawn, batch.regions.boxes.device)
        text = take_texts(batch.text, d.host["partner"])
        words = replace(text, ids=text.ids.with_values(d["mlm_input_ids"]))
        regions = replace(batch.regions, features=batch.regions.features.with_values(d["region_features"]))
        seen = self.trunk(words, regions, batch.labels.task, d.get("whole"))
        losses: dict[str, Tensor] = {}
        if "mlm" in wanted:
            rows = d.rows("mlm_labels")
            moved = rows if self.trunk.tasks is None else moved_rows(text.ids.layout, rows, 1)
            losses["mlm"] = mean_or(self.mlm(self.predict(seen.text, moved), d["mlm_labels"][rows]), c.empty_loss)
        if "regions" in wanted:
            rows = d.rows("predicted")
            moved = moved_rows(regions.features.layout, rows, 0)
            losses["regions"] = self.region_loss(self.region_head(seen.regions.values[moved]), rows, d)
        if "itm" in wanted:
            losses["itm"] = self.itm(self.match_head(self.trunk.pool(seen)), d["mismatched"].long())
        return losses

    def predict(self, text: Packed, rows: Tensor) -> Tensor:
        """Vocabulary logits [n, V] at these rows only."""
        return self.words(text.values[rows], self.trunk.embedding.word.weight)

    def region_loss(self, predictions: Tensor, rows: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
        """Predictions [n, targets] for the hidden regions at `rows`, by the target of the configuration."""
        targets = drawn["region_targets"]
        if self.config.region_target == "classes":
            return mean_or(self.distribution(predictions, targets[rows]), self.config.empty_loss)
        if self.config.region_target == "features":
            return mean_or(self.regression(predictions, targets[rows]), 0.0)
        negatives = drawn["negatives"]
        each = self.contrast(predictions, targets[rows], targets[negatives], negatives != rows[:, None])
        return mean_or(each, self.config.empty_loss)

    @torch.no_grad()
    def draw(
        self, batch: Batch, generator: torch.Generator | None, choices: Mapping[str, Tensor], wanted: Sequence[str]
    ) -> dict[str, Tensor]:
        """Every random choice of a step, and the targets, by name. `choices` go first."""
        if batch.text is None or batch.regions is None:
            raise InputError("ViLBERT trains on pairs: this batch lacks texts or regions")
        c, d, regions, host = self.config, dict(choices), batch.regions, batch.host
        assert host.text is not None and host.regions is not None
        size, places = len(host.text.ids), host.regions.features.layout
        if "partner" not in d:
            chance = c.mismatch_probability if "itm" in wanted else 0.0
            d["partner"] = draw_partners(size, host.ids, probability=chance, generator=generator)
        d.setdefault("mismatched", d["partner"] != torch.arange(size))
        silent = torch.zeros_like(d["mismatched"]) if c.predict_mismatched else d["mismatched"].bool()
        if "mlm_input_ids" not in d:
            words = host.text.ids.select(d["partner"])
            d["mlm_input_ids"], labels = mask_tokens(
                words.values,
                (words.values != c.cls_id) & (words.values != c.sep_id),
                probability=c.mask_probability if "mlm" in wanted else 0.0,
                mask_id=c.mask_id,
                vocab_size=c.text.vocab_size,
                generator=generator,
            )
            d["mlm_labels"] = labels.masked_fill(silent[words.layout.item], IGNORED)
        if "region_features" not in d:
            chance = c.mask_probability if "regions" in wanted else 0.0
            d["region_features"], d["whole"], chosen = self.hide_regions(regions, chance, generator)
            d["predicted"] = chosen & ~silent[places.item]
        if "regions" in wanted and "region_targets" not in d:
            d["region_targets"] = self.region_targets(regions)
        if "regions" in wanted and c.region_target == "contrast" and "negatives" not in d:
            rows = predicted_rows(d["predicted"])
            d["negatives"] = draw_rows(places, rows, c.negatives, generator)
        return d

    def region_targets(self, regions: Regions) -> Tensor:
        """The target of each region: class probabilities [T, classes] or the feature [T, width]."""
        if self.config.region_target != "classes":
            return regions.features.values
        if regions.classes is None:
            raise InputError('the region target "classes" needs the detector\'s class probabilities of each region')
        if regions.classes.shape[1] != self.config.region_targets:
            wanted, classes = self.config.region_targets, regions.classes.shape[1]
            raise InputError(f"regions have {classes} class probabilities, this model predicts {wanted}")
        return regions.classes

    def hide_regions(
        self, regions: Regions, probability: float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features [T, width] with some hidden, the mean [B, width] of those shown, and which were chosen.

        Nine of ten chosen regions become 0; so do all others that overlap a chosen one by more than `mask_overlap`.
        """
        x, layout = regions.features, regions.features.layout
        features, drawn = mask_features(x.values, probability=probability, zero=0.9, random=0.0, generator=generator)
        covered = chosen = to_device(drawn, layout.device)
        if self.config.mask_overlap is not None:
            covered = chosen | overlaps_chosen(x.with_values(regions.boxes), chosen, self.config.mask_overlap)
            features = features.masked_fill((covered & ~chosen)[:, None], 0.0)
        hidden = covered if layout.hidden is None else covered | layout.hidden
        return features, Packed(features, replace(layout, hidden=hidden)).mean(), drawn


# ------------------------------------------------------------------------------------------------------- checkpoints
def original(config: VilbertConfig) -> StateMap:
    """The authors' pre-training files, of either repository."""
    del config
    return StateMap(vilbert_rules())


SYSTEM = System(
    name="vilbert",
    title="ViLBERT: co-attention between a text and a region stream",
    paper="Lu et al., NeurIPS 2019, arXiv 1908.02265; 12-in-1, CVPR 2020, arXiv 1912.02315",
    model=Vilbert,
    config=VilbertConfig,
    sizes=SIZES,
    weights={"original": original},
    objectives=("mlm", "regions", "itm"),
)
