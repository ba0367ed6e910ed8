"""The pre-norm text trunk of dual encoders: CLIP's, SigLIP's, CoCa's.

Words and learned positions are summed without a norm and pass through pre-norm blocks, causal in CLIP, and the final
norm. Which row stands for the text is the system's matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.attention import Activation
from coalign.layers.transformer import BlockConfig, Encoder
from coalign.ops.attention import Mask
from coalign.types import Packed, Record


@dataclass(frozen=True)
class TextConfig:
    """Sizes; the defaults are those of CLIP's ViT-B (Radford et al. 2021, section 2.4)."""

    vocab_size: int = 49408
    positions: int = 77
    dim: int = 512
    depth: int = 12
    heads: int = 8
    hidden_dim: int = 2048
    eps: float = 1e-5
    activation: Activation = "quick_gelu"
    causal: bool = True

    @property
    def block(self) -> BlockConfig:
        return BlockConfig(self.dim, self.heads, self.hidden_dim, norm="pre", eps=self.eps, activation=self.activation)


class TextTrunk(nn.Module):
    """Word ids to rows [T, dim]; weights start as CLIP's do (section 2.5: deviations by depth and width)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        c = self.config = config
        self.word = nn.Embedding(c.vocab_size, c.dim)
        self.position = nn.Embedding(c.positions, c.dim)
        self.encoder = Encoder(c.block, c.depth)
        nn.init.normal_(self.word.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.01)
        init_by_depth(self.encoder, c.dim, c.depth)

    def forward(self, ids: Packed, *, record: Record | None = None, name: str = "text.") -> Packed:
        """States after the final norm. `record` gets "{name}embedded" and what `Encoder` records.

        Errors: `InputError` for a text that is longer than the position table.
        """
        if ids.max_length > self.config.positions:
            raise InputError(f"a text has {ids.max_length} pieces, the model {self.config.positions} positions")
        x = self.word(ids.values) + self.position(ids.layout.position)
        if record is not None:
            record[f"{name}embedded"] = x
        mask = Mask.within(ids, 1 if self.config.causal else None)
        return ids.with_values(self.encoder(x, mask, record=record, name=name))


def init_by_depth(encoder: Encoder, dim: int, depth: int) -> None:
    """CLIP's initialiser: attention dim^-1/2, branches' outputs (2 depth dim)^-1/2, MLP (2 dim)^-1/2; biases zero."""
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif name.endswith(("out.weight", "down.weight")):
            nn.init.normal_(parameter, std=(2 * depth * dim) ** -0.5)
        elif name.endswith("up.weight"):
            nn.init.normal_(parameter, std=(2 * dim) ** -0.5)
        elif "norm" not in name:
            nn.init.normal_(parameter, std=dim**-0.5)


def rows_of_marker(ids: Packed, marker: int | None) -> Tensor:
    """[B] the row of each text's end marker: the first of its id, or of the largest where `marker` is None (CLIP)."""
    scores = ids.values if marker is None else (ids.values == marker).long()
    place = ids.with_values(scores).to_padded(fill=-1).argmax(1)
    return ids.layout.first + place


def last_rows(ids: Packed, width: int, padding: int) -> tuple[Packed, Tensor]:
    """The texts padded to `width` with the id `padding`, as rows that are attended to, and each text's last row [B]
    (SigLIP, whose texts always have the length of the position table)."""
    if ids.max_length > width:
        raise InputError(f"a text has {ids.max_length} pieces, the model {width} positions")
    full = Packed.uniform(ids.to_padded(width, fill=padding))
    return full, torch.arange(1, len(ids) + 1, device=ids.values.device) * width - 1
