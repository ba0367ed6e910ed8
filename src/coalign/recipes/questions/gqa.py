"""Fine-tune a system with a head for it on GQA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coalign.data.questions.vqa import answer_vocabulary, read_answers, read_gqa, to_items
from coalign.flags import OptionalPath
from coalign.recipes._finetune import FineTune, Papers
from coalign.training.options import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes a system on GQA's questions."""

    head: ClassVar[str] = "gqa"
    papers: ClassVar[Papers] = {
        # run/gqa_finetune.bash: 4 epochs of the balanced train and val, 1,075,062 questions
        "lxmert": Schedule(steps=134_000, batch_size=32, lr=1e-5, decay="linear", clip=5.0),
    }
    questions: Path
    """GQA's questions, or a file of LXMERT's."""
    balanced: bool = True
    """Only questions of the balanced part."""
    answers: OptionalPath = None
    """The answers to choose from, as JSON or a published pickle. By default all of the data's."""
    fine_tuning: FineTune

    def run(self) -> None:
        questions = read_gqa(self.questions, self.balanced)
        names = answer_vocabulary(questions, 1) if self.answers is None else read_answers(self.answers)
        self.fine_tuning.train("gqa", self.head, to_items(questions, names), "--questions QUESTIONS", names)
