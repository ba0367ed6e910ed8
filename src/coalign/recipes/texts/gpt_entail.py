"""Fine-tune GPT: a premise and a hypothesis to a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coalign.evaluation.texts import encode_items, tell
from coalign.models.gpt.heads import GptClassifier
from coalign.recipes.texts._gpt import FINE_TUNING, PAPER, GptStart
from coalign.recipes.texts._texts import TextTable
from coalign.training.experiment import Experiment
from coalign.training.options import Epochs, RunOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tunes GPT to tell how a second text follows from a first (MNLI, QNLI, RTE, SNLI, any table of pairs)."""

    paper: ClassVar[Epochs] = PAPER
    texts: TextTable
    start: GptStart = GptStart()
    schedule: Epochs = FINE_TUNING
    options: RunOptions

    def run(self) -> None:
        data = self.texts.read(2)
        with Experiment("gpt-entail", self.options) as experiment:
            model, tokenizer = self.start.model(experiment, GptClassifier, data.all_texts, classes=data.outputs)
            encoded = encode_items(model, tokenizer, data.texts, data.labels)
            tell(data.rows.problems, len(data.rows), encoded.cut)
            about = {"task": "classification", "texts": 2, "labels": data.names}
            self.start.train(experiment, model, tokenizer, encoded, self.schedule, about)
            data.evaluate(experiment, model, tokenizer)
