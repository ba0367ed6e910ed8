"""Maps of a text's pieces over an image's patches, by the likeness of their vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from coalign.types import Packed


def token_patch_maps(words: Packed, patches: Packed, grids: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Cosines [L_i, rows_i, columns_i] of each text's pieces with the patches of its image, one map an item."""
    maps: list[Tensor] = []
    word, patch = F.normalize(words.values, dim=-1), F.normalize(patches.values, dim=-1)
    lengths = words.host_lengths.tolist(), patches.host_lengths.tolist()
    for own, rows, grid in zip(word.split(lengths[0]), patch.split(lengths[1]), grids, strict=True):
        maps.append((own @ rows.T).unflatten(1, grid))
    return maps
