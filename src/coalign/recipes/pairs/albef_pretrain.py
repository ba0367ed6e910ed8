"""Pre-train ALBEF on your own pairs of images and texts, from pixels and fresh weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coalign.recipes.pairs._vl_pretrain import PixelPretrain


@dataclass(frozen=True, kw_only=True)
class Recipe(PixelPretrain):
    """Pre-trains ALBEF: contrast, matching with hard negatives, masked words, momentum distillation (section 3)."""

    system: ClassVar[str] = "albef"
    lr_multipliers: ClassVar[Mapping[str, float]] = {"temperature": 0.1}  # at the rates of small models it runs away
    out: Path = Path("runs/albef-pretrain")
    """The run's folder."""

    def config(self, **settings: Any) -> Any:
        return super().config(**settings, alpha_steps=max(self.steps * 3 // 10, 1), warm_momentum=True)
