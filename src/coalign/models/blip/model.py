"""BLIP: Bootstrapping Language-Image Pre-training for unified vision-language understanding and generation (Li et al.,
ICML 2022, arXiv 2201.12086).

A ViT reads the image. One text transformer does three things: alone it gives a vector that is aligned with the image's
by contrast (ITC); with cross-attention to the image it says whether both match (ITM, hard negatives as in ALBEF); with
causal self-attention in the place of the other it writes the text (LM). The decoder shares all layers but
self-attention with the encoder. Momentum copies of the towers fill a queue and give soft targets, as in ALBEF.

Captions come by beam search or nucleus sampling; the matching head filters noisy pairs (`coalign caption`, `coalign
filter`: CapFilt, section 3.3). Departure: an item's result never depends on the padding of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.captioning import Captioning
from coalign.layers.momentum import Similarities
from coalign.models.blip.names import original
from coalign.models.blip.trunk import SIZES, BlipConfig, BlipTowers, TiedDecoder, begun, input_spec_of
from coalign.objectives.causal_lm import CausalLM
from coalign.objectives.contrastive import Contrastive
from coalign.objectives.matching import Matching, matched_pairs
from coalign.ops.alignment import AlignmentRecord, Attended, Method, Rows, cosines
from coalign.ops.masking import Drawn, next_tokens
from coalign.trunks.pair_towers import MomentumPairs, mean_contrast
from coalign.trunks.reading import text_of
from coalign.types import FREE, Batch, Draws, Encoding, Images, InputSpec, Packed, Record, System


class Matches(Aligning):
    """Shared by the pre-training model and the one for matching alone: both have `towers` and `match_head`."""

    config: BlipConfig
    match_head: nn.Linear

    @property
    def towers(self) -> BlipTowers:
        raise NotImplementedError

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.config)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States and unit vectors of what the batch holds; with both modalities also "fused" states and match logits.

        "text_matched" are the rows that `match` reads. With `record`: "image.{i}.attention", "text.{i}.attention",
        "fusion.{i}.attention", "fusion.{i}.cross_attention" and "...hidden".
        """
        kept: Record | None = {} if record else None
        tokens: dict[str, Packed] = {}
        vectors: dict[str, Tensor] = {}
        pooled: dict[str, Tensor] = {}
        if batch.images is not None:
            tokens["image"] = self.towers.image(batch.images, record=kept)
            vectors["image"] = self.towers.image_vector(tokens["image"])
        if batch.text is not None:
            tokens["text"] = self.towers.read(batch.text.ids, record=kept)
            tokens["text_matched"] = self.towers.embed(batch.text.ids)
            vectors["text"] = self.towers.text_vector(tokens["text"])
        if batch.images is not None and batch.text is not None:
            tokens["fused"] = self.towers.fuse(batch.text.ids, tokens["image"], record=kept)
            pooled["match_logits"] = self.match_head(tokens["fused"].first)
        return Encoding(tokens, pooled, vectors, kept or {})

    def match(self, images: Packed, texts: Packed, pairs: Tensor) -> Tensor:
        """Matching logits [P] of pairs [P, 2] of (image, text) numbers, from "image" and "text_matched" of `encode`."""
        return self.match_head(self.towers.fuse_pairs(images, texts, pairs))[:, 1]

    @property
    def alignment_methods(self) -> tuple[Method, ...]:
        """Grad-CAM, as in ALBEF; of one block it says nothing, since the matching logit reads its [ENC] row alone."""
        read: tuple[Method, ...] = ("cross_attention", "rollout", "relevance", "similarity")
        return read if self.config.text.depth == 1 else ("grad_cam", *read)

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """Words on patches by the cross-attention of the text encoder, of which Grad-CAM reads the block before the
        last; "similarity" is the cosine of projected states."""
        ids, seen, c = text_of(batch).ids, self.encode(batch, record=True), self.config
        if "fused" not in seen.tokens:
            raise InputError("maps are of pairs: this batch lacks images")
        kept, count, grid = seen.record, len(ids), c.image.grid_size
        layers = [[Attended("image", "image", kept[f"image.{i}.attention"])] for i in range(c.image.depth)]
        for i in range(c.text.depth):
            layers.append([Attended("text", "text", kept[f"fusion.{i}.attention"])])
            layers.append([Attended("text", "image", kept[f"fusion.{i}.cross_attention"])])
        first = self.towers.image.leading
        pieces = self.towers.text_projection(seen.tokens["text"].values)
        patches = self.towers.image_projection(seen.tokens["image"].to_padded()[:, first:])
        shown = max(c.text.depth - 2, 0)
        return AlignmentRecord(
            Rows.of("text", ids.host_lengths.tolist()),
            Rows.of("image", [grid[0] * grid[1]] * count, first),
            [grid] * count,
            layers,
            score=seen.pooled["match_logits"][:, 1],
            similarity=cosines(ids.with_values(pieces), Packed.uniform(patches)),
            cross_layer=shown,
            grad_layer=shown,
        )


class Captions(Captioning):
    """The ids that captions begin with and end with, as BLIP has them."""

    config: BlipConfig

    @property
    def begin(self) -> int:
        return self.config.decode_id

    @property
    def end(self) -> int:
        return self.config.sep_id

    @property
    def prompt(self) -> Sequence[int]:
        return self.config.prompt

    @property
    def longest(self) -> int:
        return self.config.text.positions


class Blip(Matches, Captions, MomentumPairs[BlipTowers]):
    """The pre-training model, which also searches, re-ranks, shows alignment and writes captions."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(BlipTowers(config), config)
        self.config = config
        self.match_head = nn.Linear(config.text.dim, 2)
        self.decoder = TiedDecoder(config.text) if "lm" in config.objectives else None
        self.itc, self.itm, self.lm = Contrastive(), Matching(), CausalLM(smoothing=config.smoothing)

    @property
    def towers(self) -> BlipTowers:
        return self.online

    # -------------------------------------------------------------------------------------------------- captions
    def memory(self, images: Images) -> Packed:
        return self.online.image(images)

    def next_words(self, ids: Tensor, memory: Packed, items: Tensor) -> Tensor:
        states = self.decode(Packed.uniform(ids), memory, items).to_padded()[:, -1]
        return self.predict(states)

    def decode(self, ids: Packed, memory: Packed, items: Tensor | None = None) -> Packed:
        """The decoder's states of texts that begin with [DEC]."""
        if self.decoder is None:
            raise InputError("this BLIP was made without the language-modelling objective, so it writes no captions")
        return self.decoder(self.online.text, ids, memory, items)

    def predict(self, rows: Tensor) -> Tensor:
        """Logits [n, V] of the word after these states of the decoder."""
        assert self.decoder is not None
        return self.decoder.logits(self.online.text, rows)

    # -------------------------------------------------------------------------------------------------- training
    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """ITC, ITM and LM of a batch of pairs (section 3.2). `choices` may hold what `draw` draws, and alpha."""
        ids = text_of(batch).ids
        wanted = self.config.objectives if draws.only is None else draws.only
        own, momentum, contrast = self.contrast(batch, draws.choices.get("alpha", self.alpha))
        drawn = self.draw(batch, contrast, draws, wanted)
        losses: dict[str, Tensor] = {}
        if "itc" in wanted:
            losses["itc"] = mean_contrast(self.itc, contrast)
        if "itm" in wanted:
            texts, images, labels = matched_pairs(drawn)
            losses["itm"] = self.itm(self.match_head(self.online.fuse_first(ids, own.image, texts, images)), labels)
        if "lm" in wanted:
            following = Drawn({"next": next_tokens(text_of(batch.host).ids)}, ids.layout.device)
            labels, rows = following["next"], following.rows("next")
            states = self.decode(begun(ids, self.config.decode_id), own.image)
            losses["lm"] = self.lm(self.predict(states.values[rows]), labels[rows])
        self.queue.stage(self.shared_ids(batch), image=momentum.image_vector, text=momentum.text_vector)
        return losses

    def draw(self, batch: Batch, contrast: Similarities, draws: Draws, wanted: Sequence[str]) -> dict[str, Tensor]:
        """Every random choice of a step, by name: the negatives of ITM. `choices` go first."""
        drawn = dict(draws.choices)
        if "itm" in wanted and "neg_image_index" not in drawn:
            drawn |= self.draw_negatives(batch, contrast, draws.generator, self.config.negative_floor)
        return drawn


SYSTEM = System(
    name="blip",
    title="BLIP: bootstrapping language-image pre-training",
    paper="Li et al., ICML 2022, arXiv 2201.12086",
    model=Blip,
    config=BlipConfig,
    objectives=("itc", "itm", "lm"),
    sizes=SIZES,
    weights={"original": original},
    position_tables=dict.fromkeys(("online.image.positions", "momentum.image.positions", "image.positions"), "bicubic"),
    with_image_size=lambda config, size: replace(config, image=config.image.at(size)),
)
