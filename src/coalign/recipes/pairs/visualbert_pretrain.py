"""Pre-train VisualBERT on your own pairs of images and texts, with regions of the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from coalign.data.regions.regions import RegionSet
from coalign.recipes.pairs._vl_pretrain import RegionPretrain


@dataclass(frozen=True, kw_only=True)
class Recipe(RegionPretrain):
    """Pre-trains VisualBERT: masked words with regions in view, and whether text and image belong together (3.3)."""

    system: ClassVar[str] = "visualbert"
    out: Path = Path("runs/visualbert-pretrain")
    """The run's folder."""

    def of_regions(self, width: int, sample: RegionSet) -> dict[str, Any]:
        del sample
        return {"region_width": width}
