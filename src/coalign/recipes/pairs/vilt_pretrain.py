"""Pre-train ViLT on your own pairs of images and texts: no detector, no regions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coalign.recipes.pairs._vl_pretrain import PixelPretrain


@dataclass(frozen=True, kw_only=True)
class Recipe(PixelPretrain):
    """Pre-trains ViLT: masked whole words, and matching with word-patch alignment (section 3.2)."""

    system: ClassVar[str] = "vilt"
    out: Path = Path("runs/vilt-pretrain")
    """The run's folder."""
    alignment_weight: float = 0.1
    """Weight of the word-patch alignment by optimal transport beside matching; 0 leaves it out."""

    def config(self, **settings: Any) -> Any:
        return super().config(**settings, alignment_weight=self.alignment_weight)
