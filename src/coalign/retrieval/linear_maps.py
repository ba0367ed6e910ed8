"""Two linear maps on pooled frozen features, by InfoNCE: the least that an alignment has to beat."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coalign.objectives.contrastive import Contrastive
from coalign.ops.targets import matching_targets

BATCH = 256


class LinearMaps(nn.Module):
    """Images [N, a] and texts [N, b] to unit vectors [N, dim]."""

    def __init__(self, image_dim: int, text_dim: int, dim: int = 512) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.image(images), dim=-1), F.normalize(self.text(texts), dim=-1)


def train_linear_maps(
    images: Float[Tensor, "n a"],
    texts: Float[Tensor, "m v b"],
    ids: Int[Tensor, " n"],
    *,
    seed: int,
    steps: int = 600,
    rate: float = 1e-3,
) -> LinearMaps:
    """Maps trained on images whose texts are `texts[ids]`, one of the v of each drawn anew; ids are shared."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        maps = LinearMaps(images.shape[1], texts.shape[2])
    scale, objective = nn.Parameter(torch.tensor(2.66)), Contrastive()
    optimiser = torch.optim.AdamW([*maps.parameters(), scale], lr=rate, weight_decay=0.01)
    for _ in range(steps):
        rows = torch.randint(len(images), (min(BATCH, len(images)),), generator=generator)
        own = ids[rows]
        image, text = maps(images[rows], texts[own, torch.randint(texts.shape[1], own.shape, generator=generator)])
        similarity, target = image @ text.T * scale.exp(), matching_targets(own, own)
        loss = (objective(similarity, target) + objective(similarity.T, target)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return maps.eval()
