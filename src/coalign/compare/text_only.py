"""The text-only baseline: a linear classifier on words and word pairs, which sees no image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coalign.data.questions.nlvr2 import read_nlvr2
from coalign.data.questions.vqa import read_vqa
from coalign.extras import optional
from coalign.metrics.vqa import accuracy
from coalign.tasks.pairs.matching import read_triples

features = optional("sklearn.feature_extraction.text")
linear_model = optional("sklearn.linear_model")
pipeline = optional("sklearn.pipeline")

TASKS = ("vqa", "nlvr2", "matching")


def text_only(task: str, train: dict[str, Any], test: dict[str, Any]) -> float | None:
    """The figure of a task without its images: VQA's accuracy, NLVR2's accuracy, how often the right caption wins.

    `train` and `test` hold the files as the task's flags name them. None where the task has no such figure, or a file
    is lacking.
    """
    if task == "vqa" and all("questions" in part and "annotations" in part for part in (train, test)):
        questions = [read_vqa(Path(part["questions"]), Path(part["annotations"])) for part in (train, test)]
        said = [max(q.soft(), key=lambda a, q=q: q.soft()[a]) for q in questions[0]]
        given = _predicted([q.text for q in questions[0]], said, [q.text for q in questions[1]])
        return _mean([accuracy(answer, q) for answer, q in zip(given, questions[1], strict=True)])
    if task == "nlvr2" and all("data" in part for part in (train, test)):
        items = [read_nlvr2(Path(part["data"])) for part in (train, test)]
        texts = [[str(item.texts[0]) for item in part] for part in items]
        given = _predicted(texts[0], [str(item.target) for item in items[0]], texts[1])
        return _mean([float(answer == str(item.target)) for answer, item in zip(given, items[1], strict=True)])
    if task == "matching" and all(str(part.get("data", "")).endswith(".jsonl") for part in (train, test)):
        pairs = [
            [(str(item.texts[0]), str(item.texts[1])) for item, _ in read_triples(str(part["data"]))]
            for part in (train, test)
        ]
        model = _fitted([t for pair in pairs[0] for t in pair], ["right", "wrong"] * len(pairs[0]))
        scores = model.decision_function([text for pair in pairs[1] for text in pair]).reshape(-1, 2)
        return _mean([(right < wrong) + 0.5 * (right == wrong) for right, wrong in scores.tolist()])
    return None


def _predicted(texts: Sequence[str], labels: Sequence[str], tests: Sequence[str]) -> list[str]:
    if len(set(labels)) == 1:
        return [labels[0]] * len(tests)
    return _fitted(texts, labels).predict(tests).tolist()


def _fitted(texts: Sequence[str], labels: Sequence[str]) -> Any:
    words = features.CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"\S+")
    return pipeline.make_pipeline(words, linear_model.LogisticRegression(max_iter=1000)).fit(list(texts), list(labels))


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / max(len(numbers), 1)
