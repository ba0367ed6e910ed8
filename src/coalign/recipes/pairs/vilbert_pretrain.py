"""Pre-train ViLBERT on your own pairs of images and texts, with regions of the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coalign.data.regions.regions import RegionSet
from coalign.recipes.pairs._vl_pretrain import RegionPretrain


@dataclass(frozen=True, kw_only=True)
class Recipe(RegionPretrain):
    """Pre-trains ViLBERT: masked words and regions, and whether text and image belong together (section 2.2)."""

    system: ClassVar[str] = "vilbert"
    out: Path = Path("runs/vilbert-pretrain")
    """The run's folder."""

    def of_regions(self, width: int, sample: RegionSet) -> dict[str, Any]:
        if "classes" not in sample:  # then hidden regions are told by their features
            return {"region_width": width, "region_target": "features", "region_targets": width}
        return {"region_width": width, "region_targets": int(sample["classes"].shape[1])}
