"""Fine-tune any system that reads two images on NLVR2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from coalign.data.questions.nlvr2 import read_nlvr2
from coalign.recipes._finetune import FineTune, Papers
from coalign.training.options import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes a system on NLVR2: is the statement true of the two images?"""

    papers: ClassVar[Papers] = {
        # configs/NLVR.yaml: 10 epochs of 86,373 statements
        "albef": Schedule(
            steps=6700, batch_size=128, lr=2e-5, warmup=100.0, final_lr=0.05, weight_decay=0.02, clip=None
        ),
        # run/nlvr2_finetune.bash: 4 epochs
        "lxmert": Schedule(steps=10_800, batch_size=32, lr=5e-5, decay="linear", clip=5.0),
        # config/train-nlvr2-base-1gpu.json: a step has 10,240 tokens
        "uniter": Schedule(steps=8000, lr=3e-5, warmup=800.0, betas=(0.9, 0.98), decay="linear", clip=2.0),
        # section 4.3: 10 epochs
        "vilt": Schedule(steps=6700, batch_size=128, lr=1e-4, betas=(0.9, 0.98), decay="linear", clip=None),
    }
    data: Path
    """NLVR2's JSON lines, such as train.json."""
    form: Literal["nlvr2", "nlvr2_paired", "nlvr2_triplet"] = "nlvr2"
    """Which of UNITER's three heads: attention between both images' streams, their two [CLS], or one stream of both."""
    fine_tuning: FineTune

    @property
    def head(self) -> str:
        """The name of the system's head."""
        return self.form

    def run(self) -> None:
        self.fine_tuning.train("nlvr2", self.head, read_nlvr2(self.data), "--data DEV")
