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
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.checkpoints import Default, Rename, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.layers.attention import FeedForward
from coalign.layers.convolution import EfficientNetLite0, EfficientNetStem
from coalign.layers.dropout import Dropout
from coalign.layers.heads import MaskedLMHead
from coalign.layers.momentum import FeatureQueue, momentum_copy, momentum_update
from coalign.layers.transformer import Context, TransformerBlock
from coalign.models.bert import BertConfig, BertTrunk, trunk_rules, word_head_rules
from coalign.models.vit import VitConfig, VitTrunk, timm_rules
from coalign.objectives.contrastive import Contrastive, matching_targets, soft_targets
from coalign.objectives.distillation import Distillation
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.matching import Matching, draw_hard_negatives
from coalign.ops.attention import Mask, grad_cam
from coalign.ops.collectives import gather
from coalign.ops.masking import mask_tokens, predicted_rows
from coalign.types import Batch, Encoding, Images, InputSpec, Layout, Packed, Record, System, Text

STEM_MEAN, STEM_STD = (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class AlbefConfig:
    """Sizes and settings; the defaults are the paper's pre-training (section 4.1, appendix A)."""

    image: VitConfig = field(default_factory=lambda: VitConfig(image_size=256))
    text: BertConfig = field(default_factory=lambda: BertConfig(context_dim=768, cross_from=6))
    embed_dim: int = 256
    queue_size: int = 65536
    momentum: float = 0.995
    temperature: float = 0.07
    clamp_temperature: bool = True
    alpha: float = 0.4
    alpha_steps: int = 0
    """Steps over which alpha grows from 0 to its value (the original: the first epoch)."""
    distill: bool = True
    objectives: tuple[Literal["itc", "itm", "mlm"], ...] = ("itc", "itm", "mlm")
    targets: Literal["pairs", "ids"] = "pairs"
    mask_probability: float = 0.15
    max_text_length: int = 30
    separator: bool = False
    cls_id: int = 101
    mask_id: int = 103
    alignment_block: int | None = None
    """The fusion block whose cross-attention shows word-patch alignment; the paper's is the third."""

    # Runnable sizes. An image tower of few blocks on a frozen stem, and a text tower whose text half stays as it was
    # pre-trained, have no [CLS] rows that sum them up; so their vectors are read from all rows.
    image_pool: Literal["class", "grid"] = "class"
    """"grid": the projection also reads patch states and stem features, averaged over 2 x 2 cells."""
    text_pool: Literal["first", "mean"] = "first"
    text_hidden: int | None = None
    """Hidden width of a two-layer text projection; None is the paper's linear one."""
    projection_dropout: float = 0.0
    online_keys: bool = False
    """The batch's own candidates are the online vectors, so that both sides of a similarity learn (CLIP's loss); the
    queue's stay the momentum's."""
    frozen_text: bool = False
    """The text half is not trained: its states may come with the batch (`Text.states`), and both towers share them."""
    warm_momentum: bool = False
    """The momentum grows as (t + 1) / (t + 10) to its value, so that the copy leaves its random start behind."""
    negative_sharpness: float = 1.0
    """Factor of the similarities by which hard negatives are drawn. In a short training the hardest ones teach
    matching nothing: below 1 they are mixed with easier ones."""
    match_items: int | None = None
    """Pairs of a batch that are matched, each with two hard negatives from the whole batch; None is all."""
    word_items: int | None = None
    """Texts of a batch in which words are hidden; None is all."""


SIZES = {
    "base-256": AlbefConfig(),
    "base-384": AlbefConfig(image=VitConfig(image_size=384)),
    "tiny": AlbefConfig(
        image=VitConfig(image_size=64, patch_size=16, dim=128, depth=2, heads=4, hidden_dim=512),
        text=BertConfig(dim=128, depth=4, heads=4, hidden_dim=512, context_dim=128, cross_from=2),
        embed_dim=64,
        queue_size=1024,
    ),
}


class Towers(nn.Module):
    """What has a momentum copy: both encoders, their projections and the word predictor."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        c = self.config = config
        self.image = VitTrunk(c.image)
        self.text = BertTrunk(c.text)
        stem = 0 if c.image.stem == "none" else EfficientNetStem.width
        cells = (c.image.grid // 2) ** 2 if c.image_pool == "grid" else 0
        self.image_projection = nn.Linear(c.image.dim + cells * (c.image.dim + stem), c.embed_dim)
        if c.text_hidden is None:
            self.text_projection: nn.Module = nn.Linear(c.text.dim, c.embed_dim)
        else:
            self.text_projection = FeedForward(c.text.dim, c.text_hidden, c.embed_dim, dropout=c.projection_dropout)
        self.dropout = Dropout(c.projection_dropout)
        self.words = MaskedLMHead(c.text.dim, c.text.vocab_size, eps=c.text.eps) if "mlm" in c.objectives else None

    def read(self, text: Text, record: Record | None = None) -> Packed:
        """The text half: states before any image is seen."""
        if text.states is not None and record is None:
            return text.ids.with_values(text.states.to(self.text_projection_dtype))
        return self.text(text.ids, last=self.config.text.cross_from, record=record)

    @property
    def text_projection_dtype(self) -> torch.dtype:
        return next(self.text_projection.parameters()).dtype

    def image_vector(self, image: Packed, images: Images) -> Tensor:
        parts = [image.first]
        if self.config.image_pool == "grid":
            side = self.config.image.grid
            patches = image.to_padded()[:, 1:].transpose(1, 2).unflatten(2, (side, side))
            maps = [patches] if images.grid is None else [patches, images.grid]
            parts += [self.dropout(F.avg_pool2d(cells, 2).flatten(1)) for cells in maps]
        return F.normalize(self.image_projection(torch.cat(parts, 1)), dim=-1)

    def text_vector(self, text: Packed) -> Tensor:
        return self.project_text(self.pool_text(text))

    def pool_text(self, text: Packed) -> Tensor:
        """What the projection reads of a text: its first row, or the mean of all at one length."""
        if self.config.text_pool == "first":
            return text.first
        return F.normalize(text.mean(), dim=-1) * self.config.text.dim**0.5

    def project_text(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.text_projection(pooled), dim=-1)

    def fuse(self, text: Packed, image: Packed, mask: Mask | None = None, record: Record | None = None) -> Packed:
        """The fusion half: text i looks at image i, or as `mask` says; an image's keys and values are made once."""
        context = Context(image.values, mask or Mask.between(text, image))
        first = self.config.text.cross_from
        own = Mask.within(text)
        return text.with_values(
            self.text.encoder(text.values, own, context, first=first, record=record, name="fusion.")
        )

    def fuse_first(
        self, text: Packed, image: Packed, pairs: tuple[Tensor, Tensor], counts: Sequence[int] | None = None
    ) -> Tensor:
        """The fused [CLS] rows [P, dim] of pairs (text numbers, image numbers) and nothing that they do not need.

        What a text gives before it sees an image is computed once a text, an image's keys and values once an image,
        and the last block runs on the [CLS] rows alone. Where the pairs are sorted by image, `counts` says how many
        each image has: then its texts are one query, and its keys and values are not copied.
        """
        blocks = list(self.text.encoder.blocks)[self.config.text.cross_from :]
        x = text
        for number, block in enumerate(blocks):
            assert isinstance(block, TransformerBlock)
            if number == len(blocks) - 1:
                first = Layout.uniform(len(x), 1, x.values.device)
                x = Packed(block.within(x.values, Mask(first, x.layout), rows=x.layout.first), first)
            else:
                x = x.with_values(block.within(x.values, Mask.within(x)))
            if number == 0:
                x = x.select(pairs[0])
            seen = Mask.between(x, image, pairs[1]) if counts is None else Mask.between(x.layout.group(counts), image)
            x = x.with_values(block.across(x.values, x.layout, Context(image.values, seen)))
        return x.values

    def predict(self, fused: Packed, rows: Tensor) -> Tensor:
        """Vocabulary logits [n, V] at these rows only."""
        if self.words is None:
            raise ValueError("this ALBEF was made without the masked-word objective")
        return self.words(fused.values[rows], self.text.embedding.word.weight)


def input_spec_of(config: AlbefConfig) -> InputSpec:
    """CLIP's pixel statistics; texts begin with [CLS] and end without [SEP], as the original's tokenizer has it."""
    on_stem = config.image.stem != "none"
    return InputSpec(
        image_size=config.image.image_size,
        mean=STEM_MEAN if on_stem else CLIP_MEAN,
        std=STEM_STD if on_stem else CLIP_STD,
        vocab_size=config.text.vocab_size,
        max_text_length=config.max_text_length,
        separator=config.separator,
    )


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


# ------------------------------------------------------------------------------------------------------- checkpoints
def tower_rules(config: AlbefConfig, ours: str, suffix: str, bert: str, words: bool) -> list[Rule]:
    """Names of one set of towers; `suffix` is "" or "_m", `bert` what stands before BERT's own names."""
    text = f"text_encoder{suffix}."
    rules = [
        *timm_rules(f"visual_encoder{suffix}.", f"{ours}image."),
        *trunk_rules(f"{text}{bert}", f"{ours}text.", config.text, position_ids=True),
        Rename(f"vision_proj{suffix}.{{p}}", f"{ours}image_projection.{{p}}"),
        Rename(f"text_proj{suffix}.{{p}}", f"{ours}text_projection.{{p}}"),
    ]
    if words:
        rules += word_head_rules(
            f"{text}cls.predictions.", f"{ours}words.", f"{text}{bert}embeddings.word_embeddings.weight"
        )
    return rules


def original(config: AlbefConfig) -> StateMap:
    """The authors' files: pre-training (with "bert." and a word head) or retrieval (neither, and queued ids)."""
    words = "mlm" in config.objectives
    bert = "bert." if words else ""
    ids: Rule = (
        Rename("idx_queue", "queue.ids")
        if config.targets == "ids"
        else Default("queue.ids", lambda: torch.full((1, config.queue_size), -100))
    )
    return StateMap(
        tower_rules(config, "online.", "", bert, words),
        tower_rules(config, "momentum.", "_m", bert, words),
        Rename("temp", "temperature"),
        Rename("itm_head.{p}", "match_head.{p}"),
        Rename("image_queue", "queue.image"),
        Rename("text_queue", "queue.text"),
        Rename("queue_ptr", "queue.pointer"),
        ids,
        Default("step", lambda: torch.zeros((), dtype=torch.int64)),
    )


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
