"""MAE: Masked Autoencoders Are Scalable Vision Learners (He et al., CVPR 2022, arXiv 2111.06377).

Three quarters of an image's patches are hidden. A ViT encodes the visible ones alone; a narrow decoder sees them
together with a mask token at every hidden place and predicts the hidden patches' pixels, each patch normalised by
itself. Positions are fixed sines and cosines. Afterwards the decoder is dropped: `fine_tuning` and `linear_probe`
give the paper's two ways of using the encoder, both a `Vit`.

Nothing departs from the original but the order of work: predictions for the loss are made at hidden patches only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.layers.initialise import zero_bias
from coalign.layers.sincos import sincos_positions
from coalign.layers.transformer import BlockConfig, Encoder
from coalign.models.mae.names import encoder, original, transformers
from coalign.models.vit.config import VitClassifierConfig
from coalign.models.vit.model import Vit
from coalign.models.vit.names import timm as classifier
from coalign.objectives.reconstruction import Reconstruction
from coalign.ops.attention import Mask
from coalign.trunks.vit import VitConfig, VitTrunk
from coalign.types import FREE, Batch, Draws, Encoding, Head, Images, InputSpec, Model, Packed, Record, System
from coalign.types.spec import IMAGENET_MEAN, IMAGENET_STD, ImageSpec


@dataclass(frozen=True)
class MaeConfig:
    """Sizes; the defaults are the paper's ViT-B pre-training (section 4, appendix A.1)."""

    trunk: VitConfig = field(default_factory=VitConfig)
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    decoder_hidden_dim: int = 2048
    mask_ratio: float = 0.75
    normalise_pixels: bool = True

    @property
    def decoder_block(self) -> BlockConfig:
        c = self.trunk
        return BlockConfig(
            self.decoder_dim,
            self.decoder_heads,
            self.decoder_hidden_dim,
            norm="pre",
            eps=c.eps,
            activation=c.activation,
            dropout=c.dropout,
        )


SIZES = {
    "mini": MaeConfig(
        VitConfig(image_size=32, patch_size=4, dim=96, depth=4, heads=3, hidden_dim=384),
        decoder_dim=64,
        decoder_depth=1,
        decoder_heads=2,
        decoder_hidden_dim=256,
    ),
    "small-128": MaeConfig(
        VitConfig(image_size=64, patch_size=8, dim=128, depth=4, heads=4, hidden_dim=512),
        decoder_dim=96,
        decoder_depth=2,
        decoder_heads=3,
        decoder_hidden_dim=384,
    ),
    "tiny": MaeConfig(
        VitConfig(image_size=64, patch_size=8, dim=192, depth=6, heads=3, hidden_dim=768),
        decoder_dim=96,
        decoder_depth=2,
        decoder_heads=3,
        decoder_hidden_dim=384,
    ),
    "base": MaeConfig(),
    "large": MaeConfig(VitConfig(dim=1024, depth=24, heads=16, hidden_dim=4096)),
    "huge": MaeConfig(VitConfig(patch_size=14, dim=1280, depth=32, heads=16, hidden_dim=5120)),
}


class Mae(Model):
    """The pre-training model. It encodes whole images too, for retrieval and analysis."""

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        c = self.config = config
        self.trunk = VitTrunk(c.trunk)
        self.to_decoder = nn.Linear(c.trunk.dim, c.decoder_dim)
        self.mask_token = Parameter(torch.zeros(1, 1, c.decoder_dim))
        self.decoder = Encoder(c.decoder_block, c.decoder_depth)
        self.predict = nn.Linear(c.decoder_dim, 3 * math.prod(c.trunk.patch))
        self.positions = self._fixed_positions(c.decoder_dim)
        self.trunk.positions = self._fixed_positions(c.trunk.dim)
        self.apply(init_mae)
        for token in (self.mask_token, self.trunk.class_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)
        self.reconstruction = Reconstruction(c.normalise_pixels)

    def _fixed_positions(self, dim: int) -> Parameter:
        table = sincos_positions(dim, self.config.trunk.grid_size, self.trunk.prefix)
        return Parameter(table[None], requires_grad=False)

    @property
    def prefix(self) -> int:
        """Rows of the decoder's positions before those of the patches."""
        return self.trunk.prefix

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the decoder's positions."""
        return self.trunk.grid_size

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(image=ImageSpec(self.config.trunk.image, IMAGENET_MEAN, IMAGENET_STD, "crop"))

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Rows "image" of whole images, their mean over the patches, and that at unit length.

        With `record`: "image.{i}.attention" [B, H, L, L] and "image.{i}.hidden" [T, dim].
        """
        kept: Record | None = {} if record else None
        tokens = self.trunk(images_of(batch), record=kept)
        pooled = tokens.to_padded()[:, self.trunk.prefix :].mean(1)
        return Encoding({"image": tokens}, {"image": pooled}, {"image": F.normalize(pooled, dim=-1)}, kept or {})

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The error at hidden patches. `choices` may hold what `draw` draws."""
        images = images_of(batch)
        noise = (draws.choices or self.draw(batch, draws.generator))["noise"]
        visible, hidden = self.hide(noise)
        states = self.decode(self.see(images, visible), torch.cat([visible, hidden], 1), at=hidden)
        return {"reconstruction": self.reconstruction(self.predict(states), rows_at(self.patchify(images), hidden))}

    def draw(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The random choice of a step: "noise" [B, N]; patches with the smallest stay visible."""
        pixels = pixels_of(images_of(batch))
        rows, columns = self.config.trunk.grid_size
        size = (pixels.shape[0], rows * columns)
        return {"noise": torch.rand(size, generator=generator, device=pixels.device)}

    def hide(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Patch numbers [B, K] that stay visible and [B, N - K] that are hidden, in the order of their noise [B, N]."""
        kept = int(noise.shape[1] * (1 - self.config.mask_ratio))
        order = noise.argsort(1)
        return order[:, :kept], order[:, kept:]

    def see(self, images: Images, visible: Tensor, record: Record | None = None) -> Packed:
        """Encoder rows of the visible patches [B, K], the class token before them; hidden ones are never computed."""
        rows = self.trunk.chosen(images, visible) + self.trunk.positions[0][self.trunk.prefix + visible]
        return self.trunk.encode(rows, record=record)

    def decode(self, latent: Packed, order: Tensor, record: Record | None = None, at: Tensor | None = None) -> Tensor:
        """Decoder states of all patches, or of those `at` [B, n]; `order` [B, N]: the visible, then the rest."""
        prefix = self.trunk.prefix
        rows = self.to_decoder(latent.values).unflatten(0, (len(latent), -1))
        seen = rows[:, prefix:]
        masks = self.mask_token.expand(len(latent), order.shape[1] - seen.shape[1], -1).to(rows.dtype)
        patches = rows_at(torch.cat([seen, masks], 1), order.argsort(1))
        packed = Packed.uniform(torch.cat([rows[:, :prefix], patches], 1) + self.positions)
        rows = packed.layout.first[:, None] + prefix + (order.sort(1).values if at is None else at)
        states = self.decoder(packed.values, Mask.within(packed), rows=rows, record=record, name="decoder.")
        return states.unflatten(0, rows.shape)

    def predictions(self, images: Images, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted pixels of every patch [B, N, P] and the mask [B, N], 1 where hidden.

        With normalised pixels a prediction is relative to its patch's own mean and deviation.
        """
        visible, hidden = self.hide(noise)
        states = self.decode(self.see(images, visible), torch.cat([visible, hidden], 1))
        return self.predict(states), torch.zeros_like(noise).scatter(1, hidden, 1.0)

    @torch.no_grad()
    def pictures(self, images: Images, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The images with hidden patches blank (0, the mean colour), and with them predicted; [B, 3, H, W] both.

        Normalised predictions get the mean and deviation of the true patch, which only a picture may know.
        """
        predicted, mask = self.predictions(images, noise)
        patches, hidden = self.patchify(images), mask.bool()[:, :, None]
        if self.config.normalise_pixels:
            predicted = predicted * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
        blank = self.unpatchify(patches.masked_fill(hidden, 0.0))
        return blank, self.unpatchify(torch.where(hidden, predicted, patches))

    @torch.no_grad()
    def rollout(self, images: Images) -> Tensor:
        """Rollout [B, rows, columns] to the mean over the patches (see `Vit.rollout`)."""
        return self.trunk.rollout(self.encode(Batch(images=images), record=True).record, by_token=False)

    def patchify(self, images: Images) -> Tensor:
        """Pixels [B, 3, H, W] as patches [B, N, P]: within one by row, column, colour."""
        (rows, columns), (height, width) = self.config.trunk.grid_size, self.config.trunk.patch
        cells = pixels_of(images).unflatten(3, (columns, width)).unflatten(2, (rows, height))
        return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """The images [B, 3, H, W] of patches [B, N, P]."""
        (rows, columns), (height, width) = self.config.trunk.grid_size, self.config.trunk.patch
        cells = patches.unflatten(2, (height, width, 3)).unflatten(1, (rows, columns))
        return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def images_of(batch: Batch) -> Images:
    if batch.images is None or batch.images.pixels is None:
        raise ValueError("this batch holds no images with the pixels that MAE rebuilds")
    return batch.images


def pixels_of(images: Images) -> Tensor:
    assert images.pixels is not None
    return images.pixels


def rows_at(rows: Tensor, numbers: Tensor) -> Tensor:
    """[B, n, D] rows of each item at these numbers [B, n]."""
    place = torch.arange(len(rows), device=rows.device)[:, None] * rows.shape[1] + numbers
    return rows.flatten(0, 1).index_select(0, place.flatten()).unflatten(0, place.shape)


def init_mae(module: nn.Module) -> None:
    """Xavier-uniform weights, zero biases; the patch embedding as the linear layer that it is (appendix A.1)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
    zero_bias(module)


# ------------------------------------------------------------------------------------------------------- after it
def fine_tuning(config: MaeConfig, classes: int = 1000, drop_path: float = 0.1) -> VitClassifierConfig:
    """The classifier of end-to-end fine-tuning: mean over the patches, then the norm (appendix A.1, table 9)."""
    trunk = replace(config.trunk, final_norm=False, drop_path=drop_path)
    return VitClassifierConfig(
        trunk,
        classes,
        pool="mean",
        resize="bicubic",
        label_smoothing=0.1,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        keep=0.875,
    )


def linear_probe(config: MaeConfig, classes: int = 1000) -> VitClassifierConfig:
    """A frozen encoder, BatchNorm without weights and a linear layer on the class token (appendix A.1, table 10)."""
    return VitClassifierConfig(
        config.trunk,
        classes,
        pool="token",
        probe=True,
        resize="bicubic",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        keep=0.875,
    )


SYSTEM = System(
    name="mae",
    title="MAE: masked autoencoders",
    paper="He et al., CVPR 2022, arXiv 2111.06377",
    model=Mae,
    config=MaeConfig,
    sizes=SIZES,
    weights={"original": original, "transformers": transformers},
    objectives=("reconstruction",),
    heads={
        "classification": Head(Vit, VitClassifierConfig, fine_tuning, {"original": classifier, "pretrained": encoder}),
        "linear_probe": Head(Vit, VitClassifierConfig, linear_probe, {"original": classifier, "pretrained": encoder}),
    },
    position_tables={"trunk.positions": "bicubic", "positions": "bicubic"},
    with_image_size=lambda config, size: replace(config, trunk=config.trunk.at(size)),
)
