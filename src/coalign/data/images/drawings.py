"""Augmentation of drawings on white: turned, moved and recoloured, so that a shape counts more than a style."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def augment_drawings(drawings: Sequence[Tensor], generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Drawings on white, uint8 [3, h, w] of one size, to [0, 1]: up to 15 degrees, 20 % in size, 8 % in place; hue,
    saturation, tone."""
    pixels, size = torch.stack(list(drawings)).float() / 255, len(drawings)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(size, generator=generator) * (high - low) + low

    angle, scale, aspect = math.radians(15) * draw(-1.0, 1.0), draw(-0.22, 0.15).exp(), draw(-0.1, 0.1).exp()
    x, y, cos, sin = draw(-0.08, 0.08), draw(-0.08, 0.08), angle.cos() / scale, angle.sin() / scale
    affine = torch.stack([torch.stack([cos * aspect, -sin, x], 1), torch.stack([sin, cos / aspect, y], 1)], 1)
    places = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    moved = 1 - F.grid_sample(1 - pixels, places, align_corners=False)
    hue, tone = 0.35 * draw(-1.0, 1.0), draw(-0.35, 0.35).exp()[:, None, None]
    colour = torch.where(torch.rand(size, generator=generator) < 0.1, 0.0, draw(-0.7, 0.4).exp())[:, None, None]
    light, i, q = torch.einsum("ij,bjhw->ibhw", _YIQ, moved)
    cos, sin = hue.cos()[:, None, None], hue.sin()[:, None, None]
    turned = torch.stack([light.clamp(1e-3, 1) ** tone, colour * (cos * i - sin * q), colour * (sin * i + cos * q)])
    return torch.einsum("ij,jbhw->bihw", torch.linalg.inv(_YIQ), turned).clamp(0, 1)
