import random

import pytest
import torch

from coalign.data.texts.pretraining_text import (
    Example,
    Pieces,
    Plan,
    collate_examples,
    document_examples,
    hide_words,
    stream_examples,
)
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError

VOCABULARY = Pieces(range(100), 1, 2, 3, lambda piece: piece >= 90)
PLAN = Plan(max_length=24, short_probability=0.0)


def corpus(documents=6, sentences=5, seed=0):
    """Each document has pieces of its own: 10 d ... 10 d + 9."""
    rng = random.Random(seed)
    return [
        [[10 * d + rng.randint(0, 9) for _ in range(rng.randint(2, 7))] for _ in range(sentences)]
        for d in range(1, documents + 1)
    ]


def parts(example):
    """The two parts without special pieces, and what was there before hiding."""
    true = list(example.pieces)
    for place, label in zip(example.positions, example.labels, strict=True):
        true[place] = label
    cut = true.index(2)
    assert true[0] == 1 and true[-1] == 2
    assert example.types == [0] * (cut + 1) + [1] * (len(true) - cut - 1)
    return true[1:cut], true[cut + 1 : -1]


def test_second_parts_follow_or_are_of_another_document():
    examples = list(stream_examples(corpus(), VOCABULARY, PLAN, random.Random(0)))
    assert {example.is_random_next for example in examples} == {True, False}
    for example in examples:
        first, second = parts(example)
        assert len(example.pieces) <= 24
        assert first and second
        assert ({piece // 10 for piece in first} != {piece // 10 for piece in second}) == example.is_random_next


def test_half_of_the_second_parts_are_random():
    # two sentences fill an example, so that each could go either way
    documents = [[[10 + d % 8] * 11 for _ in range(40)] for d in range(40)]
    examples = list(stream_examples(documents, VOCABULARY, PLAN, random.Random(0)))
    share = sum(example.is_random_next for example in examples) / len(examples)
    assert 0.45 < share < 0.55


def test_unused_sentences_come_again():
    documents = [[[10], [11], [12]], [[20], [21], [22]]]
    for seed in range(20):
        examples = document_examples(documents, 0, VOCABULARY, Plan(24, hide=False), random.Random(seed))
        own = [piece for e in examples for part in parts(e) for piece in part if piece < 20]
        assert sorted(set(own)) == [10, 11, 12]
        if examples[0].is_random_next:
            assert len(examples) > 1


def test_small_corpora_are_defined():
    with pytest.raises(InputError, match="no document"):
        list(stream_examples([], VOCABULARY, PLAN, random.Random(0)))
    with pytest.raises(InputError, match="no document"):
        list(stream_examples([[], [[]]], VOCABULARY, PLAN, random.Random(0)))
    only = [[[10, 11, 12]]]
    (example,) = stream_examples(only, VOCABULARY, Plan(24, hide=False), random.Random(0))
    assert parts(example) == ([10, 11, 12], [10, 11, 12])  # nothing else to draw from
    assert example.is_random_next
    with pytest.raises(InputError, match="at least 5"):
        Plan(max_length=4)


def test_a_long_sentence_is_cut():
    (example,) = document_examples([[[10] * 500], [[20] * 500]], 0, VOCABULARY, PLAN, random.Random(0))
    first, second = parts(example)
    assert len(first) + len(second) == 21 and abs(len(first) - len(second)) <= 1


def test_documents_are_held_a_window_at_a_time():
    taken = []

    def documents():
        for number, document in enumerate(corpus(8)):
            taken.append(number)
            yield document

    examples = stream_examples(documents(), VOCABULARY, PLAN, random.Random(0), window=2)
    next(examples)
    assert taken == [0, 1]
    assert len(list(examples)) > 6 and len(taken) == 8


def test_how_many_words_are_hidden_and_by_what():
    pieces = [1, *range(10, 90), 2]
    shares = {"mask": 0, "kept": 0, "other": 0}
    for seed in range(200):
        hidden, places, labels = hide_words(pieces, VOCABULARY, PLAN, random.Random(seed))
        assert len(places) == 12 and places == sorted(places)
        assert [pieces[place] for place in places] == labels
        for place, label in zip(places, labels, strict=True):
            shares["mask" if hidden[place] == 3 else "kept" if hidden[place] == label else "other"] += 1
    total = sum(shares.values())
    assert abs(shares["mask"] / total - 0.8) < 0.03
    assert abs(shares["kept"] / total - 0.1) < 0.02
    assert len(hide_words([1, 10, 2], VOCABULARY, PLAN, random.Random(0))[1]) == 1
    few = Plan(max_predictions=2)
    assert len(hide_words(pieces, VOCABULARY, few, random.Random(0))[1]) == 2


def test_whole_words():
    pieces = [1, 10, 90, 91, 11, 12, 92, 13, 2]
    plan = Plan(mask_probability=0.4, whole_word=True)
    for seed in range(50):
        _, places, _ = hide_words(pieces, VOCABULARY, plan, random.Random(seed))
        assert ({1, 2, 3} & set(places)) in (set(), {1, 2, 3})
        assert ({5, 6} & set(places)) in (set(), {5, 6})
        assert len(places) <= 4


def test_collate():
    examples = [
        Example([1, 10, 3, 2, 12, 2], [0, 0, 0, 0, 1, 1], False, [2], [11]),
        Example([1, 3, 2, 20, 2], [0, 0, 0, 1, 1], True, [1, 3], [21, 20]),
    ]
    batch = collate_examples(examples)
    assert batch.text is not None and batch.text.types is not None
    assert batch.text.ids.lengths.tolist() == [6, 5]
    assert batch.labels.next_sentence.tolist() == [0, 1]
    labels = batch.labels.mlm_labels
    assert labels[[2, 7, 9]].tolist() == [11, 21, 20]
    assert int((labels != -100).sum()) == 3
    plain = collate_examples([Example([1, 10, 2, 11, 2], [0, 0, 0, 1, 1], False)])
    assert plain.labels.mlm_labels is None


def test_pieces_of_a_tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "c"]
    vocabulary = Pieces.of(Tokenizer.from_vocabulary(words))
    assert (vocabulary.cls, vocabulary.sep, vocabulary.mask) == (2, 3, 4)
    assert [vocabulary.continues(id) for id in range(8)] == [False] * 6 + [True, False]
    assert list(vocabulary.vocabulary) == list(range(8))


def test_examples_train_a_bert():
    from coalign.models.bert.model import Bert, BertPretrainingConfig
    from coalign.trunks.bert import BertConfig

    trunk = BertConfig(vocab_size=100, dim=16, depth=1, heads=2, hidden_dim=16, positions=24)
    examples = list(stream_examples(corpus(), VOCABULARY, PLAN, random.Random(0)))[:4]
    losses = Bert(BertPretrainingConfig(trunk)).losses(collate_examples(examples))
    assert set(losses) == {"mlm", "nsp"}
    assert all(torch.isfinite(loss) for loss in losses.values())
