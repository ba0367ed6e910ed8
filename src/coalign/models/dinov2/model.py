"""DINOv2: Learning Robust Visual Features without Supervision (Oquab et al., TMLR 2024, arXiv 2304.07193), with the
registers of Darcet et al. (ICLR 2024, arXiv 2309.16588).

The released towers: a ViT with scales on its branches, in the largest with SwiGLU, and in the later ones with
registers, learned rows between the class token and the patches that take no position. An image may have any size that
is a multiple of the patch: the position table is resized to it. Its self-distillation is not trained here; the tower
serves frozen, for vectors, for dense maps, and as the image side of locked-image tuning.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parameter import Parameter

from coalign.errors import InputError
from coalign.models.dinov2.names import original, transformers
from coalign.trunks.vit import VitConfig, VitTrunk
from coalign.types import FREE, Batch, Draws, Encoding, Images, ImageSpec, InputSpec, Model, Packed, Record, System
from coalign.types.spec import IMAGENET_MEAN, IMAGENET_STD


def tower(dim: int, depth: int, heads: int, hidden_dim: int, *, registers: int = 0, gated: bool = False) -> VitConfig:
    return VitConfig(
        image_size=518,
        patch_size=14,
        dim=dim,
        depth=depth,
        heads=heads,
        hidden_dim=hidden_dim,
        registers=registers,
        layer_scale=1e-5,
        gated=gated,
    )


@dataclass(frozen=True)
class DinoV2Config:
    """Sizes; the defaults are those of ViT-B/14.

    Positions are resized bicubically: without registers by the factor (side + `offset`) / table side and without
    antialiasing, with registers to the exact size and with it.
    """

    trunk: VitConfig = field(default_factory=lambda: tower(768, 12, 12, 3072))
    antialias: bool = False
    offset: float = 0.1


def _both(
    dim: int, depth: int, heads: int, hidden_dim: int, name: str, *, gated: bool = False
) -> dict[str, DinoV2Config]:
    plain = DinoV2Config(tower(dim, depth, heads, hidden_dim, gated=gated))
    registers = DinoV2Config(tower(dim, depth, heads, hidden_dim, registers=4, gated=gated), antialias=True, offset=0.0)
    return {name: plain, f"{name}-registers": registers}


SIZES = {
    "tiny": DinoV2Config(replace(tower(192, 4, 3, 768, registers=4), image_size=70), antialias=True, offset=0.0),
    **_both(384, 12, 6, 1536, "small"),
    **_both(768, 12, 12, 3072, "base"),
    **_both(1024, 24, 16, 4096, "large"),
    **_both(1536, 40, 24, 4096, "giant", gated=True),
}


class DinoV2(Model):
    """The tower and its mask token, which stands for hidden patches."""

    def __init__(self, config: DinoV2Config) -> None:
        super().__init__()
        self.config = config
        self.trunk = VitTrunk(config.trunk)
        self.mask_token = Parameter(torch.zeros(1, config.trunk.dim))

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(image=ImageSpec(self.config.trunk.image, IMAGENET_MEAN, IMAGENET_STD, "crop", keep=0.875))

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Rows "image" after the final norm (class token, registers, patches), the class token's as the vector.

        With `record`: "image.{i}.attention" [B, H, L, L] and "image.{i}.hidden" [T, dim].
        """
        if batch.images is None:
            raise InputError("DINOv2 reads images, and the batch holds none")
        kept: Record | None = {} if record else None
        rows = self.read(batch.images, record=kept)
        first = rows.first
        return Encoding({"image": rows}, {"image": first}, {"image": F.normalize(first, dim=-1)}, kept or {})

    def read(self, images: Images, hidden: Tensor | None = None, record: Record | None = None) -> Packed:
        """Rows after the final norm. `hidden` [B, N] marks patches that the mask token replaces."""
        pixels = images.pixels
        if pixels is None:
            raise InputError("DINOv2 reads pixels, and the batch holds none")
        rows = self.trunk.patch(pixels)
        if hidden is not None:
            rows = torch.where(hidden.bool()[:, :, None], self.mask_token.to(rows.dtype), rows)
        return self.trunk.encode(rows + self.positions(pixels.shape[2], pixels.shape[3]), record=record)

    def positions(self, height: int, width: int) -> Tensor:
        """Positions [1, N, dim] of the patches of an image of that size."""
        patches = self.trunk.positions[:, self.trunk.prefix :]
        (rows, columns), patch = self.trunk.grid_size, self.config.trunk.patch
        grid = height // patch[0], width // patch[1]
        if grid == (rows, columns):
            return patches
        table = patches.float().unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        offset, antialias = self.config.offset, self.config.antialias
        if offset:
            factor = (grid[0] + offset) / rows, (grid[1] + offset) / columns
            table = F.interpolate(table, scale_factor=factor, mode="bicubic", antialias=antialias)
        else:
            table = F.interpolate(table, grid, mode="bicubic", antialias=antialias)
        return table.flatten(2).transpose(1, 2).to(patches.dtype)

    def dense(self, images: Images) -> Tensor:
        """Patch rows as a map [B, dim, rows, columns]."""
        assert images.pixels is not None
        patch = self.config.trunk.patch
        grid = tuple(side // own for side, own in zip(images.pixels.shape[2:], patch, strict=True))
        return self.read(images).to_padded()[:, self.trunk.leading :].transpose(1, 2).unflatten(2, grid)

    # -------------------------------------------------------------------------------------------------- training
    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """None: the towers are used as they were released."""
        del batch, draws
        raise InputError("DINOv2 is not trained here: its towers serve frozen")


def resizing(config: DinoV2Config) -> str:
    """How `load(image_size=...)` resizes the table, which the forward pass otherwise does by itself."""
    return "bicubic_antialias" if config.antialias else "bicubic"


SYSTEM = System(
    name="dinov2",
    title="DINOv2: learning robust visual features without supervision, with registers",
    paper="Oquab et al., TMLR 2024, arXiv 2304.07193; Darcet et al., ICLR 2024, arXiv 2309.16588",
    model=DinoV2,
    config=DinoV2Config,
    sizes=SIZES,
    weights={"original": original, "transformers": transformers},
    position_tables={"trunk.positions": resizing},
    with_image_size=lambda config, size: replace(config, trunk=config.trunk.at(size)),
)
