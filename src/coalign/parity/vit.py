"""Recorded cases of google-research/vision_transformer, and the layouts of timm and Hugging Face."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.layers.embeddings import Resize
from coalign.models.vit import Vit, VitClassifierConfig, VitConfig, original, original_linen, timm, transformers
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.types import Batch, Encoding, Images


def build(described: Described) -> tuple[nn.Module, StateMap]:
    weights = described.weights
    if "embedding/kernel" in weights:
        config = google_config(described)
        linen = any("/MlpBlock_0/" in name for name in weights)
        return Vit(config), original_linen(config) if linen else original(config)
    if "patch_embed.proj.weight" in weights:
        config = VitClassifierConfig(
            trunk_config(described, "", "blocks.{}."),
            classes=described.shape("head.weight")[0] if "head.weight" in weights else None,
            resize="bicubic_antialias",
        )
        return Vit(config), timm(config)
    prefix = "vit." if "vit.embeddings.cls_token" in weights else ""
    pooler = f"{prefix}pooler.dense.weight"
    config = VitClassifierConfig(
        trunk_config(described, prefix, f"{prefix}encoder.layer.{{}}."),
        classes=described.shape("classifier.weight")[0] if "classifier.weight" in weights else None,
        representation_dim=described.shape(pooler)[0] if pooler in weights else None,
    )
    return Vit(config), transformers(config)


def google_config(described: Described) -> VitClassifierConfig:
    """Sizes from the weights, so that a table of another grid than the images' is met as it is."""
    c, weights = described.config, described.weights
    height, width, _, dim = described.shape("embedding/kernel")
    if height != width:
        raise InputError(f"{described.path}: patches of {height}x{width} are not square")
    token = "cls" in weights
    rows, columns = grid_of(described, described.shape("Transformer/posembed_input/pos_embedding")[1] - token, height)
    query = next(name for name in weights if name.endswith("/query/kernel"))
    up = next(name for name in weights if name.endswith("/Dense_0/kernel"))
    trunk = VitConfig(
        image_size=rows * height,
        image_width=columns * height,
        patch_size=height,
        dim=dim,
        depth=described.count("Transformer/encoderblock_{}/"),
        heads=described.shape(query)[1],
        hidden_dim=described.shape(up)[1],
        activation="gelu_tanh",
        class_token=token,
    )
    return VitClassifierConfig(
        trunk,
        classes=described.shape("head/kernel")[1] if "head/kernel" in weights else None,
        pool="mean" if c.get("classifier") == "gap" or not token else "token",
        representation_dim=described.shape("pre_logits/kernel")[1] if "pre_logits/kernel" in weights else None,
        resize="bilinear_corners",
    )


def grid_of(described: Described, patches: int, patch_size: int) -> tuple[int, int]:
    """The images' own grid where the table has as many rows, a square one otherwise."""
    height, width = described.config.get("image") or (0, 0)
    if (height // patch_size) * (width // patch_size) == patches:
        return height // patch_size, width // patch_size
    side = math.isqrt(patches)
    return side, side


def trunk_config(described: Described, prefix: str, block: str) -> VitConfig:
    """The sizes of a timm or Hugging Face trunk, in the weights but for the heads: 64 wide unless the config says."""
    c = described.config
    hugging_face = f"{prefix}embeddings.cls_token" in described.weights
    names = (
        ("embeddings.patch_embeddings.projection", "embeddings.position_embeddings", "intermediate.dense")
        if hugging_face
        else ("patch_embed.proj", "pos_embed", "mlp.fc1")
    )
    dim, _, patch, _ = described.shape(f"{prefix}{names[0]}.weight")
    side = math.isqrt(described.shape(f"{prefix}{names[1]}")[1] - 1)
    return VitConfig(
        image_size=side * patch,
        patch_size=patch,
        dim=dim,
        depth=described.count(block),
        heads=c.get("num_heads") or c.get("heads") or c.get("num_attention_heads") or max(dim // 64, 1),
        hidden_dim=described.shape(f"{block.format(0)}{names[2]}.weight")[0],
        eps=c.get("layer_norm_eps") or c.get("norm_eps") or 1e-6,
    )


@torch.no_grad()
def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    del keep_padding  # images of one size have none
    assert isinstance(model, Vit)
    pixels = case.inputs["images_nhwc"].permute(0, 3, 1, 2)
    config, state = model.config, model.state_dict()

    def variant(config: VitClassifierConfig, resize: Resize) -> Vit:
        """The same weights, for this size of image."""
        other = Vit(replace(config, resize=resize)).eval()
        other.load_state_dict(state)
        other.resize(*pixels.shape[2:])
        return other

    google = variant(config, "bilinear_corners")
    timm_like = variant(replace(config, trunk=replace(config.trunk, activation="gelu")), "bicubic_antialias")
    batch = Batch(images=Images(pixels))
    seen, ported = google.encode(batch, record=True), timm_like.encode(batch)
    patches = google.trunk.patches(Images(pixels)).unflatten(1, google.trunk.config.grid_size)
    out: dict[str, Tensor] = {
        "patch_embedding": patches,
        "pre_logits": seen.pooled["image"],
        "posembed_scipy_order1": google.trunk.positions,
        "timm.pos_embed_resampled": timm_like.trunk.positions,
        **named(seen),
        **{f"timm_exact_gelu.{name}": output for name, output in named(ported).items()},
    }
    for i in range(google.trunk.config.depth):
        out[f"encoderblock_{i}"] = seen.tokens["image"].with_values(seen.record[f"image.{i}.hidden"]).to_padded()
    return out


def named(seen: Encoding) -> dict[str, Tensor]:
    out = {"encoded": seen.tokens["image"].to_padded()}
    return out | ({"logits": seen.pooled["logits"]} if "logits" in seen.pooled else {})


ADAPTOR = Adaptor(lambda d: d.system.lower() == "vit", build, run)
