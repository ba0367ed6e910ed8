"""The sizes of a published MAE, read from the names and shapes of its tensors: the authors' or Hugging Face's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from coalign.models.mae.model import SIZES, MaeConfig
from coalign.trunks.vit_sizes import SizeHints, count, timm_trunk, transformers_trunk


def of_weights(
    weights: Mapping[str, Tensor], hints: SizeHints | None = None, decoder_heads: int | None = None
) -> MaeConfig | None:
    """The sizes of a file: of the whole auto-encoder, or of an encoder with the paper's decoder beside it.

    The decoder's heads, which shapes do not tell, are those of the size in `SIZES`, or else the paper's 16.
    """
    if "decoder.mask_token" in weights:
        trunk = transformers_trunk(weights, hints, "vit.")
        decoder, blocks, up = "decoder.", "decoder_layers", "intermediate.dense"
    elif "patch_embed.proj.weight" in weights:
        trunk = timm_trunk(weights, hints)
        decoder, blocks, up = "", "decoder_blocks", "mlp.fc1"
    else:
        return None
    if f"{decoder}decoder_embed.weight" not in weights:
        return MaeConfig(trunk)
    config = MaeConfig(
        trunk,
        decoder_dim=weights[f"{decoder}decoder_embed.weight"].shape[0],
        decoder_depth=count(weights, f"{decoder}{blocks}.{{}}."),
        decoder_hidden_dim=weights[f"{decoder}{blocks}.0.{up}.weight"].shape[0],
    )
    known = [c for c in SIZES.values() if replace(config, trunk=c.trunk, decoder_heads=c.decoder_heads) == c]
    return replace(config, decoder_heads=decoder_heads or (known[0].decoder_heads if known else 16))


OF_WEIGHTS = of_weights
