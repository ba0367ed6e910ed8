"""The sizes of a DINOv2 tower: read from the names and shapes of its tensors, or from Hugging Face's config.json, and
written as that."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from coalign.errors import InputError
from coalign.models.dinov2.model import SIZES, DinoV2, DinoV2Config
from coalign.trunks.vit import VitConfig
from coalign.trunks.vit_sizes import SizeHints, described_square, read_tower, tower_sizes

_CHUNKED = re.compile(r"^blocks\.\d+\.(\d+)\.")
"""Blocks of files that number them within chunks too."""


def of_weights(weights: Mapping[str, Tensor], hints: SizeHints | None = None) -> DinoV2Config | None:
    """The configuration of a file of either layout; None where it is no DINOv2's. Heads are 64 wide by default."""
    hints = hints or SizeHints()
    weights = {_CHUNKED.sub(r"blocks.\1.", name): tensor for name, tensor in weights.items()}
    if "embeddings.mask_token" in weights and "encoder.layer.0.layer_scale1.lambda1" in weights:
        patch, table, block = (
            "embeddings.patch_embeddings.projection.weight",
            "embeddings.position_embeddings",
            "encoder.layer.{}.",
        )
        registers, scale, gated = "embeddings.register_tokens", "layer_scale1.lambda1", "mlp.weights_out.weight"
    elif "mask_token" in weights and "blocks.0.ls1.gamma" in weights:
        patch, table, block = "patch_embed.proj.weight", "pos_embed", "blocks.{}."
        registers, scale, gated = "register_tokens", "ls1.gamma", "mlp.w3.weight"
    else:
        return None
    dim = weights[patch].shape[0]
    swiglu = block.format(0) + gated in weights
    hidden = (
        weights[block.format(0) + gated].shape[1] if swiglu else weights[f"{block.format(0)}mlp.fc1.weight"].shape[0]
    )
    extra = weights[registers].shape[1] if registers in weights else 0
    known = [c.trunk.heads for c in SIZES.values() if c.trunk.dim == dim]
    trunk = VitConfig(
        **read_tower(weights, (patch, table, block), hints.images),
        heads=hints.heads or next(iter(known), max(dim // 64, 1)),
        hidden_dim=hidden,
        eps=hints.eps,
        registers=extra,
        layer_scale=1e-5 if block.format(0) + scale in weights else None,
        gated=swiglu,
    )
    return DinoV2Config(trunk, antialias=extra > 0, offset=0.0 if extra else 0.1)


def of_config(described: Mapping[str, Any]) -> DinoV2Config | None:
    """The configuration of Hugging Face's config.json, whose library resizes positions without the offset."""
    if described.get("model_type") not in ("dinov2", "dinov2_with_registers"):
        return None
    dim, gated = described.get("hidden_size", 768), bool(described.get("use_swiglu_ffn"))
    registers = described.get("num_register_tokens", 4) if described["model_type"] != "dinov2" else 0
    sizes = tower_sizes(described, 224, 14, 1e-6)
    sizes["hidden_dim"] = _hidden(dim, described.get("mlp_ratio", 4), gated)
    trunk = VitConfig(
        **sizes,
        registers=registers,
        layer_scale=1e-5,
        gated=gated,
    )
    return DinoV2Config(trunk, antialias=registers > 0, offset=0.0)


def to_config(model: DinoV2, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Hugging Face's config.json.

    Errors: `InputError` for images that are no squares, and for a hidden width that no whole multiple gives.
    """
    del classes
    config = model.config
    c = config.trunk
    name = "Dinov2WithRegisters" if c.registers else "Dinov2"
    return {
        "architectures": [f"{name}Model"],
        "model_type": "dinov2_with_registers" if c.registers else "dinov2",
        **described_square(c),
        "hidden_size": c.dim,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "mlp_ratio": _ratio(c),
        "layer_norm_eps": c.eps,
        "use_swiglu_ffn": c.gated,
        **({"num_register_tokens": c.registers} if c.registers else {}),
    }


def _ratio(config: VitConfig) -> int:
    """The whole number by which that library makes the hidden width of the width."""
    wanted, dim = config.hidden_dim, config.dim
    for ratio in (4, wanted // dim, round(wanted * 1.5 / dim)):
        if _hidden(dim, ratio, config.gated) == wanted:
            return ratio
    raise InputError(f"Hugging Face's library has no DINOv2 of width {dim} with {wanted} hidden numbers")


def _hidden(dim: int, ratio: int, gated: bool) -> int:
    hidden = dim * ratio
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden


OF_WEIGHTS, OF_CONFIG, TO_CONFIG = of_weights, of_config, to_config
