"""CLIP: Learning Transferable Visual Models From Natural Language Supervision (Radford et al., ICML 2021, arXiv
2103.00020).

An image tower and a text tower share no layer. Each gives one vector, of unit length; the cosine of the right pairs of
a batch shall exceed that of all others, in both directions. The image tower is a ViT with a norm before its blocks, or
a ResNet with attention pooling; the text tower is a causal transformer read at the end marker.

OpenAI's weights were trained with QuickGELU, most of OpenCLIP's under the same names with the exact GELU: `activation`
of both towers. A file says that it is OpenAI's by the three numbers in its archive; give `layout="openai"` for others
with QuickGELU. Departures: texts that share an id are all right answers; rows after a text's end are not computed; the
objective "filip" (Yao et al. 2022), which is not CLIP's, contrasts patches with words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.errors import InputError
from coalign.layers.token_maps import TokenMaps, TokenRows
from coalign.models.clip.names import open_clip, open_clip_custom, openai, transformers
from coalign.models.clip.resnet import ModifiedResNet, ResNetConfig
from coalign.objectives.contrastive import Contrastive
from coalign.objectives.late_interaction import TokenInteraction
from coalign.ops.collectives import in_group
from coalign.trunks.contrast import both_ways
from coalign.trunks.text import TextConfig, TextTrunk, init_by_depth, rows_of_marker
from coalign.trunks.vit import VitConfig, VitTrunk, clip_tower
from coalign.types import FREE, Batch, Draws, Encoding, Images, InputSpec, Model, Packed, Record, System
from coalign.types.spec import CLIP_MEAN, CLIP_STD, ImageSpec, TextSpec


@dataclass(frozen=True)
class ClipConfig:
    """Sizes; the defaults are those of ViT-B/32. With `resnet` the image tower is that, and `image` is not read.

    `end` is the id of the end marker, whose first place in a text is read; None reads the largest id, which is the end
    marker of CLIP's own vocabulary. `bias` adds a learned number to all similarities (some of OpenCLIP's). `mean` and
    `std` normalise pixels in [0, 1]. `locked` freezes the image tower, but not its projection (LiT, Zhai et al. 2022).
    """

    image: VitConfig = field(default_factory=lambda: clip_tower(patch_size=32))
    text: TextConfig = field(default_factory=TextConfig)
    embed_dim: int = 512
    resnet: ResNetConfig | None = None
    end: int | None = None
    bias: bool = False
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    locked: bool = False

    @property
    def picture(self) -> VitConfig | ResNetConfig:
        """The configuration of the tower that reads images."""
        return self.image if self.resnet is None else self.resnet


def _resnet(blocks: tuple[int, ...], width: int, heads: int, size: int, embed: int, text: int) -> ClipConfig:
    resnet = ResNetConfig(size, blocks, width, heads)
    return ClipConfig(text=_text(text), embed_dim=embed, resnet=resnet)


def _text(dim: int) -> TextConfig:
    return TextConfig(dim=dim, heads=dim // 64, hidden_dim=4 * dim)


_LARGE = clip_tower(patch_size=14, dim=1024, depth=24, heads=16, hidden_dim=4096)

SIZES = {
    "tiny": ClipConfig(
        clip_tower(image_size=64, patch_size=8, dim=192, depth=4, heads=3, hidden_dim=768),
        TextConfig(dim=192, depth=4, heads=3, hidden_dim=768),
        embed_dim=128,
    ),
    "vit-b-32": ClipConfig(),
    "vit-b-16": ClipConfig(clip_tower()),
    "vit-l-14": ClipConfig(_LARGE, _text(768), 768),
    "vit-l-14-336": ClipConfig(replace(_LARGE, image_size=336), _text(768), 768),
    "rn50": _resnet((3, 4, 6, 3), 64, 32, 224, 1024, 512),
    "rn101": _resnet((3, 4, 23, 3), 64, 32, 224, 512, 512),
    "rn50x4": _resnet((4, 6, 10, 6), 80, 40, 288, 640, 640),
}


class Clip(TokenMaps, Model):
    """Both towers and the learned temperature; `scale` is its inverse's logarithm."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        c = self.config = config
        if c.resnet is None:
            self.image: VitTrunk | ModifiedResNet = VitTrunk(c.image)
            self.image_projection = nn.Linear(c.image.dim, c.embed_dim, bias=False)
            init_by_depth(self.image.encoder, c.image.dim, c.image.depth)
            nn.init.normal_(self.image_projection.weight, std=c.image.dim**-0.5)
        else:
            self.image = ModifiedResNet(c.resnet, c.embed_dim)
            self.image_projection = nn.Identity()
        self.text = TextTrunk(c.text)
        self.text_projection = nn.Linear(c.text.dim, c.embed_dim, bias=False)
        nn.init.normal_(self.text_projection.weight, std=c.text.dim**-0.5)
        self.scale = Parameter(torch.tensor(math.log(1 / 0.07)))
        self.bias = Parameter(torch.tensor(-10.0)) if c.bias else None
        self.contrast, self.tokens = Contrastive(), TokenInteraction()
        self.image.requires_grad_(not c.locked)

    @property
    def input_spec(self) -> InputSpec:
        c = self.config
        image = ImageSpec(c.picture.image, c.mean, c.std, "crop")
        return InputSpec(TextSpec(c.text.vocab_size, c.text.positions), image)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Rows, projected vectors and vectors of unit length of the parts that the batch has, "image" and "text".

        With `record`: "image.{i}.attention", "image.{i}.hidden" and the same of "text".
        """
        kept: Record | None = {} if record else None
        tokens: dict[str, Packed] = {}
        pooled: dict[str, Tensor] = {}
        if batch.images is not None:
            tokens["image"], pooled["image"] = self.read_image(batch.images, kept)
        if batch.text is not None:
            tokens["text"], pooled["text"] = self.read_text(batch.text.ids, kept)
        vectors = {name: F.normalize(vector, dim=-1) for name, vector in pooled.items()}
        return Encoding(tokens, pooled, vectors, kept or {})

    def read_image(self, images: Images, record: Record | None = None) -> tuple[Packed, Tensor]:
        """Rows after the final norm, class token first (a ResNet's mean), and projected vectors [B, embed_dim]."""
        if isinstance(self.image, ModifiedResNet):
            if images.pixels is None:
                raise InputError("CLIP reads pixels, and the batch holds none")
            return self.image(images.pixels, record)
        rows = self.image(images, record=record)
        return rows, self.image_projection(rows.first)

    def read_text(self, ids: Packed, record: Record | None = None) -> tuple[Packed, Tensor]:
        """Rows after the final norm and the projected row of the end marker [B, embed_dim]."""
        states = self.text(ids, record=record)
        return states, self.text_projection(states.values[rows_of_marker(ids, self.config.end)])

    def similarities(self, image: Tensor, text: Tensor) -> Tensor:
        """Scaled cosines [B, M] of unit vectors."""
        logits = self.scale.exp() * (image @ text.T)
        return logits if self.bias is None else logits + self.bias

    def token_rows(self, batch: Batch) -> TokenRows:
        """Words and patches by the projections of their vectors, and the attention of the class row in the last block,
        of a ResNet that of its pooling."""
        if batch.images is None or batch.text is None:
            raise InputError("maps need a text with each image")
        seen = self.encode(batch, record=True)
        image, grid = seen.tokens["image"], self.config.picture.grid_size
        if isinstance(self.image, ModifiedResNet):
            first, attention = 1, seen.record["image.pool.attention"]
        else:
            first, attention = self.image.leading, seen.record[f"image.{self.image.config.depth - 1}.attention"]
        pieces, places = self.project_rows(seen)
        return TokenRows(pieces, places, seen.pooled["image"], attention, first, [grid] * len(image))

    def project_rows(self, seen: Encoding) -> tuple[Packed, Packed]:
        """The words' and the patches' rows by the projections of their vectors [., embed_dim]."""
        tower, words = self.image, seen.tokens["text"]
        first = 1 if isinstance(tower, ModifiedResNet) else tower.leading
        patches = Packed.uniform(seen.tokens["image"].to_padded()[:, first:])
        rows = tower.alone(patches.values) if isinstance(tower, ModifiedResNet) else patches.values
        pieces = words.with_values(self.text_projection(words.values))
        return pieces, patches.with_values(self.image_projection(rows))

    # -------------------------------------------------------------------------------------------------- training
    @torch.no_grad()
    def before_step(self) -> None:
        """The scale is kept below 100 (section 2.5)."""
        self.scale.clamp_(max=math.log(100.0))

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The contrastive loss of the pairs of all processes (figure 3), and on demand that of their tokens."""
        if batch.images is None or batch.text is None:
            raise InputError("CLIP trains on pairs: this batch lacks images or texts")
        wanted = ("contrastive",) if draws.only is None else draws.only
        seen, losses = self.encode(batch), dict[str, Tensor]()
        if "contrastive" in wanted:
            losses["contrastive"] = self.loss(seen.vectors["image"], seen.vectors["text"], batch.ids)
        if "filip" in wanted:
            words, patches = (rows.with_values(F.normalize(rows.values, dim=-1)) for rows in self.project_rows(seen))
            width = self.config.text.positions if in_group() else words.max_length  # the same in all processes
            padded, real = words.to_padded(width), words.padding_mask(width)
            losses["filip"] = self.tokens(patches.to_padded(), padded, real, self.scale.exp(), batch.ids)
        return losses

    def loss(self, image: Tensor, text: Tensor, ids: Tensor | None = None) -> Tensor:
        """The mean of both directions' cross-entropies for unit vectors [B, embed_dim] of this process."""
        return both_ways(self.contrast, self.similarities, image, text, ids)


def open_clip_arithmetic(config: ClipConfig) -> ClipConfig:
    """The configuration with the exact GELU of most of OpenCLIP's weights."""
    return replace(config, image=replace(config.image, activation="gelu"), text=replace(config.text, activation="gelu"))


def with_image_size(config: ClipConfig, size: int | Sequence[int]) -> ClipConfig:
    if config.resnet is None:
        return replace(config, image=config.image.at(size))
    sized = VitConfig().at(size)
    return replace(config, resnet=replace(config.resnet, image_size=sized.image_size, image_width=sized.image_width))


SYSTEM = System(
    name="clip",
    title="CLIP: learning transferable visual models from natural language supervision",
    paper="Radford et al., ICML 2021, arXiv 2103.00020",
    model=Clip,
    config=ClipConfig,
    sizes=SIZES,
    weights={
        "open_clip": open_clip,
        "open_clip_custom": open_clip_custom,
        "openai": openai,
        "transformers": transformers,
    },
    for_layout={"open_clip": open_clip_arithmetic, "open_clip_custom": open_clip_arithmetic},
    objectives=("contrastive", "filip"),
    position_tables=dict.fromkeys(("image.positions",), "bicubic_antialias"),
    with_image_size=with_image_size,
)
