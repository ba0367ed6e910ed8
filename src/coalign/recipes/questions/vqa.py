"""Fine-tune any system that answers questions about images on VQA v2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalign.data.questions.vqa import LEAST, answer_vocabulary, read_answers, read_vqa, to_items
from coalign.recipes.questions._finetune import ItemFineTune


@dataclass(frozen=True, kw_only=True)
class Recipe(ItemFineTune):
    """Fine-tunes a system on VQA v2's questions, with soft scores of its answers (generated ones with ALBEF)."""

    task = "vqa"

    questions: Path
    """VQA v2's questions, or a file of LXMERT's."""
    annotations: Path | None = None
    """VQA v2's annotations; LXMERT's file has them itself."""
    answers: Path | None = None
    """The answers to choose from, as JSON or a published pickle. By default the data's commonest ones."""
    least_answers: int = LEAST
    """How many questions an answer must be the commonest of."""

    def run(self) -> None:
        questions = read_vqa(self.questions, self.annotations)
        names = answer_vocabulary(questions, self.least_answers) if self.answers is None else read_answers(self.answers)
        next_flags = "--questions QUESTIONS --annotations ANNOTATIONS"
        self.train_items(to_items(questions, names), next_flags, names, len(names))
