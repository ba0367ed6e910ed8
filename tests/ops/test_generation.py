"""Generation of texts against all texts there are."""

import itertools
import math

import pytest
import torch

from coalign.errors import InputError
from coalign.ops.generation import Generation, generate, nucleus

WORDS, END = 5, 4
TABLE = torch.randn(3, WORDS, WORDS, generator=torch.Generator().manual_seed(5)) * 2
"""Logits of the next word by item and last word."""


def step(ids, items):
    return TABLE[items, ids[:, -1]]


def log_probability(item, text):
    scores = TABLE[item].log_softmax(1)
    return sum(float(scores[a, b]) for a, b in itertools.pairwise(text))


def best_of_all(item, length, penalty):
    """The best of all texts from word 0, ended or cut off at `length`."""
    texts = []
    for n in range(length):
        for words in itertools.product([w for w in range(WORDS) if w != END], repeat=n):
            text = [0, *words]
            if len(text) == length:
                texts.append((log_probability(item, text) / len(text) ** penalty, text))
            else:
                texts.append((log_probability(item, [*text, END]) / len(text) ** penalty, [*text, END]))
    return max(texts)[1]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_with_beams_for_all_texts_the_search_finds_the_best(penalty):
    """Which it is not bound to with fewer, or where an early end stops it (length_penalty above 0)."""
    how = Generation(beams=256, max_length=5, length_penalty=penalty)
    found = generate(step, torch.zeros(3, 1, dtype=torch.int64), END, how)
    assert [text.tolist() for text in found] == [best_of_all(i, 5, penalty) for i in range(3)]


def test_one_beam_takes_the_likeliest_word_and_an_item_has_no_others():
    how = Generation(beams=1, max_length=6)
    found = generate(step, torch.zeros(3, 1, dtype=torch.int64), END, how)
    for item, text in enumerate(found):
        expected = [0]
        while len(expected) < 6 and expected[-1] != END:
            expected.append(int(TABLE[item, expected[-1]].argmax()))
        assert text.tolist() == expected
    for beams in (1, 3):
        whole = generate(step, torch.zeros(3, 1, dtype=torch.int64), END, Generation(beams=beams, max_length=6))
        alone = generate(lambda ids, items: step(ids, items + 2), torch.zeros(1, 1, dtype=torch.int64), END,
                         Generation(beams=beams, max_length=6))  # fmt: skip
        assert alone[0].tolist() == whole[2].tolist()


@pytest.mark.parametrize("beams", [1, 3])
def test_lengths_and_repetitions_are_held_to(beams):
    begin = torch.zeros(3, 1, dtype=torch.int64)
    found = generate(step, begin, END, Generation(beams=beams, max_length=8, min_length=6))
    assert all(6 < len(text) <= 8 if text[-1] == END else len(text) == 8 for text in found)
    never = Generation(beams=beams, max_length=4, min_length=4, repetition_penalty=1e9)
    positive = generate(lambda ids, items: step(ids, items) - 20, begin, END, never)
    assert all(len(set(text.tolist())) == len(text) for text in positive)


def test_nucleus_keeps_the_fewest_words_that_reach_the_share():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.05, 0.05, 0.85]]).log()
    assert nucleus(logits, 0.75).isfinite().tolist() == [[True, True, False, False], [False, False, False, True]]
    assert nucleus(logits, 1.0).isfinite().all()
    counts = torch.zeros(4)
    generator = torch.Generator().manual_seed(0)
    how = Generation(method="nucleus", top_p=0.75, max_length=2)
    begin = torch.zeros(400, 1, dtype=torch.int64)
    for text in generate(lambda ids, _: logits[:1].expand(len(ids), -1), begin, 3, how, generator):
        counts[text[1]] += 1
    assert counts[2:].sum() == 0
    assert abs(float(counts[0]) / 400 - 0.5 / 0.8) < 3 * math.sqrt(0.24 / 400)


def test_bad_settings_are_said():
    for given, said in (
        ({"beams": 0}, "beams is 0"),
        ({"min_length": 9, "max_length": 4}, "above max_length"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ):
        with pytest.raises(InputError, match=said):
            Generation(**given)
    with pytest.raises(InputError, match="the prompt has 3 ids"):
        generate(step, torch.zeros(1, 3, dtype=torch.int64), END, Generation(max_length=2))
