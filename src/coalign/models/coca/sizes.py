"""The sizes of OpenCLIP's CoCa files, read from the names and shapes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from coalign.models.coca.trunk import CocaConfig, image_tower
from coalign.trunks.text import TextConfig
from coalign.trunks.vit_sizes import PairHints, count, read_tower

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Facts(PairHints):
    """Sizes beside shapes: the decoder's and the pooler's heads and eps too."""

    decoder_heads: int | None = None
    pooler_heads: int | None = None
    eps: float = 1e-5


def of_weights(weights: Weights, facts: Facts | None = None) -> CocaConfig | None:
    """The configuration of a file; None where it is no CoCa's."""
    facts = facts or Facts()
    if "visual.attn_pool.query" not in weights or "text.cls_emb" not in weights:
        return None
    vision, text, decoder = "visual.transformer.resblocks.{}.", "text.transformer.resblocks.{}.", "text_decoder."
    vocab_size, dim = weights["text.token_embedding.weight"].shape
    queries, embed_dim = weights["visual.attn_pool.query"].shape

    def hidden(block: str) -> int:
        return weights[f"{block.format(0)}mlp.c_fc.weight"].shape[0]

    image = image_tower(
        **read_tower(weights, ("visual.conv1.weight", "visual.positional_embedding", vision), facts.images),
        heads=facts.image_heads or max(weights["visual.conv1.weight"].shape[0] // 64, 1),
        hidden_dim=hidden(vision),
        eps=facts.eps,
    )
    heads = facts.text_heads or max(dim // 64, 1)
    positions = weights["text.positional_embedding"].shape[0]
    tower = TextConfig(vocab_size, positions, dim, count(weights, text), heads, hidden(text), facts.eps, "gelu")
    return CocaConfig(
        image,
        tower,
        embed_dim,
        queries,
        facts.pooler_heads or max(embed_dim // 64, 1),
        count(weights, f"{decoder}resblocks.{{}}."),
        facts.decoder_heads or heads,
        hidden(f"{decoder}resblocks.{{}}."),
        start=vocab_size - 2,
        end=vocab_size - 1,
        bias="logit_bias" in weights,
    )


OF_WEIGHTS = of_weights
