"""Captions of held-out pictures against those that people wrote."""

from __future__ import annotations

from dataclasses import dataclass

from coalign.arguments import SEARCHED, Pairs, RunFolder, Writing, load_run, shows_progress
from coalign.errors import InputError
from coalign.evaluation.captions import Writer, in_batches, samples_of
from coalign.evaluation.result import TaskResult
from coalign.metrics.captions import cider
from coalign.progress import with_progress

SHOWN = 5
"""Captions that the result shows."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Captions: CIDEr-D against all texts of each picture; 10 would be every caption a reference's own words.

    Of data with splits "test" is taken unless --split says another. Beside it stands what the captions of other
    pictures reach, each picture given the next one's: what fluent words alone are worth.
    """

    run: RunFolder
    pairs: Pairs
    writing: Writing = SEARCHED
    batch_size: int = 16
    """Pictures at a time."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        loaded = load_run(self.run)
        writer, source = Writer(loaded, self.writing), self.pairs.open(prefer="test").grouped()
        captions: list[str] = []
        references: list[tuple[str, ...]] = []
        batches = in_batches(loaded, samples_of(source), self.batch_size)
        steps = -(-len(source) // self.batch_size)
        for part, images in with_progress(batches, "captioning", steps, shows_progress()):
            captions += writer.write(images)
            references += [sample.texts for sample in part]
        if len(captions) < 2:
            raise InputError(f"{self.pairs.data}: CIDEr weighs words by how many pictures have them; it needs two")
        score, _ = cider(captions, references)
        shifted, _ = cider([*captions[1:], captions[0]], references)
        examples = [{"caption": text, "texts": list(own)} for text, own in zip(captions, references, strict=True)]
        metrics = {"cider": score, "words": sum(len(text.split()) for text in captions) / len(captions)}
        return TaskResult(metrics, len(captions), {"cider, next picture's": shifted, "examples": examples[:SHOWN]})
