"""The sizes of a published X-VLM, read from the names and shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from coalign.models.xvlm.trunk import Objective, XvlmConfig
from coalign.trunks.bert import BertConfig
from coalign.trunks.swin import SwinConfig
from coalign.trunks.vit import VitConfig, clip_tower
from coalign.trunks.vit_sizes import PairHints, count, read_tower

_VISION, _WORDS = "vision_encoder.", "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Facts(PairHints):
    """Sizes beside shapes: the blocks that run on parts of an image alone, 4 in the authors' configurations of ViTs."""

    local_depth: int = 4
    text_eps: float = 1e-12


def of_weights(weights: Mapping[str, Tensor], facts: Facts | None = None) -> XvlmConfig | None:
    """The configuration of the authors' file; None where it is no X-VLM's."""
    facts = facts or Facts()
    bert = next((b for b in ("text_encoder.bert.", "text_encoder.") if b + _WORDS in weights), None)
    if bert is None or "vision_proj.weight" not in weights or not any(name.startswith(_VISION) for name in weights):
        return None
    swin = _swin(weights, facts)
    image = VitConfig() if swin is not None else _image(weights, facts)
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
        context_dim=image.dim if swin is None else swin.dim,
        cross_from=next((i for i in range(depth) if f"{layer}{i}.crossattention.self.key.weight" in weights), depth),
    )
    there: tuple[tuple[Objective, str], ...] = (
        ("mlm", "text_encoder.cls.predictions.bias"),
        ("box", "bbox_head.0.weight"),
    )
    objectives: tuple[Objective, ...] = ("itc", "itm", *(name for name, tensor in there if tensor in weights))
    embed_dim = weights["vision_proj.weight"].shape[0]
    local_depth = min(facts.local_depth, image.depth) if swin is None and image.class_token else 0
    return XvlmConfig(image, text, swin, embed_dim, local_depth, objectives)


def _swin(weights: Mapping[str, Tensor], facts: Facts) -> SwinConfig | None:
    """Swin's tower. Its heads are the columns of its tables; pictures have one window in the last stage, or the size
    that is told."""
    if f"{_VISION}layers.0.blocks.0.norm1.weight" not in weights:
        return None
    stages = range(count(weights, f"{_VISION}layers.{{}}."))
    tables = [weights[f"{_VISION}layers.{n}.blocks.0.attn.relative_position_bias_table"] for n in stages]
    width, _, patch, _ = weights[f"{_VISION}patch_embed.proj.weight"].shape
    window = (math.isqrt(tables[0].shape[0]) + 1) // 2
    return SwinConfig(
        facts.images[0][0] if facts.images else (patch << (len(stages) - 1)) * window,
        patch,
        width,
        tuple(count(weights, f"{_VISION}layers.{n}.blocks.{{}}.") for n in stages),
        tuple(table.shape[1] for table in tables),
        window,
        weights[f"{_VISION}layers.0.blocks.0.mlp.fc1.weight"].shape[0] / width,
    )


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
