"""ALBEF: Align before Fuse, vision and language representation learning with momentum distillation
(Li et al., NeurIPS 2021, arXiv 2107.07651).

A ViT reads the image and the first half of a BERT the text. Their [CLS] vectors are aligned by a contrastive loss
(ITC) before the second half of the BERT fuses text and image by cross-attention. The fused [CLS] says whether the two
match (ITM, with hard negatives picked by the contrastive similarity), and hidden words are predicted with the image
in view (MLM). A momentum copy of the towers fills a queue of further negatives and gives soft targets.

Departures from the original, each an option whose default a user would want: an item's result never depends on the
padding of its batch; `targets="ids"` is the original's retrieval fine-tuning, in which pairs that share an id are all
positive; options named under "runnable sizes" in `AlbefConfig` serve training on a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.layers.convolution import EfficientNetLite0, EfficientNetStem
from coalign.layers.momentum import FeatureQueue, momentum_copy, momentum_update
from coalign.models.albef.names import original
from coalign.models.albef.trunk import SIZES, AlbefConfig, Towers, input_spec_of
from coalign.objectives.contrastive import Contrastive, matching_targets, soft_targets
from coalign.objectives.distillation import Distillation
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.matching import Matching, draw_hard_negatives
from coalign.ops.attention import grad_cam
from coalign.ops.collectives import gather
from coalign.ops.masking import mask_tokens, predicted_rows
from coalign.types import Batch, Encoding, Images, InputSpec, Packed, Record, System, Text


@dataclass(frozen=True)
class Contrast:
    """What the contrastive step sees: states, unit vectors, and similarities to [batch | queue] with their targets."""

    image: Packed
    text: Packed
    image_vector: Tensor
    text_vector: Tensor
    image_m: Packed
    text_m: Packed
    image_vector_m: Tensor
    text_vector_m: Tensor
    similarity_i2t: Tensor
    similarity_t2i: Tensor
    target_i2t: Tensor
    target_t2i: Tensor


class Albef(nn.Module):
    """The pre-training model, which also searches, re-ranks and shows alignment."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = None if config.image.stem == "none" else EfficientNetStem(EfficientNetLite0())
        if self.stem is not None:
            shape = EfficientNetStem.width, *config.image.grid_size
            self.register_buffer("grid_mean", torch.zeros(shape))
            self.register_buffer("grid_std", torch.ones(shape))
        self.online = Towers(config)
        self.momentum = momentum_copy(self.online)
        self.temperature = Parameter(torch.tensor(config.temperature))
        self.match_head = nn.Linear(config.text.dim, 2)
        self.queue = FeatureQueue(config.queue_size, image=config.embed_dim, text=config.embed_dim)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.itc, self.itm, self.mlm, self.distillation = Contrastive(), Matching(), MaskedLM(), Distillation()
        self._pending: list[dict[str, Tensor]] = []

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.config)

    # ------------------------------------------------------------------------------------------------------- use
    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States and unit vectors of what the batch holds; with both modalities also "fused" states and match logits.

        With `record`: "image.{i}.attention", "text.{i}.attention", "fusion.{i}.cross_attention" and "...hidden".
        """
        kept: Record | None = {} if record else None
        tokens: dict[str, Packed] = {}
        vectors: dict[str, Tensor] = {}
        pooled: dict[str, Tensor] = {}
        if batch.images is not None:
            images = self.see(batch.images)
            tokens["image"] = self.online.image(images, record=kept)
            vectors["image"] = self.online.image_vector(tokens["image"], images)
        if batch.text is not None:
            tokens["text"] = self.online.read(batch.text, record=kept)
            vectors["text"] = self.online.text_vector(tokens["text"])
        if batch.images is not None and batch.text is not None:
            tokens["fused"] = self.online.fuse(tokens["text"], tokens["image"], record=kept)
            pooled["match_logits"] = self.match_head(tokens["fused"].first)
        return Encoding(tokens, pooled, vectors, kept or {})

    def match(self, images: Packed, texts: Packed, pairs: Tensor) -> Tensor:
        """Matching logits [P] of pairs [P, 2] of (image, text) numbers, from states that `encode` gave.

        The texts of one image become one long query, so that its keys and values are projected once.
        """
        order = torch.argsort(pairs[:, 0], stable=True)
        wanted, counts = pairs[order, 0].unique_consecutive(return_counts=True)
        rows = self.online.fuse_first(texts, images.select(wanted), (pairs[order, 1], pairs[order, 0]), counts.tolist())
        logits = self.match_head(rows)[:, 1]
        return torch.empty_like(logits).index_copy(0, order, logits)

    def see(self, images: Images) -> Images:
        """What the image tower reads: pixels as they are, or the standardised features of the frozen stem."""
        if self.stem is None:
            return images
        grid = self.features(images)
        return Images(grid=(grid - self.get_buffer("grid_mean")) / self.get_buffer("grid_std"))

    def features(self, images: Images) -> Tensor:
        """The stem's features [B, C, h, w]: those that come with the batch, or of its pixels."""
        if images.grid is not None:
            return images.grid.to(self.temperature.dtype)
        if self.stem is None or images.pixels is None:
            raise ValueError("this batch holds neither pixels nor features of a stem")
        return self.stem(images.pixels)

    @property
    def alignment_block(self) -> int:
        """The fusion block that shows alignment: the third, as in the paper, or the last of fewer."""
        c = self.config
        return min(c.text.cross_from + 2, c.text.depth - 1) if c.alignment_block is None else c.alignment_block

    @property
    def alignment_method(self) -> Literal["cross_attention", "grad_cam"]:
        """Grad-CAM, as in the paper; plain cross-attention where only the last fusion block could show it."""
        return "cross_attention" if self.alignment_block == self.config.text.depth - 1 else "grad_cam"

    def alignment(
        self, batch: Batch, method: Literal["cross_attention", "grad_cam", "transport"] = "grad_cam"
    ) -> list[Tensor]:
        """Word-to-patch maps [L_i, grid, grid], one a pair: cross-attention of `alignment_block`, mean over heads.

        "grad_cam" weights the attention by the positive part of the matching logit's gradient (section 6.4).
        """
        assert batch.text is not None
        if method == "transport":
            raise ValueError("ALBEF has no transport plan; its methods are cross_attention and grad_cam")
        c = self.config
        block = self.alignment_block
        if method == "grad_cam" and block == c.text.depth - 1:
            raise ValueError(
                f"Grad-CAM of fusion block {block} says nothing of words: it is the last, and the matching logit reads "
                "its [CLS] row alone. Use method 'cross_attention'"
            )
        with torch.set_grad_enabled(method == "grad_cam"):
            seen = self.encode(batch, record=True)
            weights = seen.record[f"fusion.{block}.cross_attention"]
            if method == "grad_cam":
                weights = grad_cam(weights, seen.pooled["match_logits"][:, 1].sum())
        maps = weights.detach().mean(1)[:, :, 1:].unflatten(-1, (c.image.grid, c.image.grid))
        return [rows[:length] for rows, length in zip(maps, batch.text.ids.lengths.tolist(), strict=True)]

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
        seen, side = self.encode(batch, record=True), self.config.image.grid
        if by == "contrast":
            similarity = (seen.vectors["image"] * seen.vectors["text"]).sum() / self.temperature
            cam = grad_cam(seen.record[f"image.{block}.attention"], similarity)
            return cam[:, :, 0, 1:].mean(1).unflatten(-1, (side, side))
        weights = seen.record[f"fusion.{block}.cross_attention"]
        cam = grad_cam(weights, seen.pooled["match_logits"][:, 1].sum()).mean(1)[:, :, 1:]
        real = seen.tokens["fused"].padding_mask(cam.shape[1])
        rows = real.sum(1)[:, None] if padded_width is None else padded_width
        return ((cam * real[:, :, None]).sum(1) / rows).unflatten(-1, (side, side))

    # -------------------------------------------------------------------------------------------------- training
    @torch.no_grad()
    def before_step(self) -> None:
        """The momentum copy follows and the temperature is clamped, both before the forward pass, as published."""
        self._pending.clear()
        if self.config.clamp_temperature:
            self.temperature.clamp_(0.001, 0.5)
        self.momentum.eval()  # its targets and its queue are better without dropout
        rate = self.config.momentum
        if self.config.warm_momentum:
            step = int(self.get_buffer("step"))
            rate = min(rate, (step + 1) / (step + 10))
        momentum_update(self.momentum, self.online, rate)

    def losses(
        self,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
        choices: Mapping[str, Tensor] | None = None,
        only: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """ITC, ITM and MLM of a batch of pairs. `choices` may hold what `draw` draws, and alpha."""
        assert batch.text is not None
        wanted = self.config.objectives if only is None else only
        alpha = self.alpha if choices is None or "alpha" not in choices else choices["alpha"]
        seen = self.contrast(batch, alpha)
        drawn = self.draw(batch.text, seen, batch.ids, generator, choices or {}, wanted)
        if torch.is_grad_enabled():
            self._pending.append(self.for_queue(seen, batch.ids))
        losses: dict[str, Tensor] = {}
        if "itc" in wanted:
            i2t = self.itc(seen.similarity_i2t, seen.target_i2t)
            losses["itc"] = (i2t + self.itc(seen.similarity_t2i, seen.target_t2i)) / 2
        if "itm" in wanted:
            texts, images = self.with_negatives(drawn, seen.text.values.device)
            text, image = seen.text, seen.image
            if self.config.match_items is not None:  # leave out what no pair has
                (used, texts), (shown, images) = (x.unique(return_inverse=True) for x in (texts, images))
                text, image = text.select(used), image.select(shown)
            logits = self.match_head(self.online.fuse_first(text, image, (texts, images)))
            labels = (torch.arange(logits.shape[0], device=logits.device) < logits.shape[0] // 3).long()
            losses["itm"] = self.itm(logits, labels)
        if "mlm" in wanted:
            hidden, labels = self.hidden_words(batch.text.ids, drawn)
            rows, image, image_m = predicted_rows(labels), seen.image, seen.image_m
            if self.config.word_items is not None:
                image, image_m = (x.select(range(len(hidden))) for x in (image, image_m))
            text = self.online.read(Text(hidden))
            logits = self.online.predict(self.online.fuse(text, image), rows)
            losses["mlm"] = self.mlm(logits, labels[rows])
            if self.config.distill:
                with torch.no_grad():
                    m = self.momentum
                    text_m = text if self.config.frozen_text else m.read(Text(hidden))
                    teacher = m.predict(m.fuse(text_m, image_m), rows)
                losses["mlm"] = (1 - alpha) * losses["mlm"] + alpha * self.distillation(logits, teacher)
        return losses

    @torch.no_grad()
    def after_step(self) -> None:
        """Puts the step's momentum features into the queue, those of all ranks in the same order."""
        for features in self._pending:
            self.queue.enqueue(**{name: gather(rows) for name, rows in features.items()})
        self._pending.clear()
        self.get_buffer("step").add_(1)

    @property
    def alpha(self) -> Tensor | float:
        """The weight of the momentum model's targets at this step."""
        c = self.config
        if not c.alpha_steps:
            return c.alpha
        return c.alpha * (self.get_buffer("step") / c.alpha_steps).clamp(max=1.0)

    def contrast(self, batch: Batch, alpha: float | Tensor) -> Contrast:
        """Both towers and their momentum copies; similarities to this batch and the queue, and their targets."""
        if batch.images is None or batch.text is None:
            raise ValueError("ALBEF trains on pairs: this batch lacks images or texts")
        online, m, queue, images_in = self.online, self.momentum, self.queue, self.see(batch.images)
        image, text = online.image(images_in), online.read(batch.text)
        image_vector, text_vector = online.image_vector(image, images_in), online.text_vector(text)
        bank = [batch.labels["text_bank"]] if "text_bank" in batch.labels else []
        with torch.no_grad():
            image_m, text_m = m.image(images_in), text if self.config.frozen_text else m.read(batch.text)
            image_vector_m, text_vector_m = m.image_vector(image_m, images_in), m.text_vector(text_m)
            images = torch.cat([image_vector_m.T, queue.get_buffer("image")], 1)
            texts = torch.cat([text_vector_m.T, queue.get_buffer("text"), *(m.project_text(x).T for x in bank)], 1)
            if self.config.targets == "ids":
                assert batch.ids is not None, 'targets="ids" needs the ids of the items'
                known = torch.cat([batch.ids, queue.ids[0]])
                target_t2i = matching_targets(batch.ids, known)
                target_i2t = (
                    matching_targets(batch.ids, torch.cat([known, batch.labels["text_bank_ids"]]))
                    if bank
                    else target_t2i
                )
            else:
                target_i2t = target_t2i = torch.eye(len(image), images.shape[1], device=images.device)
            if self.config.distill:
                target_i2t = soft_targets(image_vector_m @ texts / self.temperature, target_i2t, alpha)
                target_t2i = soft_targets(text_vector_m @ images / self.temperature, target_t2i, alpha)
        if self.config.online_keys:
            images = torch.cat([image_vector.T, queue.get_buffer("image")], 1)
            texts = torch.cat([text_vector.T, queue.get_buffer("text"), *(online.project_text(x).T for x in bank)], 1)
        return Contrast(
            image,
            text,
            image_vector,
            text_vector,
            image_m,
            text_m,
            image_vector_m,
            text_vector_m,
            image_vector @ texts / self.temperature,
            text_vector @ images / self.temperature,
            target_i2t,
            target_t2i,
        )

    def draw(
        self,
        text: Text,
        seen: Contrast,
        ids: Tensor | None,
        generator: torch.Generator | None,
        choices: Mapping[str, Tensor],
        wanted: Sequence[str],
    ) -> dict[str, Tensor]:
        """Every random choice of a step, by name: negatives for ITM, hidden words for MLM. `choices` go first."""
        drawn = dict(choices)
        size = len(text.ids)
        if "itm" in wanted and "neg_image_index" not in drawn:
            same = torch.eye(size, dtype=torch.bool, device=seen.similarity_i2t.device)
            if self.config.targets == "ids" and ids is not None:
                same = ids[:, None] == ids
            some, sharpness = self.config.match_items, self.config.negative_sharpness
            for name, similarity in (
                ("neg_image_index", seen.similarity_t2i),
                ("neg_text_index", seen.similarity_i2t),
            ):
                known = sharpness * similarity[:some, :size].detach()
                drawn[name] = draw_hard_negatives(known, same[:some], generator)
        if "mlm" in wanted and "mlm_input_ids" not in drawn:
            words = text.ids.select(range(min(self.config.word_items or size, size))).values
            drawn["mlm_input_ids"], drawn["mlm_labels"] = mask_tokens(
                words,
                words != self.config.cls_id,
                probability=self.config.mask_probability,
                mask_id=self.config.mask_id,
                vocab_size=self.config.text.vocab_size,
                generator=generator,
            )
        return drawn

    def with_negatives(self, drawn: Mapping[str, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
        """3B pairs of (text, image) numbers: the pairs; each text with a negative image; a negative text with each
        image."""
        own = torch.arange(drawn["neg_text_index"].shape[0], device=device)
        return torch.cat([own, own, drawn["neg_text_index"]]), torch.cat([own, drawn["neg_image_index"], own])

    def hidden_words(self, ids: Packed, drawn: Mapping[str, Tensor]) -> tuple[Packed, Tensor]:
        """The texts in which words are hidden, and the labels [T] of their pieces."""
        some = self.config.word_items
        part = ids if some is None or some >= len(ids) else ids.select(range(some))
        return part.with_values(drawn["mlm_input_ids"]), drawn["mlm_labels"]

    def for_queue(self, seen: Contrast, ids: Tensor | None) -> dict[str, Tensor]:
        """What `after_step` enqueues."""
        features = {"image": seen.image_vector_m, "text": seen.text_vector_m}
        return features if ids is None or self.config.targets == "pairs" else {**features, "ids": ids}


SYSTEM = System(
    name="albef",
    title="ALBEF: align before fuse",
    paper="Li et al., NeurIPS 2021, arXiv 2107.07651",
    model=Albef,
    config=AlbefConfig,
    sizes=SIZES,
    weights={"original": original},
    objectives=("itc", "itm", "mlm"),
    position_tables={"online.image.positions": "bicubic", "momentum.image.positions": "bicubic"},
    with_image_size=lambda config, size: replace(config, image=replace(config.image, image_size=size)),
)
