"""The accuracy of visual question answering (Antol et al. 2015, section 3)."""

from __future__ import annotations

from coalign.data.questions.vqa import Question, normalise_answer, one_line


def accuracy(answer: str, question: Question) -> float:
    """VQA's accuracy: the mean, over the ten people, of min(1, how many of the other nine gave the answer / 3).

    Answers are normalised (`data.vqa.normalise_answer`) where people disagree, and compared as they are where all
    agree (vqaEval.py of the data set's authors, as it was last mended). A lone person's answer, which that formula
    would never count, counts in full. A file that gives scores is believed.
    """
    if question.scores is not None:
        return max(question.scores.get(answer, 0.0), question.scores.get(normalise_answer(answer), 0.0))
    said, given = [one_line(one) for one in question.answers], one_line(answer)
    alone = len(said) == 1
    if alone or len(set(said)) > 1:
        said, given = [normalise_answer(one) for one in said], normalise_answer(given)
    same = [one == given for one in said]
    if alone:
        return float(same[0])
    count = sum(same)
    return sum(min(1.0, (count - own) / 3) for own in same) / len(said)
