"""Compact: a small image-text aligner on frozen features, which trains in minutes on a laptop. The quick start's model.

A ViT of one block reads the feature map of a frozen EfficientNet-lite0 (the hybrid of Dosovitskiy et al. 2021, section
3.1); texts are read by a frozen MiniLM. Vectors of both are aligned by momentum contrast, one fusion block with
cross-attention says whether they match, and hidden words are predicted with the image in view: the objectives of ALBEF
(Li et al. 2021), composed of the same layers. Unlike ALBEF's, the batch's own keys are online vectors, texts of other
items come with the batch as further candidates, and all that share an id are positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.convolution import EfficientNetStem
from coalign.layers.fusion import fuse_pairs
from coalign.layers.momentum import Further, MomentumContrast, Similarities, Steps, momentum_copy, momentum_update
from coalign.models.compact.classes import ClassNames
from coalign.models.compact.stem import make_stem
from coalign.models.compact.towers import CompactConfig, Pairs, Towers, input_spec_of, pool_text
from coalign.models.compact.words import WordPatches
from coalign.objectives.contrastive import Contrastive
from coalign.objectives.distillation import Distillation
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.matching import Matching, draw_negative_pairs, matched_pairs
from coalign.ops.alignment import AlignmentRecord, Attended, Method, Rows
from coalign.ops.masking import Drawn, mask_tokens
from coalign.types import FREE, Batch, Draws, Encoding, Images, InputSpec, Model, Packed, Record, System, Text, needed


class Compact(Aligning, Model):
    """The model, which also searches, re-ranks and shows alignment."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = make_stem(config)
        if self.stem is not None:
            shape = config.image.stem_width, *config.image.grid_size
            self.register_buffer("grid_mean", torch.zeros(shape))
            self.register_buffer("grid_std", torch.ones(shape))
        self.online = Towers(config)
        self.momentum = momentum_copy(self.online)
        self.temperature = Parameter(torch.tensor(config.temperature))
        self.match_head = nn.Linear(config.text.dim, 2)
        self.queue = MomentumContrast(config.queue_size, config.vector_dim, online_keys=True)
        self.word_patches = None
        if config.patch_dim is not None and self.stem is not None:
            dropout = config.projection_dropout / 2
            widths = config.image.stem_width, config.text.dim, config.patch_dim, config.patch_hidden
            self.word_patches = WordPatches(*widths, dropout)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.steps = Steps()
        self.itc, self.itm, self.mlm, self.distillation = Contrastive(), Matching(), MaskedLM(), Distillation()

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
        """Matching logits [P] of pairs [P, 2] of (image, text) numbers, from states that `encode` gave."""
        rows = fuse_pairs(self.online.text.encoder, self.config.text.cross_from, images, texts, pairs)
        return self.match_head(rows)[:, 1]

    def see(self, images: Images) -> Images:
        """The input of the image tower: pixels as they are, or the standardised features of the frozen stem."""
        if self.stem is None:
            return images
        seen, pooled = self.features(images), None
        if self.named_stem is not None:
            stem, classes = self.named_stem
            pooled = classes.images(needed(seen.pooled, "pooled features"), stem.network.classifier(seen.pooled))
        grid = needed(seen.grid, "features")
        return Images(grid=(grid - self.get_buffer("grid_mean")) / self.get_buffer("grid_std"), pooled=pooled)

    @property
    def named_stem(self) -> tuple[EfficientNetStem, ClassNames] | None:
        """The stem whose classifier is read, and the names of its classes; None where no names are read."""
        stem, classes = self.stem, self.online.classes
        return (stem, classes) if isinstance(stem, EfficientNetStem) and classes is not None else None

    def features(self, images: Images) -> Images:
        """The stem's features `grid` [B, C, h, w], and `pooled` [B, D] where the names of classes are read: those that
        come with the batch, or of its pixels."""
        if images.grid is not None:
            dtype, pooled = self.temperature.dtype, images.pooled
            return Images(grid=images.grid.to(dtype), pooled=None if pooled is None else pooled.to(dtype))
        if self.stem is None or images.pixels is None:
            raise ValueError("this batch holds neither pixels nor features of a stem")
        if self.named_stem is None:
            return Images(grid=self.stem(images.pixels))
        grid, pooled = self.named_stem[0].with_pooled(images.pixels)
        return Images(grid=grid, pooled=pooled)

    @torch.no_grad()
    def standardise(self, grids: Tensor, pooled: Tensor | None = None) -> None:
        """Sets mean and deviation of the stem's features [N, C, h, w], cell by cell, by which they are read; and of
        `pooled` [N, D]."""
        grids = grids.float()
        whole = grids.std(dim=(0, 2, 3), keepdim=True)[0]  # keeps cells that are nearly always white from growing
        self.get_buffer("grid_mean").copy_(grids.mean(0))
        self.get_buffer("grid_std").copy_(grids.std(0) + 0.1 * whole + 1e-3)
        if self.word_patches is not None:
            self.word_patches.standardise(grids)
        if self.online.classes is not None and pooled is not None:
            self.online.classes.standardise(pooled.float())

    @property
    def alignment_methods(self) -> tuple[Method, ...]:
        """Alignment methods, the best first: the similarity of words and patches, where the model has learned it."""
        read: tuple[Method, ...] = ("cross_attention", "rollout", "relevance")
        return read if self.word_patches is None else ("similarity", *read)

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """Words on patches: the softmax over patches of each word's similarities, and the attentions of all blocks.

        Where the model reads the names of classes, and pixels come with the batch, these have a part in the similarity.
        """
        if batch.text is None or batch.images is None:
            raise InputError("maps are of pairs: this batch lacks images or texts")
        pixels = batch.images.pixels
        if self.stem is not None:  # which runs once
            batch = replace(batch, images=self.features(batch.images))
        assert batch.text is not None and batch.images is not None
        c, seen = self.config, self.encode(batch, record=True)
        kept, shape, count = seen.record, c.image.grid_size, len(batch.text.ids)
        layers = [[Attended("image", "image", kept[f"image.{i}.attention"])] for i in range(c.image.depth)]
        for i in range(c.text.depth):
            part = "fusion" if i >= c.text.cross_from else "text"
            layers.append([Attended("text", "text", kept[f"{part}.{i}.attention"])])
            if part == "fusion":
                layers.append([Attended("text", "image", kept[f"fusion.{i}.cross_attention"])])
        maps = None
        if self.word_patches is not None:
            grid = needed(self.features(batch.images).grid, "features")
            words, named = self.phrase_states(batch.text), None
            if self.named_stem is not None and pixels is not None:
                stem, classes = self.named_stem
                named = classes.similarity(stem.classes(pixels), words, grid.shape[2:])
            word_maps = self.word_patches.maps(grid, words, named)
            maps = [own.flatten(1) for own in word_maps]
        return AlignmentRecord(
            Rows.of("text", batch.text.ids.host_lengths.tolist()),
            Rows.of("image", [shape[0] * shape[1]] * count, 1),
            [shape] * count,
            layers,
            score=seen.pooled["match_logits"][:, 1],
            similarity=maps,
        )

    # ------------------------------------------------------------------------------------------------ frozen parts
    def frozen_parts(self) -> Sequence[nn.Module]:
        """The frozen parts, whose output may be computed once (`coalign.data.pairs.frozen`)."""
        text, blocks = self.online.text, list(self.online.text.encoder.blocks)
        stem = [part for part in (self.stem, self.online.classes) if part is not None]
        return [*stem, text.embedding, *blocks[: self.config.text.cross_from]]

    def text_states(self, text: Text) -> Packed:
        """The frozen text half's states."""
        return self.online.read(text)

    @torch.no_grad()
    def phrase_states(self, text: Text) -> Packed:
        """States of texts whose phrases, the parts between punctuation, are each read alone: a phrase's states do not
        depend on its neighbours. Punctuation and special pieces have states of zeros."""
        ids, c = text.ids.values, self.config
        bounds = torch.tensor([c.cls_id, c.sep_id, *c.phrase_ends], device=ids.device)
        ends = torch.isin(ids, bounds)
        rows = (~ends).nonzero().squeeze(1)
        states = ids.new_zeros(len(ids), c.text.dim, dtype=self.temperature.dtype)
        if len(rows):
            _, counts = ends.cumsum(0)[rows].unique_consecutive(return_counts=True)
            first, last = ids.new_tensor([c.cls_id]), ids.new_tensor([c.sep_id])
            phrases = Packed.from_items([torch.cat([first, own, last]) for own in ids[rows].split(counts.tolist())])
            read = self.online.read(Text(phrases)).values
            states[rows] = read[~torch.isin(phrases.values, bounds)]
        return text.ids.with_values(states)

    def pool_states(self, states: Packed) -> Tensor:
        """The pooled text before the projections."""
        return pool_text(states)

    # -------------------------------------------------------------------------------------------------- training
    @torch.no_grad()
    def before_step(self) -> None:
        """The momentum copy follows and the temperature is clamped, both before the forward pass."""
        self.queue.discard()
        self.temperature.clamp_(0.001, 0.5)
        self.momentum.eval()  # its targets and its queue are better without dropout
        step = self.steps.read(self.get_buffer("step"))
        momentum_update(self.momentum, self.online, min(self.config.momentum, (step + 1) / (step + 10)))

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """ITC, ITM, MLM and late interaction of a batch of pairs. `choices` may hold what `draw` draws."""
        assert batch.text is not None
        wanted = self.config.objectives if draws.only is None else draws.only
        own, momentum, contrast = self.contrast(batch)
        chosen = self.draw(batch, contrast, draws.generator, draws.choices, wanted, draws.on_host)
        drawn = Drawn(chosen, batch.text.ids.layout.device)
        losses: dict[str, Tensor] = {}
        if "itc" in wanted:
            i2t = self.itc(contrast.similarity_i2t, contrast.target_i2t)
            losses["itc"] = (i2t + self.itc(contrast.similarity_t2i, contrast.target_t2i)) / 2
        if "itm" in wanted:
            texts, images, labels = matched_pairs(drawn)
            losses["itm"] = self.itm(
                self.match_head(self.online.fuse_first(own.text, own.image, texts, images)), labels
            )
        if "mlm" in wanted:
            some = range(min(self.config.word_items, len(batch.text.ids)))
            hidden, labels = batch.text.ids.select(some).with_values(drawn["mlm_input_ids"]), drawn["mlm_labels"]
            rows, text = drawn.rows("mlm_labels"), self.online.read(Text(hidden))
            logits = self.online.predict(self.online.fuse(text, own.image.select(some)), rows)
            with torch.no_grad():
                m = self.momentum
                teacher = m.predict(m.fuse(text, momentum.image.select(some)), rows)
            soft = self.distillation(logits, teacher)
            losses["mlm"] = (1 - self.alpha) * self.mlm(logits, labels[rows]) + self.alpha * soft
        if "late" in wanted and self.word_patches is not None:
            assert batch.images is not None and batch.ids is not None
            some = range(min(self.config.late_items, len(batch.ids)))
            grid = needed(self.features(batch.images).grid, "features")[: len(some)]
            pooled = pool_text(own.text.select(some))
            losses["late"] = self.word_patches.loss(
                grid, pooled, batch.ids[: len(some)], batch.candidates, batch.mosaics
            )
        self.queue.stage(batch.ids, image=momentum.image_vector, text=momentum.text_vector)
        return losses

    @torch.no_grad()
    def after_step(self) -> None:
        """The queue takes in the step's momentum features."""
        self.queue.flush()
        self.steps.count(self.get_buffer("step"))

    @property
    def alpha(self) -> Tensor | float:
        """The weight of the momentum copy's targets at this step."""
        c = self.config
        return c.alpha * (self.get_buffer("step") / c.alpha_steps).clamp(max=1.0) if c.alpha_steps else c.alpha

    def contrast(self, batch: Batch) -> tuple[Pairs, Pairs, Similarities]:
        """Encodings by the towers, those by their momentum copies, and the similarities with their targets."""
        if batch.images is None or batch.text is None or batch.ids is None:
            raise ValueError("this model trains on pairs with ids: this batch lacks images, texts or ids")
        images, text, more, further = self.see(batch.images), self.online.read(batch.text), batch.candidates, None
        own = self.online(images, text)
        with torch.no_grad():
            momentum = self.momentum(images, text)
        if more is not None:
            with torch.no_grad():
                further_m = self.momentum.project_text(more.states)
            further = Further(self.online.project_text(more.states), further_m, more.ids)
        return (
            own,
            momentum,
            self.queue(
                own.image_vector,
                own.text_vector,
                momentum.image_vector,
                momentum.text_vector,
                self.temperature,
                alpha=self.alpha,
                ids=batch.ids,
                further=further,
            ),
        )

    def draw(
        self,
        batch: Batch,
        contrast: Similarities,
        generator: torch.Generator | None,
        choices: Mapping[str, Tensor],
        wanted: Sequence[str],
        host: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Every random choice of a step, by name: negatives for ITM, on the device; hidden words for MLM, on the host.
        `choices` go first."""
        assert batch.host.text is not None and batch.ids is not None
        c, drawn, ids = self.config, dict(choices), batch.host.text.ids
        size = len(ids)
        if "itm" in wanted and "neg_image_index" not in drawn:
            i2t, t2i = (s[: c.match_items, :size] for s in (contrast.similarity_i2t, contrast.similarity_t2i))
            same = batch.ids[: c.match_items, None] == batch.ids
            drawn |= draw_negative_pairs(i2t, t2i, same, generator, c.negative_sharpness)
        if "mlm" in wanted and "mlm_input_ids" not in drawn:
            words = ids.select(range(min(c.word_items, size))).values
            drawn["mlm_input_ids"], drawn["mlm_labels"] = mask_tokens(
                words,
                words != c.cls_id,
                probability=c.mask_probability,
                mask_id=c.mask_id,
                vocab_size=c.text.vocab_size,
                generator=generator if batch.host is batch and host is None else host,
            )
        return drawn


SIZES = {"hybrid-96": CompactConfig()}

SYSTEM = System(
    name="compact",
    title="Compact: alignment of frozen features",
    paper="this package; objectives of Li et al., NeurIPS 2021, arXiv 2107.07651",
    model=Compact,
    config=CompactConfig,
    sizes=SIZES,
    weights={},
    objectives=("itc", "itm", "mlm", "late"),
)
