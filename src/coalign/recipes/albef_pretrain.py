"""Pre-train ALBEF on your own pairs of images and texts, from pixels and fresh weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coalign.recipes._vl_pretrain import PixelPretrain


@dataclass(frozen=True, kw_only=True)
class Recipe(PixelPretrain):
    """Pre-trains ALBEF: contrast, matching with hard negatives, masked words, momentum distillation (section 3)."""

    system: ClassVar[str] = "albef"
    out: Path = Path("runs/albef-pretrain")
    """The run's folder."""

    def config(self, **settings: Any) -> Any:
        return super().config(**settings, alpha_steps=max(self.steps * 3 // 10, 1), warm_momentum=True)
