"""The sizes of a published CLIP: read from the names and shapes of its tensors, or from Hugging Face's config.json, and
written as that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from coalign.errors import InputError
from coalign.models.clip.model import Clip, ClipConfig
from coalign.models.clip.resnet import ResNetConfig
from coalign.trunks.text import TextConfig
from coalign.trunks.vit import clip_tower
from coalign.trunks.vit_sizes import (
    PairHints,
    block_sizes,
    count,
    described_blocks,
    described_square,
    grid_of,
    read_tower,
    tower_sizes,
)

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Facts(PairHints):
    """Sizes beside shapes: GELU, eps and the end marker's id too. Heads are 64 wide in OpenAI's code."""

    quick_gelu: bool = True
    eps: float = 1e-5
    end: int | None = None


def of_weights(weights: Weights, facts: Facts | None = None) -> ClipConfig | None:
    """The configuration of a file of any layout; None where it is no CLIP's."""
    facts = facts or Facts()
    transformers = "text_model.embeddings.token_embedding.weight" in weights
    if transformers and "vision_model.pre_layrnorm.weight" not in weights:
        return None
    if not transformers and not {"visual.proj", "visual.attnpool.positional_embedding"} & set(weights):
        return None
    prefix = "text_model." if transformers else "text." if "text.token_embedding.weight" in weights else ""
    names = (
        ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight", "encoder.layers.{}.", "mlp.fc1")
        if transformers
        else ("token_embedding.weight", "positional_embedding", "transformer.resblocks.{}.", "mlp.c_fc")
    )
    word, position, block, up = (prefix + names[0], prefix + names[1], prefix + names[2], names[3])
    vocab_size, dim = weights[word].shape
    activation = "quick_gelu" if facts.quick_gelu else "gelu"
    text = TextConfig(
        vocab_size,
        weights[position].shape[0],
        dim,
        count(weights, block),
        facts.text_heads or max(dim // 64, 1),
        weights[f"{block.format(0)}{up}.weight"].shape[0],
        facts.eps,
        activation,
    )
    end, bias = facts.end, "logit_bias" in weights
    if "visual.attnpool.positional_embedding" in weights:
        resnet = _resnet(weights, facts)
        embed_dim = weights["visual.attnpool.c_proj.weight"].shape[0]
        return ClipConfig(text=text, embed_dim=embed_dim, resnet=resnet, end=end, bias=bias)
    file = "vision_model." if transformers else "visual."
    patch = file + ("embeddings.patch_embedding.weight" if transformers else "conv1.weight")
    table = file + ("embeddings.position_embedding.weight" if transformers else "positional_embedding")
    block = file + ("encoder.layers.{}." if transformers else "transformer.resblocks.{}.")
    image = clip_tower(
        **read_tower(weights, (patch, table, block), facts.images),
        heads=facts.image_heads or max(weights[patch].shape[0] // 64, 1),
        hidden_dim=weights[f"{block.format(0)}{up}.weight"].shape[0],
        eps=facts.eps,
        activation=activation,
    )
    projection = weights["visual_projection.weight"].shape[0] if transformers else weights["visual.proj"].shape[1]
    return ClipConfig(image, text, projection, end=end, bias=bias)


def _resnet(weights: Weights, facts: Facts) -> ResNetConfig:
    width = weights["visual.layer1.0.conv1.weight"].shape[0]
    cells = weights["visual.attnpool.positional_embedding"].shape[0] - 1
    rows, columns = grid_of(cells, (32, 32), facts.images)
    stages = 0
    while f"visual.layer{stages + 1}.0.conv1.weight" in weights:
        stages += 1
    blocks = tuple(count(weights, f"visual.layer{n + 1}.{{}}.") for n in range(stages))
    across = None if columns == rows else 32 * columns
    return ResNetConfig(32 * rows, blocks, width, facts.image_heads or max(width * 32 // 64, 1), across)


def of_config(described: Mapping[str, Any]) -> ClipConfig | None:
    """The configuration of Hugging Face's config.json; absent fields have that library's defaults."""
    if described.get("model_type") != "clip":
        return None
    text, image = described.get("text_config") or {}, described.get("vision_config") or {}
    end = text.get("eos_token_id", 49407)
    return ClipConfig(
        clip_tower(**tower_sizes(image, 224, 32, 1e-5), activation=image.get("hidden_act", "quick_gelu")),
        TextConfig(
            text.get("vocab_size", 49408),
            text.get("max_position_embeddings", 77),
            **block_sizes(text, 1e-5, 512, 8),
            activation=text.get("hidden_act", "quick_gelu"),
        ),
        described.get("projection_dim", 512),
        end=None if end == 2 else end,  # 2 stands in old files, and means the largest id
    )


def to_config(model: Clip, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Hugging Face's config.json; its library has no ResNet in this place, and squares alone.

    Errors: `InputError` for a model of another kind.
    """
    del classes
    config = model.config
    if config.resnet is not None:
        raise InputError("Hugging Face's library knows no CLIP with a ResNet")
    image, text = config.image, config.text

    projection = {"projection_dim": config.embed_dim}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "vision_config": {**described_square(image), **described_blocks(image), **projection},
        "text_config": {
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.positions,
            "eos_token_id": 2 if config.end is None else config.end,
            **described_blocks(text),
            **projection,
        },
    }


OF_WEIGHTS, OF_CONFIG, TO_CONFIG = of_weights, of_config, to_config
