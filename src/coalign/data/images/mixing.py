"""Mixup and cutmix: a training batch of which every image is part one image and part another, and so are its labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2


@dataclass(frozen=True)
class Mixing:
    """How batches are mixed; 0 for both is not at all.

    Attributes:
        mixup: α of the Beta(α, α) by which two images are averaged (Zhang et al., 2018).
        cutmix: α of the Beta(α, α) of the area of one that is pasted into the other (Yun et al., 2019).
        chance: The share of batches that are mixed. Where both are on, each mixes half of these.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    chance: float = 1.0

    def __call__(
        self, pixels: Tensor, labels: Tensor, classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] and class numbers [B] to images and shares of the classes [B, classes].

        All randomness comes from `generator`; torch's own generator, which the transforms draw from, is put back.
        """
        kinds: list[v2.MixUp | v2.CutMix] = []
        if self.mixup > 0:
            kinds.append(v2.MixUp(alpha=self.mixup, num_classes=classes))
        if self.cutmix > 0:
            kinds.append(v2.CutMix(alpha=self.cutmix, num_classes=classes))
        if not kinds or float(torch.rand((), generator=generator)) >= self.chance:
            return pixels, torch.nn.functional.one_hot(labels, classes).float()
        kind = kinds[int(torch.randint(len(kinds), (), generator=generator))]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            mixed: tuple[Tensor, Tensor] = kind(pixels, labels)
        return mixed
