"""Fine-tune a system with a head for it on GQA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalign.data.questions.vqa import answer_vocabulary, read_answers, read_gqa, to_items
from coalign.recipes.questions._finetune import ItemFineTune


@dataclass(frozen=True, kw_only=True)
class Recipe(ItemFineTune):
    """Fine-tunes a system on GQA's questions."""

    task = "gqa"

    questions: Path
    """GQA's questions, or a file of LXMERT's."""
    balanced: bool = True
    """Only questions of the balanced part."""
    answers: Path | None = None
    """The answers to choose from, as JSON or a published pickle. By default all of the data's."""

    def run(self) -> None:
        questions = read_gqa(self.questions, self.balanced)
        names = answer_vocabulary(questions, 1) if self.answers is None else read_answers(self.answers)
        self.train_items(to_items(questions, names), "--questions QUESTIONS", names, len(names))
