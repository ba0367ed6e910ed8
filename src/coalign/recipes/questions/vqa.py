"""Fine-tune any system that answers questions about images on VQA v2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coalign.data.questions.vqa import LEAST, answer_vocabulary, read_answers, read_vqa, to_items
from coalign.flags import OptionalPath
from coalign.recipes._finetune import FineTune, Papers
from coalign.training.options import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes a system on VQA v2's questions, with soft scores of its answers (generated ones with ALBEF)."""

    head: ClassVar[str] = "vqa"
    papers: ClassVar[Papers] = {
        # configs/VQA.yaml: 8 epochs of VQA v2 (658,111 questions of train and val), without those of Visual Genome
        "albef": Schedule(
            steps=20_500, batch_size=256, lr=2e-5, warmup=400.0, final_lr=0.05, weight_decay=0.02, clip=None
        ),
        # run/vqa_finetune.bash: 4 epochs of train and most of val
        "lxmert": Schedule(steps=79_000, batch_size=32, lr=5e-5, decay="linear", clip=5.0),
        # config/train-vqa-base-4gpu.json: a step has 4 x 5 x 5,120 tokens; the head's rate is ten times this
        "uniter": Schedule(steps=6000, lr=8e-5, warmup=600.0, betas=(0.9, 0.98), decay="linear", clip=2.0),
        # section 3.2: 20 epochs of train and val (vlbert_tasks.yml)
        "vilbert": Schedule(steps=51_400, batch_size=256, lr=4e-5, decay="linear"),
        # section 4.3: 10 epochs of train and val; the head's rate is ten times this (vilt/config.py)
        "vilt": Schedule(steps=25_700, batch_size=256, lr=1e-4, betas=(0.9, 0.98), decay="linear", clip=None),
    }
    questions: Path
    """VQA v2's questions, or a file of LXMERT's."""
    annotations: OptionalPath = None
    """VQA v2's annotations; LXMERT's file has them itself."""
    answers: OptionalPath = None
    """The answers to choose from, as JSON or a published pickle. By default the data's commonest ones."""
    least_answers: int = LEAST
    """How many questions an answer must be the commonest of."""
    fine_tuning: FineTune

    def run(self) -> None:
        questions = read_vqa(self.questions, self.annotations)
        names = read_answers(self.answers) if self.answers else answer_vocabulary(questions, self.least_answers)
        evaluate = "--questions QUESTIONS --annotations ANNOTATIONS"
        self.fine_tuning.train("vqa", self.head, to_items(questions, names), evaluate, names)
