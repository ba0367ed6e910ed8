"""X-VLM: Multi-Grained Vision Language Pre-Training, aligning texts with visual concepts (Zeng, Zhang and Li, ICML
2022, arXiv 2111.08276).

A picture is encoded once. Texts are about all of it, or about a part that a box says: a part has rows of its own, those
of the patches that the box touches and one before them that stands for it. Texts and parts of all sizes are aligned
alike: by contrast, by matching with hard negatives, and by hidden words with the part in view. And from the whole
picture with a text the fused [CLS] tells the box of what the text is about. Nothing has a momentum copy.

Departures, beside the ViT: an item's result never depends on the padding of its batch; texts that share an id, such as
two of the same words, are no negatives of each other; words are hidden by chance, all pieces of a word or none, where
the authors hide a quarter of the pieces, runs of words among them; a box that reaches into a patch by less than a ten-
thousandth of it does not touch it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from coalign.errors import InputError
from coalign.layers.heads import ClassifierHead
from coalign.layers.initialise import init_truncated
from coalign.models.xvlm.names import original
from coalign.models.xvlm.trunk import SIZES, RegionTowers, XvlmConfig, input_spec_of
from coalign.objectives.box_regression import BoxRegression
from coalign.objectives.contrastive import Contrastive
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.matching import Matching, draw_negative_pairs, matched_pairs
from coalign.ops.boxes import centred, cornered
from coalign.ops.masking import Drawn, mask_tokens
from coalign.trunks.contrast import both_ways
from coalign.trunks.fusing_towers import FusedPairs
from coalign.trunks.pair_towers import Pairs
from coalign.trunks.reading import text_of
from coalign.types import FREE, Batch, Draws, Encoding, InputSpec, Model, Packed, System
from coalign.types.packed import to_device

FLOOR = 1e-5
"""Added to the chances of hard negatives in the authors' code."""


class Xvlm(FusedPairs, Model):
    """The pre-training model, which also searches, re-ranks, shows alignment and tells boxes."""

    def __init__(self, config: XvlmConfig) -> None:
        super().__init__()
        c = self.config = config
        self.online = RegionTowers(c)
        self.temperature = Parameter(torch.tensor(c.temperature))
        self.match_head = _head(c.text.dim, 2)
        self.box_head = _head(c.text.dim, 4) if "box" in c.objectives else None
        self.itc, self.itm, self.mlm, self.box = Contrastive(), Matching(), MaskedLM(), BoxRegression()

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.config)

    @property
    def towers(self) -> RegionTowers:
        return self.online

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """As `FusedPairs.encode`; with both modalities "box" too: x1, y1, x2, y2 [B, 4] of what each text is about, in
        fractions of its picture."""
        seen = super().encode(batch, record=record)
        if self.box_head is None or "fused" not in seen.tokens:
            return seen
        boxes = cornered(self.box_head(seen.tokens["fused"].first).sigmoid())
        return replace(seen, pooled={**seen.pooled, "box": boxes.clamp(0.0, 1.0)})

    def similarities(self, image: Tensor, text: Tensor) -> Tensor:
        """Cosines [B, M] of unit vectors by the temperature."""
        return image @ text.T / self.temperature

    # -------------------------------------------------------------------------------------------------- training
    @torch.no_grad()
    def before_step(self) -> None:
        """The temperature is kept within bounds, before the forward pass, as in the authors' code."""
        if self.config.clamp_temperature:
            self.temperature.clamp_(0.001, 0.5)

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The contrast, matching, hidden words and boxes of texts with whole pictures and with parts of them
        (equations 1 to 6). Without `Batch.places` text i is about all of image i. `choices` may hold what `draw` draws.
        """
        wanted = self.config.objectives if draws.only is None else draws.only
        own, whole = self.towers.of_places(batch)
        drawn = Drawn(self.draw(batch, own, draws, wanted), own.text.layout.device)
        losses: dict[str, Tensor] = {}
        if "itc" in wanted:
            losses["itc"] = both_ways(self.itc, self.similarities, own.image_vector, own.text_vector, batch.ids)
        if "itm" in wanted:
            texts, images, labels = matched_pairs(drawn)
            rows = self.towers.fuse_first(own.text, own.image, texts, images)
            losses["itm"] = self.itm(self.match_head(rows), labels)
        if "mlm" in wanted:
            hidden = text_of(batch).ids.with_values(drawn["mlm_input_ids"])
            logits = self.towers.predict(self.towers.read(hidden), own.image, drawn.host_rows("mlm_labels"))
            losses["mlm"] = self.mlm(logits, drawn["mlm_labels"][drawn.rows("mlm_labels")])
        if "box" in wanted:
            boxes, target = self.predict_boxes(batch, own.text, whole)
            losses["box"] = self.box(boxes, target)
        return losses

    def predict_boxes(self, batch: Batch, text: Packed, whole: Packed) -> tuple[Tensor, Tensor]:
        """Middle, width and height of what each text that is about a part of its picture means, told from the whole
        picture, and the true ones: both [n, 4], of the n texts that are about parts (equation 5). In a task the boxes
        are `labels.label`, one for each text."""
        places, host, box = batch.places, batch.host.places, batch.labels.label
        if self.box_head is not None and places is not None and host is not None:
            texts = (~host.whole).nonzero().squeeze(1)
            images, target = host.images[texts], places.boxes.index_select(0, to_device(texts, places.boxes.device))
        elif self.box_head is not None and box is not None and box.dim() == 2:
            texts = images = torch.arange(len(text), device="cpu")
            target = box
        else:
            raise InputError("boxes are learned from texts about parts of pictures: this batch or this model has none")
        if not len(texts):
            return centred(target), centred(target)
        rows = self.towers.fuse_first(text, whole, texts, images)
        return self.box_head(rows).sigmoid(), centred(target)

    def draw(self, batch: Batch, own: Pairs, draws: Draws, wanted: Sequence[str]) -> dict[str, Tensor]:
        """Every random choice of a step, by name: negatives for ITM, on the device; hidden words for MLM, on the host.
        `choices` go first."""
        drawn, c = dict(draws.choices), self.config
        if "itm" in wanted and "neg_image_index" not in drawn:
            drawn |= self.draw_negatives(batch, own, draws.generator)
        if "mlm" in wanted and "mlm_input_ids" not in drawn:
            text = text_of(batch.host)
            drawn["mlm_input_ids"], drawn["mlm_labels"] = mask_tokens(
                text.ids.values,
                text.ids.values != c.cls_id,
                probability=c.mask_probability,
                mask_id=c.mask_id,
                vocab_size=c.text.vocab_size,
                generator=draws.on_host,
                words=text.words,
            )
        return drawn

    @torch.no_grad()
    def draw_negatives(self, batch: Batch, own: Pairs, generator: torch.Generator | None) -> dict[str, Tensor]:
        """For each text another part of a picture, for each part another text, by their similarity (section 3.3)."""
        similarity = self.similarities(own.image_vector, own.text_vector)
        ids = torch.arange(len(similarity), device=similarity.device) if batch.ids is None else batch.ids
        sharpness = self.config.negative_sharpness
        return draw_negative_pairs(similarity, similarity.T, ids[:, None] == ids, generator, sharpness, FLOOR)


def _head(dim: int, out_dim: int) -> ClassifierHead:
    """Linear, norm, GELU, linear, twice as wide between (the authors' code)."""
    head = ClassifierHead(dim, 2 * dim, out_dim, eps=1e-5, norm_first=True)
    head.apply(init_truncated)
    return head


def with_image_size(config: XvlmConfig, size: int | Sequence[int]) -> XvlmConfig:
    """Errors: `InputError` for a Swin tower, whose tables belong to windows of one size."""
    if config.swin is not None:
        raise InputError(f"a Swin tower reads pictures of {config.swin.image_size} pixels; leave out the image size")
    return replace(config, image=config.image.at(size))


SYSTEM = System(
    name="xvlm",
    title="X-VLM: multi-grained vision language pre-training",
    paper="Zeng, Zhang and Li, ICML 2022, arXiv 2111.08276",
    model=Xvlm,
    config=XvlmConfig,
    sizes=SIZES,
    weights={"original": original},
    objectives=("itc", "itm", "mlm", "box"),
    position_tables={"online.image.positions": "bicubic"},
    with_image_size=with_image_size,
)
