"""The sizes of a published BLIP: read from the names and shapes of its tensors, or from Hugging Face's config.json, and
written as that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from coalign.errors import InputError
from coalign.models.blip.heads import BlipCaptioner, BlipMatching, BlipVqa
from coalign.models.blip.trunk import BlipConfig, text_tower
from coalign.trunks.vit import VitConfig
from coalign.trunks.vit_sizes import (
    PairHints,
    block_sizes,
    count,
    described_blocks,
    described_square,
    read_tower,
    tower_sizes,
)

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Facts(PairHints):
    """Sizes beside shapes."""

    image_eps: float = 1e-6
    text_eps: float = 1e-12


def of_weights(weights: Weights, facts: Facts | None = None) -> BlipConfig | None:
    """The configuration of a file of either layout; None where it is no BLIP's."""
    facts = facts or Facts()
    ours = "visual_encoder.pos_embed" in weights
    names = ("patch_embed.proj", "pos_embed", "blocks.{}.") if ours else _VISION
    file = "visual_encoder." if ours else "vision_model."
    bert = next((b for b in ("text_encoder.", "text_decoder.bert.") if f"{b}{_WORDS}" in weights), None)
    if bert is None or f"{file}{names[1]}" not in weights or f"{bert}{_SEGMENTS}" in weights:
        return None  # with segments it is ALBEF's
    patch, table, block = f"{file}{names[0]}.weight", file + names[1], file + names[2]
    width = weights[patch].shape[0]
    image = VitConfig(
        **read_tower(weights, (patch, table, block), facts.images),
        heads=facts.image_heads or max(width // 64, 1),
        hidden_dim=weights[f"{block.format(0)}mlp.fc1.weight"].shape[0],
        eps=facts.image_eps,
    )
    vocab_size, dim = weights[f"{bert}{_WORDS}"].shape
    text = text_tower(
        vocab_size=vocab_size,
        dim=dim,
        depth=count(weights, f"{bert}encoder.layer.{{}}."),
        heads=facts.text_heads or max(dim // 64, 1),
        hidden_dim=weights[f"{bert}encoder.layer.0.intermediate.dense.weight"].shape[0],
        positions=weights[f"{bert}embeddings.position_embeddings.weight"].shape[0],
        eps=facts.text_eps,
        context_dim=width,
    )
    settings: dict[str, Any] = {}
    if "text_proj.weight" in weights:
        settings["embed_dim"] = weights["text_proj.weight"].shape[0]
    if "image_queue" in weights:
        settings["queue_size"] = weights["image_queue"].shape[1]
    return BlipConfig(image, text, **settings)


_VISION = ("embeddings.patch_embedding", "embeddings.position_embedding", "encoder.layers.{}.")
_WORDS, _SEGMENTS = "embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"


def of_config(described: Mapping[str, Any]) -> BlipConfig | None:
    """The configuration of Hugging Face's config.json; absent fields have that library's defaults."""
    if described.get("model_type") != "blip":
        return None
    text, image = described.get("text_config") or {}, described.get("vision_config") or {}
    tower = VitConfig(**tower_sizes(image, 384, 16, 1e-5), activation=image.get("hidden_act", "gelu"))
    return BlipConfig(
        tower,
        text_tower(
            vocab_size=text.get("vocab_size", 30524),
            positions=text.get("max_position_embeddings", 512),
            activation=text.get("hidden_act", "gelu"),
            context_dim=tower.dim,
            **block_sizes(text, 1e-12, heads=8),
        ),
        embed_dim=described.get("image_text_hidden_size", 256),
        sep_id=text.get("sep_token_id", 102),
    )


def to_config(model: BlipMatching | BlipCaptioner | BlipVqa, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Hugging Face's config.json.

    Errors: `InputError` for what its library lacks: images that are no squares, and a question answerer whose image
    and text are not equally wide.
    """
    del classes
    kinds = {
        BlipMatching: "BlipForImageTextRetrieval",
        BlipCaptioner: "BlipForConditionalGeneration",
        BlipVqa: "BlipForQuestionAnswering",
    }
    config, image, text = model.config, model.config.image, model.config.text
    if isinstance(model, BlipVqa) and image.dim != text.dim:
        raise InputError(f"Hugging Face's library reads images as wide as texts: these are {image.dim} and {text.dim}")

    return {
        "architectures": [kinds[type(model)]],
        "model_type": "blip",
        "image_text_hidden_size": config.embed_dim,
        "vision_config": {**described_square(image), **described_blocks(image)},
        "text_config": {
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.positions,
            "encoder_hidden_size": image.dim,
            "bos_token_id": config.decode_id,
            "sep_token_id": config.sep_id,
            "pad_token_id": 0,
            **described_blocks(text),
        },
    }


OF_WEIGHTS, OF_CONFIG, TO_CONFIG = of_weights, of_config, to_config
