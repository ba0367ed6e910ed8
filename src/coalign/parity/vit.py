"""Recorded cases of google-research/vision_transformer, and the layouts of timm and Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.layers.embeddings import Resize
from coalign.models.vit.config import VitClassifierConfig
from coalign.models.vit.model import Vit
from coalign.models.vit.names import original, original_linen, timm, transformers
from coalign.models.vit.sizes import classifier_of, google_classifier
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.trunks.vit import sides
from coalign.trunks.vit_sizes import SizeHints
from coalign.types import Batch, Encoding, Images


def build(described: Described) -> tuple[nn.Module, StateMap]:
    weights = described.weights
    if "embedding/kernel" in weights:
        config = google_config(described)
        linen = any("/MlpBlock_0/" in name for name in weights)
        return Vit(config), original_linen(config) if linen else original(config)
    config = classifier_of(weights, size_hints(described))
    if config is None:
        raise InputError(f"{described.path}: has the names of no known ViT")
    return Vit(config), timm(config) if "patch_embed.proj.weight" in weights else transformers(config)


def google_config(described: Described) -> VitClassifierConfig:
    """Sizes from the weights, so that a table of another grid than the images' is met as it is."""
    try:
        config = google_classifier(described.weights, size_hints(described))
    except InputError as error:
        raise InputError(f"{described.path}: {error}") from None
    return replace(config, pool="mean") if described.config.get("classifier") == "gap" else config


def size_hints(described: Described) -> SizeHints:
    """Sizes in the case's description that shapes do not give."""
    c = described.config
    heads = c.get("num_heads") or c.get("heads") or c.get("num_attention_heads")
    return SizeHints(heads, c.get("layer_norm_eps") or c.get("norm_eps") or 1e-6, images_of(c))


IMAGE_FIELDS = ("ckpt_img_size", "ckpt_image_size", "image", "image_size", "img_size", "input_size", "image_resolution")
"""Names under which descriptions write the size of the images; a table's own come first."""


def images_of(config: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """Heights and widths of images that a description speaks of."""
    return tuple(sides(config[name]) for name in IMAGE_FIELDS if config.get(name))


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
    timm_like = variant(replace(config, trunk=replace(config.trunk, activation="gelu")), "bilinear")
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
