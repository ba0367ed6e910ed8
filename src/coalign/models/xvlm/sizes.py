"""The sizes of a published X-VLM with a ViT, read from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from coalign.errors import InputError
from coalign.models.xvlm.trunk import Objective, XvlmConfig
from coalign.trunks.bert import BertConfig
from coalign.trunks.vit import VitConfig, clip_tower
from coalign.trunks.vit_sizes import PairHints, count, read_tower

_VISION, _WORDS = "vision_encoder.", "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Facts(PairHints):
    """Sizes beside shapes: the blocks that run on parts of an image alone, 4 in the authors' configurations of ViTs."""

    local_depth: int = 4
    text_eps: float = 1e-12


def of_weights(weights: Mapping[str, Tensor], facts: Facts | None = None) -> XvlmConfig | None:
    """The configuration of the authors' file; None where it is no X-VLM's.

    Errors: `InputError` for a Swin tower, which is not read.
    """
    facts = facts or Facts()
    bert = next((b for b in ("text_encoder.bert.", "text_encoder.") if b + _WORDS in weights), None)
    if bert is None or "vision_proj.weight" not in weights or not any(name.startswith(_VISION) for name in weights):
        return None
    if f"{_VISION}layers.0.blocks.0.norm1.weight" in weights:
        raise InputError("this X-VLM has a Swin tower, which is not read; those with a ViT (DeiT's, CLIP's) are")
    image = _image(weights, facts)
    vocab_size, dim = weights[bert + _WORDS].shape
    layer, depth = f"{bert}encoder.layer.", count(weights, f"{bert}encoder.layer.{{}}.")
    text = BertConfig(
        vocab_size=vocab_size,
        dim=dim,
        depth=depth,
        heads=facts.text_heads or max(dim // 64, 1),
        hidden_dim=weights[f"{layer}0.intermediate.dense.weight"].shape[0],
        positions=weights[f"{bert}embeddings.position_embeddings.weight"].shape[0],
        types=weights[f"{bert}embeddings.token_type_embeddings.weight"].shape[0],
        eps=facts.text_eps,
        context_dim=image.dim,
        cross_from=next((i for i in range(depth) if f"{layer}{i}.crossattention.self.key.weight" in weights), depth),
    )
    there: tuple[tuple[Objective, str], ...] = (
        ("mlm", "text_encoder.cls.predictions.bias"),
        ("box", "bbox_head.0.weight"),
    )
    objectives: tuple[Objective, ...] = ("itc", "itm", *(name for name, tensor in there if tensor in weights))
    embed_dim = weights["vision_proj.weight"].shape[0]
    local_depth = min(facts.local_depth, image.depth) if image.class_token else 0
    return XvlmConfig(image, text, embed_dim, local_depth, objectives)


def _image(weights: Mapping[str, Tensor], facts: Facts) -> VitConfig:
    """DeiT's tower, with our names for one without a class token too, or CLIP's."""
    clip = f"{_VISION}pos_embed.weight" in weights
    names = ("patch_embed.weight", "pos_embed.weight", "encoder.layers.{}.")
    patch, table, block = names if clip else ("patch_embed.proj.weight", "pos_embed", "blocks.{}.")
    token = clip or f"{_VISION}cls_token" in weights
    where = (_VISION + patch, _VISION + table, _VISION + block)
    read: dict[str, Any] = read_tower(weights, where, facts.images, int(token))
    read["heads"] = facts.image_heads or max(read["dim"] // 64, 1)
    read["hidden_dim"] = weights[f"{_VISION}{block.format(0)}mlp.fc1.weight"].shape[0]
    return clip_tower(**read) if clip else VitConfig(**read, class_token=token)


OF_WEIGHTS = of_weights
