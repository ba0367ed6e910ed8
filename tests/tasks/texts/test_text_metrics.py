import pytest

from coalign.metrics.texts import (
    answer_f1,
    answer_scores,
    best_threshold,
    class_metrics,
    entity_metrics,
    normal_answer,
    score_metrics,
    squad_metrics,
    tag_accuracy,
)


def test_classes():
    two = class_metrics([1, 1, 0, 0], [1, 0, 0, 0], 2)
    assert two == pytest.approx({"accuracy": 0.75, "f1": 2 / 3, "matthews": 0.5773503})
    three = class_metrics([0, 1, 2, 2], [0, 1, 2, 1], 3)
    assert three["macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert class_metrics([1, 0], [1, 1], 2)["matthews"] == 0.0  # as scikit-learn defines it for one class


def test_scores():
    found = score_metrics([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 4.0, 9.0])
    assert found["spearman"] == pytest.approx(1.0)
    assert found["pearson"] == pytest.approx(0.9583148)
    assert found["mse"] == pytest.approx(10.0)
    assert score_metrics([1.0, 2.0], [3.0, 3.0])["pearson"] == 0.0


def test_entities_must_be_right_as_a_whole():
    truth = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG"]]
    guess = [["B-PER", "O", "O", "B-LOC"], ["B-PER", "B-ORG"]]
    found = entity_metrics(truth, guess)  # 2 of 4 found are right, 2 of 3 wanted
    assert found == pytest.approx({"precision": 0.5, "recall": 2 / 3, "f1": 4 / 7})
    assert tag_accuracy(truth, guess) == pytest.approx(4 / 6)
    assert entity_metrics([["O"]], [["O"]])["f1"] == 0.0


def test_answers_are_compared_as_the_official_script_does():
    assert normal_answer("The  Cat's, a hat!") == "cats hat"
    assert normal_answer("theatre") == "theatre"
    assert answer_f1("the big red cat", "red cat sat") == pytest.approx(2 / 3)  # 2 shared of 3 and of 3
    assert answer_f1("cat cat", "cat") == pytest.approx(2 / 3)  # each word counts as often as both have it
    assert answer_f1("", "") == 1.0 and answer_f1("", "x") == 0.0 and answer_f1("y", "x") == 0.0
    assert answer_scores("in 1999", ["1999", "the year 1999"]) == (0.0, pytest.approx(2 / 3))
    assert answer_scores("", []) == (1.0, 1.0)
    assert answer_scores("x", []) == (0.0, 0.0)


ANSWERS = {"a": ["Oslo"], "b": ["red cat", "cat"], "c": [], "d": []}


def test_squad_scores():
    found = squad_metrics(ANSWERS, {"a": "oslo.", "b": "a cat sat", "c": "", "d": "x"})
    assert found["exact_match"] == pytest.approx(50.0)  # a and c
    assert found["f1"] == pytest.approx(25 * (1 + 2 / 3 + 1))  # b: 1 of 2, 1 of 1 -> 2/3
    assert found["HasAns_exact_match"] == 50.0 and found["NoAns_f1"] == 50.0
    answered = {key: ANSWERS[key] for key in "ab"}
    assert squad_metrics(answered, {"a": "Oslo"}) == {"exact_match": 50.0, "f1": 50.0}  # b is missing


def test_threshold():
    predicted = {"a": "Oslo", "b": "dog", "c": "x", "d": "y"}
    # in the order of the odds: a +1, c -1, b 0, d -1; it starts at 2, with all unanswered
    odds = {"a": -3.0, "c": -2.0, "b": -1.0, "d": 4.0}
    assert best_threshold(ANSWERS, predicted, odds) == (75.0, -3.0)
    assert best_threshold(ANSWERS, predicted, {**odds, "a": 9.0}) == (50.0, 0.0)
