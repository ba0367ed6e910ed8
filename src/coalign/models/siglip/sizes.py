"""The sizes of a published SigLIP: read from the names and shapes of its tensors, or from Hugging Face's config.json,
and written as that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from coalign.models.siglip.model import Siglip, SiglipConfig, image_tower, text_tower
from coalign.trunks.text import TextConfig
from coalign.trunks.vit import VitConfig
from coalign.trunks.vit_sizes import (
    PairHints,
    block_sizes,
    count,
    described_blocks,
    described_square,
    grid_of,
    tower_sizes,
)

Weights = Mapping[str, Tensor]

BIG_VOCABULARY = 100_000
"""SigLIP 2's vocabulary has 256,000 pieces, SigLIP's 32,000: it tells what texts are padded with."""


@dataclass(frozen=True)
class Facts(PairHints):
    """Sizes beside shapes: eps, the padding id and the sides of a patch too."""

    eps: float = 1e-6
    padding: int | None = None
    patch: tuple[int, int] | None = None


def of_weights(weights: Weights, facts: Facts | None = None) -> SiglipConfig | None:
    """The configuration of a file of any layout; None where it is no SigLIP's."""
    facts = facts or Facts()
    if "params/img/MAPHead_0/probe" in weights:
        return _big_vision(weights, facts)
    if "vision_model.head.probe" in weights:
        file, patch, positions = (
            "vision_model.",
            "embeddings.patch_embedding.weight",
            "embeddings.position_embedding.weight",
        )
        block, up = "encoder.layers.{}.", "mlp.fc1.weight"
        words = ("text_model.", "embeddings.token_embedding.weight", "embeddings.position_embedding.weight", block, up)
        head = "text_model.head.weight"
    elif "visual.trunk.attn_pool.latent" in weights:
        file, patch, positions = "visual.trunk.", "patch_embed.proj.weight", "pos_embed"
        block, up = "blocks.{}.", "mlp.fc1.weight"
        words = (
            "text.",
            "token_embedding.weight",
            "positional_embedding",
            "transformer.resblocks.{}.",
            "mlp.c_fc.weight",
        )
        head = "text.text_projection.weight"
    else:
        return None
    kernel, table = weights[file + patch], weights[file + positions]
    any_shape = kernel.dim() == 2
    own = _patch_of(kernel.shape[1], facts) if any_shape else (int(kernel.shape[2]), int(kernel.shape[3]))
    grid = grid_of(table.shape[-2], own, facts.images)
    image = _image(
        grid,
        own,
        any_shape,
        kernel.shape[0],
        count(weights, file + block),
        facts.image_heads,
        weights[file + block.format(0) + up].shape[0],
        facts.eps,
    )
    prefix, word, position, layer, mlp = words
    vocab_size, dim = weights[prefix + word].shape
    text = _text(
        vocab_size,
        weights[prefix + position].shape[0],
        dim,
        count(weights, prefix + layer),
        facts.text_heads,
        weights[prefix + layer.format(0) + mlp].shape[0],
        facts.eps,
    )
    return SiglipConfig(image, text, weights[head].shape[0], _padding(vocab_size, any_shape, facts))


def _big_vision(weights: Weights, facts: Facts) -> SiglipConfig:
    kernel, table = weights["params/img/embedding/kernel"], weights["params/img/pos_embedding"]
    any_shape = kernel.dim() == 2
    if any_shape:
        own = _patch_of(kernel.shape[0], facts)
        grid = (int(table.shape[0]), int(table.shape[1]))
    else:
        own = (int(kernel.shape[0]), int(kernel.shape[1]))
        grid = grid_of(table.shape[1], own, facts.images)

    def tower(file: str) -> tuple[int, int, int]:
        """Depth, heads and hidden width."""
        stacked = f"{file}encoderblock/LayerNorm_0/scale"
        block = f"{file}encoderblock/" if stacked in weights else f"{file}encoderblock_0/"
        depth = weights[stacked].shape[0] if stacked in weights else count(weights, f"{file}encoderblock_{{}}/")
        heads = weights[f"{block}MultiHeadDotProductAttention_0/query/bias"].shape[-2]
        return depth, heads, weights[f"{block}MlpBlock_0/Dense_0/bias"].shape[-1]

    depth, heads, hidden_dim = tower("params/img/Transformer/")
    image = _image(grid, own, any_shape, kernel.shape[-1], depth, heads, hidden_dim, facts.eps)
    depth, heads, hidden_dim = tower("params/txt/Encoder_0/")
    vocab_size, dim = weights["params/txt/Embed_0/embedding"].shape
    text = _text(vocab_size, weights["params/txt/pos_embedding"].shape[1], dim, depth, heads, hidden_dim, facts.eps)
    embed_dim = weights["params/txt/head/kernel"].shape[1]
    return SiglipConfig(image, text, embed_dim, _padding(vocab_size, any_shape, facts))


def _patch_of(numbers: int, facts: Facts) -> tuple[int, int]:
    """Height and width of patches of so many numbers: as described, or square."""
    side = math.isqrt(numbers // 3)
    return facts.patch if facts.patch and math.prod(facts.patch) * 3 == numbers else (side, side)


def _padding(vocab_size: int, any_shape: bool, facts: Facts) -> int:
    return (0 if any_shape or vocab_size > BIG_VOCABULARY else 1) if facts.padding is None else facts.padding


def _image(
    grid: tuple[int, int],
    patch: tuple[int, int],
    any_shape: bool,
    dim: int,
    depth: int,
    heads: int | None,
    hidden_dim: int,
    eps: float,
) -> VitConfig:
    return VitConfig(
        image_size=grid[0] * patch[0],
        image_width=grid[1] * patch[1],
        patch_size=patch[0],
        patch_width=patch[1],
        dim=dim,
        depth=depth,
        heads=heads or max(dim // 64, 1),
        hidden_dim=hidden_dim,
        eps=eps,
        activation="gelu_tanh",
        class_token=False,
        any_shape=any_shape,
    )


def _text(
    vocab_size: int, positions: int, dim: int, depth: int, heads: int | None, hidden_dim: int, eps: float
) -> TextConfig:
    return TextConfig(
        vocab_size, positions, dim, depth, heads or max(dim // 64, 1), hidden_dim, eps, "gelu_tanh", causal=False
    )


_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}


def of_config(described: Mapping[str, Any]) -> SiglipConfig | None:
    """The configuration of Hugging Face's config.json; absent fields have that library's defaults."""
    if described.get("model_type") not in ("siglip", "siglip2"):
        return None
    text, image = described.get("text_config") or {}, described.get("vision_config") or {}
    any_shape = described["model_type"] == "siglip2" and "num_patches" in image
    sizes = tower_sizes(image, 224, 16, 1e-6)
    if any_shape:
        side = math.isqrt(image["num_patches"])
        sizes |= {"image_size": side * sizes["patch_size"], "image_width": side * sizes["patch_width"]}
    vocab_size = text.get("vocab_size", 32000)
    activation, own_activation = (
        _ACTIVATIONS.get(tower.get("hidden_act", "gelu_pytorch_tanh"), "gelu_tanh") for tower in (image, text)
    )
    tower = image_tower(**sizes, activation=activation, any_shape=any_shape)
    own = text_tower(
        vocab_size=vocab_size,
        positions=text.get("max_position_embeddings", 64),
        **block_sizes(text, 1e-6),
        activation=own_activation,
    )
    width = text.get("projection_size", own.dim)
    return SiglipConfig(tower, own, width, text.get("pad_token_id", _padding(vocab_size, any_shape, Facts())))


def to_config(model: Siglip, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Hugging Face's config.json. Errors: `InputError` for images that are no squares, which its library lacks."""
    del classes
    config = model.config
    image, text = config.image, config.text
    kind = "siglip2" if image.any_shape else "siglip"
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}

    size = described_square(image)
    if image.any_shape:
        size = {"num_patches": math.prod(image.grid_size), "patch_size": size["patch_size"]}
    return {
        "architectures": ["Siglip2Model" if image.any_shape else "SiglipModel"],
        "model_type": kind,
        "vision_config": {
            "model_type": f"{kind}_vision_model",
            **size,
            **described_blocks(image, names[image.activation]),
        },
        "text_config": {
            "model_type": f"{kind}_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.positions,
            "projection_size": config.embed_dim,
            "pad_token_id": config.padding,
            **described_blocks(text, names[text.activation]),
        },
    }


OF_WEIGHTS, OF_CONFIG, TO_CONFIG = of_weights, of_config, to_config
