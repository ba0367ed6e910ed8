"""Pre-train LXMERT on your own pairs of images and texts, with regions of the images and questions about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from coalign.data.questions.items import Item
from coalign.data.questions.vqa import Question, answer_vocabulary, read_vqa, to_items
from coalign.data.regions.regions import RegionSet
from coalign.recipes.pairs._vl_pretrain import RegionPretrain


@dataclass(frozen=True, kw_only=True)
class Recipe(RegionPretrain):
    """Pre-trains LXMERT: masked words, objects, attributes and features, matching, and answers (section 3.1)."""

    system: ClassVar[str] = "lxmert"
    out: Path = Path("runs/lxmert-pretrain")
    """The run's folder."""
    questions: Path | None = None
    """Questions about the images, for image question answering: VQA v2's, or a file of LXMERT's."""
    annotations: Path | None = None
    """Their answers, where the questions' file has none: VQA v2's annotations."""
    least: int = 9
    """How often an answer must be the commonest one to be among those that are predicted."""

    @cached_property
    def read(self) -> tuple[list[Question], list[str]]:
        """The questions, and the answers there are."""
        found = [] if self.questions is None else read_vqa(self.questions, self.annotations)
        return found, answer_vocabulary(found, self.least) if found else []

    def asked(self) -> tuple[Sequence[Item], int]:
        questions, answers = self.read
        return to_items(questions, answers), len(answers)

    def of_regions(self, width: int, sample: RegionSet) -> dict[str, Any]:
        there = {"mlm": True, "itm": True, "features": True, "answers": bool(self.read[1])}
        there |= {"objects": "classes" in sample or "objects" in sample, "attributes": "attributes" in sample}
        settings: dict[str, Any] = {"region_width": width, "answers": max(len(self.read[1]), 1)}
        if "classes" in sample:  # the first is background
            settings["objects"] = int(sample["classes"].shape[1]) - 1
        return settings | {"objectives": tuple(name for name, given in there.items() if given)}
