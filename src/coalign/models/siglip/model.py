"""SigLIP: Sigmoid Loss for Language Image Pre-Training (Zhai et al., ICCV 2023, arXiv 2303.15343), and SigLIP 2
(Tschannen et al., 2025, arXiv 2502.14786).

Two towers as in CLIP, but each pair of a batch is a question of its own, right or wrong, so that no softmax over the
batch is needed. The image tower is a ViT without class token whose rows a learned probe reads (attention pooling). The
text tower is not causal; texts are padded to the length of the position table, padding is attended to, and the last row
is read. SigLIP 2's NaFlex towers read pictures of any proportions: as many rows as there are patches, with the position
table resized to each picture (`VitConfig.any_shape`).

big_vision's GELU is the tanh form; OpenCLIP's towers have the exact one. Departure: texts that share an id are all
right answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.errors import InputError
from coalign.layers.pooling import ProbePooling
from coalign.layers.token_maps import TokenMaps, TokenRows
from coalign.models.siglip.names import open_clip, original, original_stacked, transformers
from coalign.objectives.sigmoid import SigmoidContrastive
from coalign.trunks.text import TextConfig, TextTrunk, last_rows
from coalign.trunks.vit import VitConfig, VitTrunk
from coalign.types import FREE, Batch, Draws, Encoding, Images, InputSpec, Model, Packed, Record, System
from coalign.types.spec import ImageSpec, TextSpec


def image_tower(**sizes: Any) -> VitConfig:
    """A ViT as SigLIP has it: no class token, the tanh form of GELU, eps 1e-6."""
    return replace(VitConfig(activation="gelu_tanh", class_token=False), **sizes)


def text_tower(**sizes: Any) -> TextConfig:
    """SigLIP's text tower: every row sees every other, 64 rows."""
    own = TextConfig(32000, 64, 768, 12, 12, 3072, eps=1e-6, activation="gelu_tanh", causal=False)
    return replace(own, **sizes)


@dataclass(frozen=True)
class SiglipConfig:
    """Sizes; the defaults are those of SigLIP's base model at 224 pixels.

    `embed_dim` is the width of the text head, which must be the image tower's. `padding` is the id that texts are
    padded with: 1, the end marker, in SigLIP, 0 in SigLIP 2. A NaFlex tower's pictures are as large as
    `max_patches` patches allow.
    """

    image: VitConfig = field(default_factory=image_tower)
    text: TextConfig = field(default_factory=text_tower)
    embed_dim: int = 768
    padding: int = 1
    max_patches: int = 256


_TINY = image_tower(image_size=64, patch_size=8, dim=192, depth=4, heads=3, hidden_dim=768)
_TINY_TEXT = text_tower(dim=192, depth=4, heads=3, hidden_dim=768)

SIZES = {
    "tiny": SiglipConfig(_TINY, _TINY_TEXT, 192),
    "tiny-naflex": SiglipConfig(replace(_TINY, any_shape=True), _TINY_TEXT, 192, padding=0, max_patches=64),
    "base": SiglipConfig(),
    "base-256": SiglipConfig(image_tower(image_size=256)),
    "large-256": SiglipConfig(
        image_tower(image_size=256, dim=1024, depth=24, heads=16, hidden_dim=4096),
        text_tower(dim=1024, depth=24, heads=16, hidden_dim=4096),
        1024,
    ),
    "siglip2-base-256": SiglipConfig(image_tower(image_size=256), text_tower(vocab_size=256000), padding=0),
    "siglip2-base-naflex": SiglipConfig(
        image_tower(image_size=256, any_shape=True), text_tower(vocab_size=256000), padding=0
    ),
}


class Siglip(TokenMaps, Model):
    """Both towers, the learned temperature (`scale` is its inverse's logarithm) and bias."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        c = self.config = config
        if c.embed_dim != c.image.dim:
            raise InputError(f"the text head is {c.embed_dim} wide, the image tower {c.image.dim}: they must agree")
        self.image = VitTrunk(c.image)
        self.pool = ProbePooling(c.image.dim, c.image.heads, c.image.hidden_dim, c.image.eps, c.image.activation)
        self.text = TextTrunk(c.text)
        self.head = nn.Linear(c.text.dim, c.embed_dim)
        self.scale = Parameter(torch.full((1,), math.log(10.0)))
        self.bias = Parameter(torch.full((1,), -10.0))
        self.contrast = SigmoidContrastive()

    @property
    def input_spec(self) -> InputSpec:
        c = self.config
        image = ImageSpec(c.image.image)
        if c.image.any_shape:
            limits = {"patch": c.image.patch, "limit": c.max_patches}
            image = replace(image, resize="patches", interpolation="bilinear", **limits)
        return InputSpec(TextSpec(c.text.vocab_size, c.text.positions), image)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Rows, pooled vectors and vectors of unit length of the parts that the batch has, "image" and "text".

        Rows of "text" are those of its own pieces. With `record`: "image.{i}.attention", "image.{i}.hidden", the same
        of "text", and "pool.attention" [B, H, 1, L], what the probe reads.
        """
        kept: Record | None = {} if record else None
        tokens: dict[str, Packed] = {}
        pooled: dict[str, Tensor] = {}
        if batch.images is not None:
            tokens["image"], pooled["image"] = self.read_image(batch.images, kept)
        if batch.text is not None:
            ids = batch.text.ids
            states, last = self.read_text(ids, kept)
            own = ids.layout.item * self.config.text.positions + ids.layout.position
            tokens["text"], pooled["text"] = ids.with_values(states.values[own]), self.head(last)
        vectors = {name: F.normalize(vector, dim=-1) for name, vector in pooled.items()}
        return Encoding(tokens, pooled, vectors, kept or {})

    def read_image(self, images: Images, record: Record | None = None) -> tuple[Packed, Tensor]:
        """Rows after the final norm, and what the probe reads of them [B, dim]."""
        rows = self.image(images, record=record)
        return rows, self.pool(rows, record)

    def read_text(self, ids: Packed, record: Record | None = None) -> tuple[Packed, Tensor]:
        """Rows after the final norm, padding included, and the last of each text [B, dim], before the head."""
        full, last = last_rows(ids, self.config.text.positions, self.config.padding)
        states = self.text(full, record=record)
        return states, states.values[last]

    def similarities(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, M] of unit vectors."""
        return self.scale.exp() * (image @ text.T) + self.bias

    def token_rows(self, batch: Batch) -> TokenRows:
        """Words by the head of the last row, patches as the probe would read each alone, and what it reads."""
        if batch.images is None or batch.text is None:
            raise InputError("maps need a text with each image")
        seen, grids = self.encode(batch, record=True), self.grids(batch)
        words, rows = seen.tokens["text"], seen.tokens["image"]
        pieces = words.with_values(self.head(words.values))
        patches = rows.with_values(self.pool.alone(rows.values))
        return TokenRows(pieces, patches, seen.pooled["image"], seen.record["pool.attention"], 0, grids)

    def grids(self, batch: Batch) -> list[tuple[int, int]]:
        """Rows and columns of patches of each image."""
        assert batch.images is not None
        if not self.config.image.any_shape:
            return [self.config.image.grid_size] * len(batch.images)
        return [(rows, columns) for rows, columns in self.image.cut(batch.images).grids.tolist()]

    # -------------------------------------------------------------------------------------------------- training
    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The sigmoid loss of all pairs of all processes (algorithm 1)."""
        del draws
        if batch.images is None or batch.text is None:
            raise InputError("SigLIP trains on pairs: this batch lacks images or texts")
        vectors = self.encode(batch).vectors
        return {"sigmoid": self.loss(vectors["image"], vectors["text"], batch.ids)}

    def loss(self, image: Tensor, text: Tensor, ids: Tensor | None = None) -> Tensor:
        """The loss for unit vectors [B, dim] of this process."""
        return self.contrast(image, text, self.scale.exp(), self.bias, ids).squeeze()


def exact_gelu(config: SiglipConfig) -> SiglipConfig:
    """The configuration with the GELU of OpenCLIP's towers."""
    return replace(config, image=replace(config.image, activation="gelu"), text=replace(config.text, activation="gelu"))


SYSTEM = System(
    name="siglip",
    title="SigLIP and SigLIP 2: sigmoid loss for language image pre-training",
    paper="Zhai et al., ICCV 2023, arXiv 2303.15343; Tschannen et al., 2025, arXiv 2502.14786",
    model=Siglip,
    config=SiglipConfig,
    sizes=SIZES,
    weights={
        "original": original,
        "original_stacked": original_stacked,
        "transformers": transformers,
        "open_clip": open_clip,
    },
    for_layout={"open_clip": exact_gelu},
    objectives=("sigmoid",),
    position_tables={"image.positions": "bilinear_antialias"},
    with_image_size=lambda config, size: replace(config, image=config.image.at(size)),
)
