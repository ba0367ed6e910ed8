"""CoCa: Contrastive Captioners are image-text foundation models (Yu et al., TMLR 2022, arXiv 2205.01917).

A ViT's rows are read by learned queries: the first gives the image's vector, the others are what the captions look at.
The first half of the text's blocks sees words alone and ends in a class row, which gives the text's vector; the second
half looks at the queries and writes the caption. One forward pass gives both losses.

Sizes, names and the arithmetic are OpenCLIP's: one set of queries in the place of the paper's two poolers in turn, and
a mask of padding one place too late (`CocaConfig.late_mask`). Departure: texts that share an id are all right answers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.captioning import Captioning
from coalign.layers.pooling import QueryPooling
from coalign.models.coca.names import open_clip
from coalign.models.coca.trunk import SIZES, ClassLastText, CocaConfig, Decoder
from coalign.objectives.causal_lm import CausalLM
from coalign.objectives.contrastive import Contrastive
from coalign.ops.alignment import AlignmentRecord, Attended, Rows, cosines
from coalign.ops.masking import IGNORED, next_tokens
from coalign.ops.packing import summed
from coalign.trunks.contrast import both_ways
from coalign.trunks.reading import text_of
from coalign.trunks.vit import VitTrunk
from coalign.types import FREE, Batch, Draws, Encoding, Images, InputSpec, Model, Packed, Record, System
from coalign.types.packed import to_device
from coalign.types.spec import ImageSpec, TextSpec


class Coca(Aligning, Captioning, Model):
    """Both towers, the decoder, and the learned temperature; `scale` is its inverse's logarithm."""

    METHODS = ("cross_attention", "grad_cam", "rollout", "relevance", "similarity")

    def __init__(self, config: CocaConfig) -> None:
        super().__init__()
        c = self.config = config
        if c.embed_dim != c.text.dim:
            raise InputError(f"the image's queries are {c.embed_dim} wide, the decoder {c.text.dim}: they must agree")
        self.image = VitTrunk(c.image)
        self.pool = QueryPooling(c.embed_dim, c.image.dim, c.pooler_heads, c.queries, c.image.eps)
        self.image_norm = nn.LayerNorm(c.embed_dim, c.image.eps)
        self.image_projection = nn.Linear(c.embed_dim, c.embed_dim, bias=False)
        self.text = ClassLastText(c)
        self.text_projection = nn.Linear(c.text.dim, c.embed_dim, bias=False)
        self.decoder = Decoder(c)
        self.scale = Parameter(torch.tensor(math.log(1 / 0.07)))
        self.bias = Parameter(torch.tensor(-10.0)) if c.bias else None
        for projection in (self.image_projection, self.text_projection):
            nn.init.normal_(projection.weight, std=c.embed_dim**-0.5)
        self.contrast, self.words = Contrastive(), CausalLM()
        self.image.requires_grad_(not c.locked)

    @property
    def input_spec(self) -> InputSpec:
        c = self.config
        return InputSpec(TextSpec(c.text.vocab_size, c.context), ImageSpec(c.image.image, c.mean, c.std, "crop"))

    # ------------------------------------------------------------------------------------------------------- use
    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Rows and unit vectors of the parts that the batch has; "queries" are the rows that captions look at, and with
        both modalities "decoded" the decoder's states.

        With `record`: "image.{i}.attention", "pool.attention", "text.{i}.attention", "decoder.{i}.attention",
        "decoder.{i}.cross_attention" and their "...hidden".
        """
        kept: Record | None = {} if record else None
        tokens: dict[str, Packed] = {}
        pooled: dict[str, Tensor] = {}
        if batch.images is not None:
            tokens["image"], tokens["queries"], pooled["image"] = self.read_image(batch.images, kept)
        if batch.text is not None:
            tokens["text"], pooled["text"] = self.read_text(batch.text.ids, kept)
        if batch.images is not None and batch.text is not None:
            tokens["decoded"] = self.decoder(tokens["text"], tokens["queries"], record=kept)
        vectors = {name: F.normalize(vector, dim=-1) for name, vector in pooled.items()}
        return Encoding(tokens, pooled, vectors, kept or {})

    def read_image(self, images: Images, record: Record | None = None) -> tuple[Packed, Packed, Tensor]:
        """The trunk's rows, the queries that captions look at, and projected vectors [B, embed_dim]."""
        rows = self.image(images, record=record)
        pooled = self.image_norm(self.pool(rows, record).to_padded())
        return rows, Packed.uniform(pooled[:, 1:]), self.image_projection(pooled[:, 0])

    def read_text(self, ids: Packed, record: Record | None = None) -> tuple[Packed, Tensor]:
        """Rows of the words and projected vectors [B, embed_dim]."""
        rows, last = self.text(ids, record)
        return rows, self.text_projection(last)

    def similarities(self, image: Tensor, text: Tensor) -> Tensor:
        """Scaled cosines [B, M] of unit vectors."""
        logits = self.scale.exp() * (image @ text.T)
        return logits if self.bias is None else logits + self.bias

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """Words on patches: from the decoder's words to the queries, and from these to the patches. The score is the
        caption's log-likelihood; "similarity" is the cosine of projected states."""
        c, ids, seen = self.config, text_of(batch).ids, self.encode(batch, record=True)
        if "decoded" not in seen.tokens:
            raise InputError("maps are of pairs: this batch lacks images")
        kept, grid, count = seen.record, c.image.grid_size, len(ids)
        layers = [[Attended("image", "image", kept[f"image.{i}.attention"])] for i in range(c.image.depth)]
        layers.append([Attended("queries", "image", kept["pool.attention"], slice(1, None))])
        words = slice(ids.max_length)  # of the text tower's rows; what follows them is no word
        for i in range(c.text.depth):
            layers.append([Attended("text", "text", kept[f"text.{i}.attention"], words, words)])
        for i in range(c.decoder_depth):
            layers.append([Attended("text", "text", kept[f"decoder.{i}.attention"])])
            layers.append([Attended("text", "queries", kept[f"decoder.{i}.cross_attention"])])
        pieces = self.text_projection(self.text.norm(seen.tokens["text"].values))
        patches = self.image_projection(self.image_norm(self.pool.alone(seen.tokens["image"].values)))
        places = seen.tokens["image"].with_values(patches).to_padded()[:, self.image.leading :]
        return AlignmentRecord(
            Rows.of("text", ids.lengths.tolist()),
            Rows.of("image", [grid[0] * grid[1]] * count, self.image.leading),
            [grid] * count,
            layers,
            score=-self.caption_losses(ids, seen.tokens["decoded"]),
            similarity=cosines(ids.with_values(pieces), Packed.uniform(places)),
            through="queries",
        )

    # -------------------------------------------------------------------------------------------------- captions
    @property
    def begin(self) -> int:
        return self.config.start

    @property
    def end(self) -> int:
        return self.config.end

    @property
    def longest(self) -> int:
        return self.config.context

    def memory(self, images: Images) -> Packed:
        return self.read_image(images)[1]

    def next_words(self, ids: Tensor, memory: Packed, items: Tensor) -> Tensor:
        states = self.decoder(self.text.words(Packed.uniform(ids)), memory, items)
        return self.decoder.logits(states.to_padded()[:, -1])

    # -------------------------------------------------------------------------------------------------- training
    @torch.no_grad()
    def before_step(self) -> None:
        """The scale is kept below 100, as in CLIP."""
        self.scale.clamp_(max=math.log(100.0))

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The contrastive loss of the pairs of all processes, and the captions' (section 3.2, equation 4)."""
        if batch.images is None or batch.text is None:
            raise InputError("CoCa trains on pairs: this batch lacks images or texts")
        seen, losses = self.encode(batch), dict[str, Tensor]()
        if draws.wants("contrastive"):
            losses["contrastive"] = self.loss(seen.vectors["image"], seen.vectors["text"], batch.ids)
        if draws.wants("caption"):
            assert batch.host.text is not None
            rows, labels = (to_device(x, self.scale.device) for x in self.labelled(batch.host.text.ids))
            logits = self.decoder.logits(seen.tokens["decoded"].values[rows])
            losses["caption"] = self.config.caption_weight * self.words(logits, labels)
        return losses

    def loss(self, image: Tensor, text: Tensor, ids: Tensor | None = None) -> Tensor:
        """The mean of both directions' cross-entropies for unit vectors [B, embed_dim] of this process."""
        return both_ways(self.contrast, self.similarities, image, text, ids)

    def labelled(self, ids: Packed) -> tuple[Tensor, Tensor]:
        """The rows that have a following word, and that word; the padding's id is none."""
        labels = next_tokens(ids)
        rows = ((labels != IGNORED) & (labels != self.config.padding)).nonzero().squeeze(1)
        return rows, labels[rows]

    def caption_losses(self, ids: Packed, decoded: Packed) -> Tensor:
        """[B] the loss of each caption, summed over its words."""
        rows, labels = self.labelled(ids)
        each = F.cross_entropy(self.decoder.logits(decoded.values[rows]), labels, reduction="none")
        return summed(each, ids.layout.item[rows], len(ids))


def with_image_size(config: CocaConfig, size: Any) -> CocaConfig:
    return replace(config, image=config.image.at(size))


SYSTEM = System(
    name="coca",
    title="CoCa: contrastive captioners",
    paper="Yu et al., TMLR 2022, arXiv 2205.01917",
    model=Coca,
    config=CocaConfig,
    sizes=SIZES,
    weights={"open_clip": open_clip},
    objectives=("contrastive", "caption"),
    position_tables={"image.positions": "bicubic_antialias"},
    with_image_size=with_image_size,
)
