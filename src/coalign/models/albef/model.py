"""ALBEF: Align before Fuse, vision and language representation learning with momentum distillation
(Li et al., NeurIPS 2021, arXiv 2107.07651).

A ViT reads the image and the first half of a BERT the text. Their [CLS] vectors are aligned by a contrastive loss
(ITC) before the second half of the BERT fuses text and image by cross-attention. The fused [CLS] says whether the two
match (ITM, with hard negatives picked by the contrastive similarity), and hidden words are predicted with the image
in view (MLM). A momentum copy of the towers fills a queue of further negatives and gives soft targets.

Departures from the original, each an option whose default a user would want: an item's result never depends on the
padding of its batch; `targets="ids"` is the original's retrieval fine-tuning, in which pairs that share an id are all
positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from coalign.layers.momentum import Similarities
from coalign.models.albef.names import original
from coalign.models.albef.trunk import SIZES, AlbefConfig, Towers, input_spec_of
from coalign.objectives.contrastive import Contrastive
from coalign.objectives.distillation import Distillation
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.matching import Matching, matched_pairs
from coalign.ops.attention import grad_cam
from coalign.ops.masking import Drawn, mask_tokens, predicted_rows
from coalign.trunks.fusing_towers import FusedPairs
from coalign.trunks.pair_towers import MomentumPairs, mean_contrast
from coalign.trunks.reading import text_of
from coalign.types import FREE, Batch, Draws, InputSpec, Packed, System


class Albef(FusedPairs, MomentumPairs[Towers]):
    """The pre-training model, which also searches, re-ranks and shows alignment."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(Towers(config), config)
        self.config = config
        self.match_head = nn.Linear(config.text.dim, 2)
        self.itc, self.itm, self.mlm, self.distillation = Contrastive(), Matching(), MaskedLM(), Distillation()

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.config)

    # ------------------------------------------------------------------------------------------------------- use
    @property
    def towers(self) -> Towers:
        return self.online

    @property
    def alignment_block(self) -> int:
        """The fusion block that shows alignment: the configuration's, or by default the paper's third."""
        own = self.config.alignment_block
        return super().alignment_block if own is None else own

    @torch.enable_grad()
    def ground(
        self, batch: Batch, by: Literal["match", "contrast"], block: int, padded_width: int | None = None
    ) -> Tensor:
        """Where the text is in the image: Grad-CAM maps [B, grid, grid] (weakly supervised grounding, section 6.4).

        "match": cross-attention of fusion block `block` by the matching logit, mean over the text's rows; the
        original divides by the width that its batch was padded to, which `padded_width` gives.
        "contrast": the [CLS] row of image block `block` by the contrastive similarity.
        """
        assert batch.text is not None
        seen, grid = self.encode(batch, record=True), self.config.image.grid_size
        if by == "contrast":
            similarity = (seen.vectors["image"] * seen.vectors["text"]).sum() / self.temperature
            cam = grad_cam(seen.record[f"image.{block}.attention"], similarity)
            return cam[:, :, 0, self.online.image.leading :].mean(1).unflatten(-1, grid)
        weights = seen.record[f"fusion.{block}.cross_attention"]
        cam = grad_cam(weights, seen.pooled["match_logits"][:, 1].sum()).mean(1)[:, :, self.online.image.leading :]
        real = seen.tokens["fused"].padding_mask(cam.shape[1])
        rows = real.sum(1)[:, None] if padded_width is None else padded_width
        return ((cam * real[:, :, None]).sum(1) / rows).unflatten(-1, grid)

    # -------------------------------------------------------------------------------------------------- training
    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """ITC, ITM and MLM of a batch of pairs. `choices` may hold what `draw` draws, and alpha."""
        assert batch.text is not None
        wanted = self.config.objectives if draws.only is None else draws.only
        alpha = draws.choices.get("alpha", self.alpha)
        own, momentum, contrast = self.contrast(batch, alpha)
        chosen = self.draw(batch, contrast, draws, wanted)
        drawn = Drawn(chosen, batch.text.ids.layout.device)
        losses: dict[str, Tensor] = {}
        if "itc" in wanted:
            losses["itc"] = mean_contrast(self.itc, contrast)
        if "itm" in wanted:
            texts, images, labels = matched_pairs(drawn)
            losses["itm"] = self.itm(
                self.match_head(self.online.fuse_first(own.text, own.image, texts, images)), labels
            )
        if "mlm" in wanted:
            hidden, labels = batch.text.ids.with_values(drawn["mlm_input_ids"]), drawn["mlm_labels"]
            rows, places = drawn.rows("mlm_labels"), predicted_rows(drawn.host["mlm_labels"])
            logits = self.predict_words(self.online, hidden, own.image, places)
            losses["mlm"] = self.mlm(logits, labels[rows])
            if self.config.distill:
                with torch.no_grad():
                    teacher = self.predict_words(self.momentum, hidden, momentum.image, places)
                losses["mlm"] = (1 - alpha) * losses["mlm"] + alpha * self.distillation(logits, teacher)
        self.queue.stage(self.shared_ids(batch), image=momentum.image_vector, text=momentum.text_vector)
        return losses

    def draw(self, batch: Batch, contrast: Similarities, draws: Draws, wanted: Sequence[str]) -> dict[str, Tensor]:
        """Every random choice of a step, by name: negatives for ITM, on the device; hidden words for MLM, on the host.
        `choices` go first."""
        drawn = dict(draws.choices)
        if "itm" in wanted and "neg_image_index" not in drawn:
            drawn |= self.draw_negatives(batch, contrast, draws.generator)
        if "mlm" in wanted and "mlm_input_ids" not in drawn:
            ids = text_of(batch.host).ids
            drawn["mlm_input_ids"], drawn["mlm_labels"] = mask_tokens(
                ids.values,
                ids.values != self.config.cls_id,
                probability=self.config.mask_probability,
                mask_id=self.config.mask_id,
                vocab_size=self.config.text.vocab_size,
                generator=draws.on_host,
            )
        return drawn

    def predict_words(self, towers: Towers, hidden: Packed, image: Packed, rows: Tensor) -> Tensor:
        """Vocabulary logits at these rows of texts in which words are hidden, with their images in view."""
        return towers.predict(towers.read(hidden), image, rows)


SYSTEM = System(
    name="albef",
    title="ALBEF: align before fuse",
    paper="Li et al., NeurIPS 2021, arXiv 2107.07651",
    model=Albef,
    config=AlbefConfig,
    sizes=SIZES,
    weights={"original": original},
    objectives=("itc", "itm", "mlm"),
    position_tables=dict.fromkeys(("online.image.positions", "momentum.image.positions", "image.positions"), "bicubic"),
    with_image_size=lambda config, size: replace(config, image=config.image.at(size)),
)
