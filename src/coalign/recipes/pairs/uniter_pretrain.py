"""Pre-train UNITER on your own pairs of images and texts, with regions of the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coalign.data.regions.regions import RegionSet
from coalign.recipes.pairs._vl_pretrain import RegionPretrain


@dataclass(frozen=True, kw_only=True)
class Recipe(RegionPretrain):
    """Pre-trains UNITER: a step draws masked words, masked regions, or matching with word-region alignment (3.2)."""

    system: ClassVar[str] = "uniter"
    out: Path = Path("runs/uniter-pretrain")
    """The run's folder."""
    alignment_weight: float = 0.1
    """Weight of the word-region alignment by optimal transport beside matching; 0 leaves it out."""

    def of_regions(self, width: int, sample: RegionSet) -> dict[str, Any]:
        settings: dict[str, Any] = {"region_width": width, "alignment_weight": self.alignment_weight}
        if "classes" not in sample:  # then there is no distribution to predict
            return settings | {"objectives": ("itm", "mlm", "mrfr"), "ratios": (2.0, 2.0, 1.0)}
        drawn = {"objectives": ("itm", "mlm", "mrfr", "mrckl"), "ratios": (2.0, 2.0, 1.0, 1.0)}
        return settings | drawn | {"classes": int(sample["classes"].shape[1])}
